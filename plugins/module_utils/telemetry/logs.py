# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The programs' logs: lines for people, or JSON for what collects the logs of containers."""

from __future__ import annotations

import argparse
import collections.abc as c
import datetime
import enum
import json
import logging
import os
import sys
import typing as t

FORMAT_VARIABLE = "HYPER2KVM_LOG_FORMAT"
LEVEL_VARIABLE = "HYPER2KVM_LOG_LEVEL"
_LEVELS = ("debug", "info", "warning", "error")


class LogFormat(enum.Enum):
    """How a line of the log looks."""

    TEXT = "text"
    JSON = "json"


if t.TYPE_CHECKING:
    _Adapter = logging.LoggerAdapter[logging.Logger]
else:
    # Python 3.10 has no parameter for it.
    _Adapter = logging.LoggerAdapter


class JobLog(_Adapter):
    """Logs about one job: people read ``job NAME: …``, programs the fields ``job`` and ``attempt``."""

    def __init__(self, log: logging.Logger, job: str, attempt: int | None = None) -> None:
        """Log by ``log`` about the job of that name (with its namespace) and its attempt, where one was made."""
        super().__init__(log, {"job": job, **({} if not attempt else {"attempt": attempt})})

    def process(self, msg: str, kwargs: c.MutableMapping[str, t.Any]) -> tuple[str, c.MutableMapping[str, t.Any]]:
        """See :meth:`logging.LoggerAdapter.process`."""
        extra = self.extra or {}
        return f"job {extra['job']}: {msg}", {**kwargs, "extra": extra}


class JsonFormatter(logging.Formatter):
    """One JSON object a line: ``time`` (RFC 3339, UTC), ``level``, ``logger``, ``message``, ``pid``.

    About a job there are ``job`` and ``attempt`` as well, and of an exception its traceback as ``exception``.
    """

    def format(self, record: logging.LogRecord) -> str:
        """See :meth:`logging.Formatter.format`."""
        moment = datetime.datetime.fromtimestamp(record.created, datetime.timezone.utc)
        entry: dict[str, t.Any] = {
            "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name.rpartition(".module_utils.")[2],
            "message": record.getMessage(),
            "pid": record.process,
        }
        entry |= {field: getattr(record, field) for field in ("job", "attempt") if hasattr(record, field)}
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give a program the options that :func:`configure` takes, with the environment for what is not given."""
    parser.add_argument(
        "--log-format",
        choices=[one.value for one in LogFormat],
        default=os.environ.get(FORMAT_VARIABLE) or LogFormat.TEXT.value,
        help=f"lines for people, or JSON (default: {FORMAT_VARIABLE} in the environment, else text)",
    )
    parser.add_argument(
        "--log-level",
        choices=_LEVELS,
        default=os.environ.get(LEVEL_VARIABLE) or "info",
        help=f"the least that is logged (default: {LEVEL_VARIABLE} in the environment, else info)",
    )


def configure(form: str, level: str) -> None:
    """Log to standard error, in the format and from the level that :func:`add_options` took.

    Unknown names, which only the environment can give, mean the default: a log in the wrong format is better than none.
    """
    handler = logging.StreamHandler(sys.stderr)
    if form == LogFormat.JSON.value:
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=level.upper() if level in _LEVELS else logging.INFO, handlers=[handler], force=True)
