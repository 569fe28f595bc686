# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""LUKS containers: what can unlock them, and unlocking them by a key that never shows.

Facts: LUKS1 On-Disk Format Specification 1.2.3 (the header, and where keys lie); LUKS2 On-Disk Format Specification 1.1
(tokens); libluksmeta.c of https://github.com/latchset/luksmeta (its header in the gap between the keys of a LUKS 1 and
the payload, by which Clevis binds those).
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import struct
import typing as t
import uuid

from ..protocol.errors import JobError
from .command import run_command
from .device_mapper import CAPABILITIES, MappedDevice, no_device_mapper

#: cryptsetup(8), "RETURN CODES": no key is available with this passphrase; out of memory; wrong device specified.
_WRONG_KEY = 2
_TIMEOUT = 600.0

_LUKS1 = b"LUKS\xba\xbe\0\1"
#: Of LUKS 1: the payload's offset in sectors and a key's length in bytes; eight slots from byte 208 on, each with a
#: state, iterations, a salt, its key's offset in sectors, and into how many stripes that is split.
_LUKS1_NUMBERS, _LUKS1_SLOT, _LUKS1_SLOTS_AT, _LUKS1_SIZE = (
    struct.Struct(">104xII"),
    struct.Struct(">II32sII"),
    208,
    592,
)
#: Of luksmeta: a magic, version and checksum; eight slots, each a UUID (zeros: unused), place, length and checksum.
_LUKSMETA, _LUKSMETA_SLOT = struct.Struct(">8sII"), struct.Struct(">16sIIII")
_LUKSMETA_MAGIC = b"LUKSMETA"
_SLOTS, _SECTOR, _ALIGNMENT = 8, 512, 4096
#: What Clevis' slots are marked with (clevis-luks-bind).
_CLEVIS = uuid.UUID("cb6e8904-81ff-40da-a84a-07ab9ab5715e").bytes


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
        JobError: cryptsetup cannot read the header.
        OSError: the device cannot be read.
    """
    first = _read(device, _LUKS1_SIZE, 0)
    if first.startswith(_LUKS1) and len(first) == _LUKS1_SIZE:
        return _slots_of_luksmeta(_read(device, _ALIGNMENT, _luks1_gap(first)))
    tokens = _metadata(device).get("tokens", {})
    found: dict[str, list[int]] = {}
    for token in tokens.values():
        found.setdefault(str(token.get("type", "")), []).extend(int(slot) for slot in token.get("keyslots", ()))
    return {kind: sorted(slots) for kind, slots in found.items() if kind != "luks2-keyring" and slots}


def _luks1_gap(header: bytes) -> int:
    """Return where the gap behind the keys of a LUKS 1 begins: at the end of the last one, aligned. Bytes."""
    dummy, key_bytes = _LUKS1_NUMBERS.unpack_from(header)
    ends: list[int] = []
    for number in range(_SLOTS):
        *_dummies, offset, stripes = _LUKS1_SLOT.unpack_from(header, _LUKS1_SLOTS_AT + number * _LUKS1_SLOT.size)
        ends.append(offset * _SECTOR + key_bytes * stripes)
    return -(-max(ends) // _ALIGNMENT) * _ALIGNMENT


def _slots_of_luksmeta(gap: bytes) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    if gap.startswith(_LUKSMETA_MAGIC) and len(gap) == _ALIGNMENT:
        for number in range(_SLOTS):
            mark = _LUKSMETA_SLOT.unpack_from(gap, _LUKSMETA.size + number * _LUKSMETA_SLOT.size)[0]
            if any(mark):
                found.setdefault("clevis" if mark == _CLEVIS else "luksmeta", []).append(number)
    return found


def _read(device: pathlib.Path, length: int, offset: int) -> bytes:
    descriptor = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.pread(descriptor, length, offset)
    finally:
        os.close(descriptor)


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
        return {}  # none that this cryptsetup knows


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
