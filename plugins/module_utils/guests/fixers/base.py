# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What every fixer is, and what it is told."""

from __future__ import annotations

import dataclasses
import enum
import pathlib
import typing as t

from ...disks.model import Firmware, Nic
from ...protocol import models
from ...protocol.errors import invalid
from ..edits import Edits
from ..facts import GuestFacts

_SECRET_LIMIT = 1024**2


@dataclasses.dataclass(frozen=True)
class FixRequest:
    """What the job wants of the guest, and the hardware that it will find."""

    spec: models.GuestSpec
    nics: tuple[Nic, ...] = ()
    """The target's network cards, in the source's order."""
    firmware: Firmware = "bios"
    source_nics: tuple[Nic, ...] = ()
    """The source's, card for card; a card without a MAC is one whose address the source does not tell."""
    secrets: dict[str, str] = dataclasses.field(default_factory=dict)
    """The texts of the secrets that ``spec`` refers to, by ``<name>/<key>``; see :func:`read_secrets`."""
    secure_boot: bool = False
    """Whether the target's firmware enforces Secure Boot."""

    def secret(self, reference: models.SecretRef) -> str:
        """Return the text of a secret."""
        return self.secrets[f"{reference.name}/{reference.key}"]


def read_secrets(spec: models.GuestSpec, root: pathlib.Path | None) -> dict[str, str]:
    """Return the secrets that ``spec`` refers to, as :attr:`FixRequest.secrets` has them.

    Args:
        spec: what a job wants of the guest.
        root: the worker's secrets root; None: it has none.

    Raises:
        JobError: the worker has no such secret (invalid).
    """
    references = [
        *(entry.keys_from for entry in spec.ssh_keys),
        *(entry.password_hash_from for entry in spec.users),
        *(entry.content_from for entry in spec.files),
        *(entry.script_from for entry in spec.firstboot),
    ]
    try:
        return {f"{ref.name}/{ref.key}": read_secret(ref, root).decode() for ref in references if ref is not None}
    except UnicodeDecodeError as error:
        raise invalid("NoSecret", "A secret that the job's guest settings refer to is no text.") from error


def read_secret(reference: models.SecretRef, root: pathlib.Path | None) -> bytes:
    """Return the content of a secret.

    Raises:
        JobError: the worker has no such secret (invalid).
    """
    where = f"Secret {reference.name}/{reference.key}"
    if root is None:
        raise invalid("NoSecret", f"{where}: this worker has no secrets root.", "Start it with --secrets-root.")
    try:
        with (root / reference.name / reference.key).open("rb") as file:
            return file.read(_SECRET_LIMIT)
    except OSError as e:
        raise invalid(
            "NoSecret",
            f"{where} cannot be read by this worker for this job.",
            "Put it below the worker's secrets root; on a cluster, list it in worker.secrets with the job's namespace.",
        ) from e


class Phase(enum.IntEnum):
    """When a fixer plans. It sees what those of earlier phases have planned, and relies on none of its own phase."""

    DEVICES = 1
    """What the guest calls its disks."""
    BOOT = 2
    """What starts its kernel, and how."""
    ACCOUNTS = 3
    """Who is there."""
    SYSTEM = 4
    """What the running system finds."""
    INITRAMFS = 5
    """Last: it holds copies of what all others change."""


class Fixer(t.Protocol):
    """One thing that a guest needs on its new hardware.

    A fixer decides by what it finds in the guest. It reads and plans through ``edits`` only, so that a guest that
    needs nothing gets no change, and a second run of it plans none.
    """

    name: str
    """What ``fixers.only`` and ``fixers.skip`` say: lower case, words joined by ``-``."""
    title: str
    """A few words for a person."""
    phase: Phase
    """When it plans; within a phase, by name."""

    def plan(self, guest: GuestFacts, edits: Edits, request: FixRequest) -> None:
        """Add this fixer's changes and warnings to ``edits``.

        Raises:
            JobError: the guest cannot be made to boot, or holds something that must not be touched.
        """
