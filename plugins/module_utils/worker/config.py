# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A worker's settings, as given on its command line or by the program that starts it."""

from __future__ import annotations

import collections.abc as c
import dataclasses
import json
import os
import pathlib
import re

from ..backends.event_stream import Rotation
from ..protocol import errors, models
from .context import Roots

LEASE_SECONDS = 30.0
#: Of a worker that serves a cluster.
NODE_LEASE_SECONDS = 60.0
_STATE = ".hyper2kvm"


@dataclasses.dataclass(frozen=True)
class Config:
    """Where a worker works, and what it takes on."""

    roots: Roots
    state_dir: pathlib.Path
    slots: int = 2
    idle_seconds: float | None = None
    """End after this time without a job; None: never."""
    labels: dict[str, str] = dataclasses.field(default_factory=dict)
    accepts: models.Acceptance = dataclasses.field(default_factory=models.Acceptance)
    lease_seconds: float = LEASE_SECONDS
    """How long the worker may be silent before others may take its jobs over."""
    jobs_dir: pathlib.Path | None = None
    """A folder whose job documents the worker hands in by itself; None: there is none."""
    event_rotation: Rotation = dataclasses.field(default_factory=Rotation)
    """How much of the stream of all events is kept."""
    keeper: pathlib.Path | None = None
    """Of :mod:`.keeper`: the worker's leases begin when this file says so; None: whenever it renews them."""

    @property
    def roots_text(self) -> str:
        """The folders in a form that can be compared with another worker's."""
        folders = ("input", "output", "scratch", "secrets")
        return json.dumps({name: str(getattr(self.roots, name) or "") for name in folders}, sort_keys=True)


def default_state_dir(output: pathlib.Path) -> pathlib.Path:
    """Return where the queue of an output root is, unless told otherwise."""
    return output / _STATE


def make_roots(
    input_root: pathlib.Path,
    output: pathlib.Path,
    *,
    state_dir: pathlib.Path,
    scratch: pathlib.Path | None = None,
    secrets: pathlib.Path | None = None,
    target_devices: c.Iterable[str] = (),
    kernel_root: pathlib.Path | None = None,
) -> Roots:
    """Return the roots as resolved folders, making those that are ours to make (output and scratch).

    Raises:
        JobError: (environment) a folder is missing or cannot be made; (invalid) a pattern of devices is not absolute.
    """
    patterns = tuple(target_devices)
    for pattern in patterns:
        if not pattern.startswith("/"):
            raise errors.invalid(
                "InvalidDevicePattern", f"{pattern} is no absolute path.", "Write --target-device as /dev/vg0/*."
            )
    return Roots(
        input=_existing(input_root, "input root", "--input-root"),
        output=_made(output, "output root", "--output-root"),
        scratch=_made(state_dir / "scratch" if scratch is None else scratch, "scratch folder", "--scratch"),
        secrets=None if secrets is None else _existing(secrets, "secrets root", "--secrets-root"),
        target_devices=patterns,
        kernel_root=kernel_folder() if kernel_root is None else kernel_root,
    )


def kernel_folder() -> pathlib.Path:
    """Return what stands for ``/`` when a kernel for micro-VMs is looked for, unless a command line says otherwise."""
    return pathlib.Path(os.environ.get("HYPER2KVM_MICROVM_KERNEL") or "/")


def roots_of(roots: Roots, namespace: str | None) -> Roots:
    """Return the roots as a job of ``namespace`` has them: the folders of that name in them; themselves where None.

    Of the secrets root it may lack one: then there is no secret for that namespace.

    Raises:
        JobError: (environment) the input root has no such folder, the output root's cannot be made, or one is a link.
    """
    if namespace is None:
        return roots
    found = dataclasses.replace(
        roots,
        input=_existing(roots.input / namespace, f"input root of the namespace {namespace},", "what is mounted there"),
        output=_made(roots.output / namespace, f"output root of the namespace {namespace},", "what is mounted there"),
        secrets=None if roots.secrets is None else roots.secrets / namespace,
    )
    for root, inside in ((roots.input, found.input), (roots.output, found.output)):
        if inside != root / namespace:
            raise errors.environment(
                "RootUnusable",
                f"{root / namespace} is a link to {inside}; a namespace's root must be a folder of its own.",
                "Put a folder there.",
            )
    return found


def _existing(path: pathlib.Path, what: str, option: str) -> pathlib.Path:
    if not path.is_dir():
        raise errors.environment("RootMissing", f"The {what} {path} is no folder.", f"Create it or correct {option}.")
    return path.resolve()


def _made(path: pathlib.Path, what: str, option: str) -> pathlib.Path:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise errors.environment(
            "RootUnusable", f"The {what} {path} cannot be made: {error.strerror}.", f"Correct {option}."
        ) from error
    return path.resolve()


def worker_name(pid: int) -> str:
    """Return a worker's name: its host's and its PID, as a name that every part of the protocol takes."""
    host = re.sub(r"[^a-z0-9]+", "-", os.uname().nodename.lower()).strip("-")[:40] or "host"
    return f"{host}-{pid}"
