# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What arguments of the command ``hyper2kvm-worker`` mean: numbers, sizes, times, and the folders it works in."""

from __future__ import annotations

import argparse
import datetime
import math
import os
import pathlib
import re

from ..protocol.errors import invalid
from ..protocol.fields import moment
from .config import default_state_dir

#: Exit statuses.
OK, JOB_FAILED, BAD_INPUT = 0, 1, 2
CONTAINER_OUTPUT, _CONTAINER_STATE = "/data/output", "/data/state"
_AGES = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def positive(text: str) -> int:
    """Return a whole number, 1 or more."""
    return _at_least(1, text)


def two_or_more(text: str) -> int:
    """Return a whole number, 2 or more."""
    return _at_least(2, text)


def _at_least(least: int, text: str) -> int:
    number = int(text)
    if number < least:
        raise argparse.ArgumentTypeError(f"must be {least} or more")
    return number


def seconds(text: str) -> float:
    """Return the time that somebody wrote, in seconds: ``90s``, ``10m``, ``8h``, ``2d``."""
    if not text[:-1].isdigit() or text[-1:] not in _AGES:
        raise argparse.ArgumentTypeError(f"{text} is no time (90s, 10m, 8h, 2d)")
    return float(int(text[:-1]) * _AGES[text[-1]])


def byte_count(text: str) -> float:
    """Return the size that somebody wrote, in bytes: ``200MiB``, ``1.5TiB``, ``20TB``."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:([KMGTP])(i?))?B", text)
    if match is None or float(match[1]) == 0:
        raise argparse.ArgumentTypeError(f"{text} is no size (200MiB, 1.5TiB, 20TB)")
    power = " KMGTP".index(match[2] or " ")
    return float(match[1]) * math.pow(1024 if match[3] else 1000, power)


def since(text: str) -> int | datetime.datetime:
    """Return the sequence or the time (UTC) that somebody wrote: ``12``, ``90s``, ``10m``, ``2h``, ``3d``, RFC 3339."""
    if text.isdigit():
        return int(text)
    if text[:-1].isdigit() and text[-1] in _AGES:
        age = datetime.timedelta(seconds=int(text[:-1]) * _AGES[text[-1]])
        return datetime.datetime.now(datetime.timezone.utc) - age
    try:
        return moment(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text} is neither a sequence (12) nor an age (90s, 10m, 2h, 3d) nor a time (2026-05-01T22:00:00Z)"
        ) from None


def port(text: str) -> int:
    """Return a TCP port's number."""
    number = int(text)
    if not 0 <= number < 65536:
        raise argparse.ArgumentTypeError("must be a port, 0 to 65535")
    return number


# -- folders -----------------------------------------------------------------------------------------------------------


def folder(options: argparse.Namespace, name: str, fallback: str | None = None) -> pathlib.Path | None:
    """Return the folder of an option or of its environment variable, else ``fallback`` where that is there."""
    given = getattr(options, name, None) or os.environ.get(f"HYPER2KVM_{name.upper()}")
    if not given and fallback is not None and pathlib.Path(fallback).is_dir():
        given = fallback
    return pathlib.Path(given).absolute() if given else None


def output_root(options: argparse.Namespace) -> pathlib.Path:
    """Return where targets are written.

    Raises:
        JobError: nothing says where that is.
    """
    output = folder(options, "output_root", CONTAINER_OUTPUT)
    if output is None:
        raise invalid("NoOutputRoot", "No output root was given.", "Give --output-root or --state-dir.")
    return output


def state_dir(options: argparse.Namespace) -> pathlib.Path:
    """Return the folder of the queue.

    Raises:
        JobError: nothing says where that is.
    """
    given = folder(options, "state_dir")
    if given is None and folder(options, "output_root") is None and pathlib.Path(_CONTAINER_STATE).is_dir():
        return pathlib.Path(_CONTAINER_STATE)
    return given or default_state_dir(output_root(options))
