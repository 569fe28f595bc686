# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""LUKS containers: what can unlock them, and unlocking them by a key that never shows."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import typing as t

from ..protocol.errors import JobError
from .command import run_command
from .device_mapper import CAPABILITIES, MappedDevice, no_device_mapper

#: cryptsetup(8), "RETURN CODES": no key is available with this passphrase; out of memory; wrong device specified.
_WRONG_KEY = 2
_TIMEOUT = 600.0


@dataclasses.dataclass(frozen=True)
class Key:
    """A passphrase, or the content of a key file. It is never shown."""

    secret: bytes = dataclasses.field(repr=False)
    device: str = ""
    """The UUID of the container that it is for; empty: it is tried on each."""
    name: str = ""
    """How the job calls it."""

    @property
    def forms(self) -> tuple[bytes, ...]:
        """The key as it is, and without the newline that an editor puts at a file's end."""
        return tuple(dict.fromkeys((self.secret, self.secret.removesuffix(b"\n"))))


def bound_slots(device: pathlib.Path) -> dict[str, list[int]]:
    """Return which key slots something of the old machine unlocks, by its kind: ``clevis``, ``systemd-tpm2`` …

    Raises:
        JobError: the header cannot be read.
    """
    tokens = _metadata(device).get("tokens", {})
    found: dict[str, list[int]] = {}
    for token in tokens.values():
        found.setdefault(str(token.get("type", "")), []).extend(int(slot) for slot in token.get("keyslots", ()))
    return {kind: sorted(slots) for kind, slots in found.items() if kind != "luks2-keyring" and slots}


def _metadata(device: pathlib.Path) -> dict[str, t.Any]:
    output = run_command(
        ["cryptsetup", "luksDump", "--dump-json-metadata", device],
        what="Reading a LUKS header",
        accept=range(256),
        capabilities=CAPABILITIES,
    )
    try:
        found: dict[str, t.Any] = json.loads(output)
        return found
    except ValueError:
        return {}  # LUKS 1 has no such data


def unlock(device: pathlib.Path, keys: t.Iterable[Key], *, writable: bool) -> MappedDevice | None:
    """Return the container's content, opened by the first of ``keys`` that fits; None: none does.

    Raises:
        JobError: the kernel has no device-mapper, or not this cipher (environment).
    """
    for key in keys:
        for form in key.forms:
            found = _try(device, form, writable=writable)
            if found is not None:
                return found
    return None


def _try(device: pathlib.Path, key: bytes, *, writable: bool) -> MappedDevice | None:
    access: tuple[str, ...] = () if writable else ("--readonly",)

    def create(name: str) -> None:
        run_command(
            [
                *("cryptsetup", "open", "--type", "luks", "--key-file", "-", "--disable-keyring"),
                *("--disable-external-tokens", "--batch-mode", *access),
                device,
                name,
            ],
            what="Opening a LUKS container",
            capabilities=CAPABILITIES,
            stdin=key,
            timeout=_TIMEOUT,
            failure=_refused,
        )

    try:
        return MappedDevice(create)
    except JobError as error:
        if error.reason == "WrongKey":
            return None
        raise


def _refused(reason: str, message: str) -> JobError:
    if f"(status {_WRONG_KEY})" in message:
        error = no_device_mapper(message)
        error.reason = "WrongKey"
        return error
    return no_device_mapper(message)
