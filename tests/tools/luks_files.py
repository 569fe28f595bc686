# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""LUKS containers in files, made by cryptsetup without a device-mapper, and what binds their keys to a machine."""

from __future__ import annotations

import collections.abc as c
import json
import pathlib
import struct
import subprocess
import typing as t
import uuid

MIB = 1024**2
#: As clevis-luks-bind and systemd-cryptenroll write them, with blobs that open nothing.
CLEVIS: dict[str, t.Any] = {"type": "clevis", "jwe": {"protected": "e30", "ciphertext": "AA", "tag": "AA"}}
TPM2: dict[str, t.Any] = {"type": "systemd-tpm2", "tpm2-blob": "AAAA", "tpm2-pcrs": [7], "tpm2-policy-hash": "aa"}
#: The UUID of Clevis' slots of luksmeta.
CLEVIS_MARK = uuid.UUID("cb6e8904-81ff-40da-a84a-07ab9ab5715e")
#: Where cryptsetup's LUKS 1 with a key of 64 bytes ends its eighth key: 8 sectors, and 8 times 4,000 stripes.
_GAP = 8 * 512 + 8 * 64 * 4000 + (4096 - 64 * 4000 % 4096) % 4096 * 8


def container(path: pathlib.Path, kind: str, *, keys: int = 1) -> pathlib.Path:
    """Make a container of 20 MiB, of ``luks1`` or ``luks2``, with ``keys`` passphrases."""
    with path.open("wb") as file:
        file.truncate(20 * MIB)
    slow = ("--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000")
    shape = ("--type", kind, "--cipher", "aes-xts-plain64", "--key-size", "512")
    _cryptsetup("luksFormat", *shape, *slow, "--key-file", "-", path, stdin="key 0")
    for number in range(1, keys):
        first = path.with_name(f"{path.name}.key")
        first.write_text("key 0", encoding="utf-8")
        _cryptsetup("luksAddKey", *slow, "--key-file", first, path, "-", stdin=f"key {number}")
        first.unlink()
    return path


def add_tokens(path: pathlib.Path, *tokens: dict[str, t.Any]) -> None:
    """Put tokens into a LUKS 2."""
    for token in tokens:
        _cryptsetup("token", "import", "--json-file", "-", path, stdin=json.dumps(token))


def luksmeta(path: pathlib.Path, slots: c.Mapping[int, uuid.UUID], *, at: int = _GAP) -> None:
    """Write luksmeta's header (see :mod:`..disks.luks`) into a LUKS 1; nothing reads its checksums."""
    entries = (
        slots[number].bytes + struct.pack(">IIII", 4096, 6, 0, 0) if number in slots else bytes(32)
        for number in range(8)
    )
    with path.open("r+b") as file:
        file.seek(at)
        file.write(struct.pack(">8sII", b"LUKSMETA", 1, 0) + b"".join(entries))


def _cryptsetup(*arguments: str | pathlib.Path, stdin: str) -> None:
    subprocess.run(["cryptsetup", "--batch-mode", *arguments], input=stdin.encode(), check=True, capture_output=True)
