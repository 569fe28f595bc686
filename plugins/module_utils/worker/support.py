# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A support bundle: what somebody who helps from afar has to see of a queue and its host, without secrets."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pathlib
import platform
import shutil
import subprocess
import tarfile
import time
import typing as t

from ..backends.local import LocalBackend
from ..protocol import errors
from ..telemetry import redaction
from ..telemetry.version import collection_version

#: Of all jobs together, the last ones.
MAX_EVENTS = 5000
_LOG_LINES = 2000
_UNIT = "hyper2kvm-worker"
_SECONDS = 30.0

README = """\
What hyper2kvm-worker support-bundle gathered on {host} at {time}.

about.json     version, host, free space
workers.json   the workers that are alive, and what they can do
jobs.json      all jobs: documents, status, why they wait, results without the guests' files
events.jsonl   the last {events} events
journal.txt    the last {lines} lines of the worker's log, where systemd keeps one
mounts.txt     what is mounted; loops.txt: which loop devices there are

Left out: files that jobs put into guests, scripts, diffs of guests' files, consoles, screenshots, the secrets root.
What looks like a password, a key or a token is replaced by {removed}. Names of VMs, hosts, paths and addresses are in
it. Look through it before you hand it on.
"""


def write_bundle(backend: LocalBackend, file: pathlib.Path, state_dir: pathlib.Path, output: pathlib.Path) -> list[str]:
    """Write the bundle to ``file`` (tar, gzip), and return the names of what is in it.

    Raises:
        JobError: the queue cannot be read; (environment) the file cannot be written.
    """
    members = _members(backend, state_dir, output)
    try:
        with (
            open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as stream,
            tarfile.open(fileobj=stream, mode="w:gz") as archive,
        ):
            for name, text in members.items():
                info = tarfile.TarInfo(f"hyper2kvm-support/{name}")
                content = text.encode("utf-8", "replace")
                info.size, info.mtime, info.mode = len(content), int(time.time()), 0o600
                archive.addfile(info, io.BytesIO(content))
    except OSError as error:
        raise errors.environment(
            "BundleUnwritable", f"{file} cannot be written: {error.strerror}.", "Give a file in a folder with room."
        ) from error
    return list(members)


def _members(backend: LocalBackend, state_dir: pathlib.Path, output: pathlib.Path) -> dict[str, str]:
    names = [job.metadata.key for job in backend.list()]
    jobs, events = [], []
    for name in names:
        # It may be deleted meanwhile.
        with contextlib.suppress(errors.JobError):
            waits = [reason.to_document() for reason in backend.explain(name)]
            jobs.append({**backend.get(name).to_document(), "waits": waits})
            events += backend.events(name)
    events.sort(key=lambda event: event.time)
    workers = [
        {**one.registration.to_document(), "running": dict(one.running), "silentSeconds": one.seconds_since_heartbeat}
        for one in backend.workers()
    ]
    told = {
        "README": README.format(
            host=platform.node(),
            time=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            events=MAX_EVENTS,
            lines=_LOG_LINES,
            removed=redaction.REMOVED,
        ),
        "about.json": _json(_about(state_dir, output)),
        "workers.json": _json(redaction.document(workers)),
        "jobs.json": _json(redaction.document(jobs)),
        "events.jsonl": "".join(
            json.dumps(redaction.document(event.to_document()), ensure_ascii=False) + "\n"
            for event in events[-MAX_EVENTS:]
        ),
        "mounts.txt": _file(pathlib.Path("/proc/self/mountinfo")),
        "loops.txt": _said("losetup", "--list"),
        "journal.txt": _said("journalctl", "--unit", _UNIT, "--lines", str(_LOG_LINES), "--no-pager"),
    }
    return {name: text if name.endswith(".json") else redaction.text(text) for name, text in told.items()}


def _about(state_dir: pathlib.Path, output: pathlib.Path) -> dict[str, t.Any]:
    return {
        "collection": collection_version(),
        "python": platform.python_version(),
        "system": dict(zip(("sysname", "nodename", "release", "version", "machine"), os.uname(), strict=True)),
        "processors": os.cpu_count(),
        "memory": _file(pathlib.Path("/proc/meminfo")).splitlines()[:3],
        "loadAverage": list(os.getloadavg()),
        "kvm": os.access("/dev/kvm", os.R_OK | os.W_OK),
        "folders": {str(one): _free(one) for one in (state_dir, output)},
        "programs": {
            one: shutil.which(one) is not None for one in ("qemu-img", "qemu-storage-daemon", "partclone.info")
        },
    }


def _free(folder: pathlib.Path) -> dict[str, int] | None:
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return None
    return {"totalBytes": usage.total, "freeBytes": usage.free}


def _file(path: pathlib.Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}\n"


def _said(*command: str) -> str:
    """Return what a program says, or why it does not."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{command[0]}: {error}\n"
    return done.stdout + done.stderr


def _json(value: t.Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True) + "\n"
