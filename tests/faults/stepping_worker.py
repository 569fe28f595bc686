# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A worker for the queue's campaign: the pretended pipeline of the unit tests, under a wall clock that jumps about.

Every worker's clock is another one, and each of its looks at it is up to a day off: leases, backoffs and takeovers must
not care.
"""

from __future__ import annotations

import datetime
import random
import sys
import time

from ansible_collections.hyper2kvm.core.plugins.module_utils.backends import host, local, local_worker, records
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol import status
from ansible_collections.hyper2kvm.core.plugins.module_utils.worker import agent, cli

from tests.unit.plugins.module_utils.worker.fake_worker import everything, pipeline

_DAY = 86400.0
_real_time = time.time


def _stepping_time() -> float:
    return _real_time() + random.uniform(-_DAY, _DAY)


def _stepping_now() -> datetime.datetime:
    return datetime.datetime.fromtimestamp(_stepping_time(), datetime.timezone.utc)


if __name__ == "__main__":
    time.time = _stepping_time
    for module in (host, local, local_worker, records, agent):
        module.now = _stepping_now  # type: ignore[attr-defined]
    agent.probe = everything
    status.BACKOFF_SECONDS = 0.2
    sys.exit(cli.main(pipeline=pipeline))
