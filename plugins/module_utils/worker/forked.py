# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How a process that was forked of another one works and ends."""

from __future__ import annotations

import collections.abc as c
import logging
import os
import typing as t

from ..protocol.errors import JobError


def work_and_end(
    work: c.Callable[[], int], log: logging.Logger | logging.LoggerAdapter[t.Any], failed: int = 1
) -> t.NoReturn:
    """Do ``work`` in this process, a fork, and end it with the status that this returns; ``failed`` if it raises.

    Nothing that the parent set up is torn down in its copy: no exception passes, and no handler of an exit runs.
    """
    code = failed
    try:
        code = work()
    except JobError as error:
        log.error("%s", error)
    except BaseException:
        log.exception("the process failed")
    finally:
        logging.shutdown()
        os._exit(code)
