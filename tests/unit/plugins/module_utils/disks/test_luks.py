# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What unlocks a LUKS container beside passphrases, by headers that cryptsetup wrote."""

from __future__ import annotations

import pathlib
import struct
import uuid

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.luks import bound_slots

from tests.tools.luks_files import CLEVIS, CLEVIS_MARK, MIB, TPM2, add_tokens, container, luksmeta


@pytest.fixture
def new(tmp_path: pathlib.Path) -> pathlib.Path:
    """A container of LUKS 2 with two passphrases."""
    return container(tmp_path / "luks", "luks2", keys=2)


@pytest.fixture
def old(tmp_path: pathlib.Path) -> pathlib.Path:
    """A container of LUKS 1."""
    return container(tmp_path / "luks", "luks1")


def test_passphrases_are_bound_to_nothing(new: pathlib.Path) -> None:
    assert bound_slots(new) == {}


def test_tokens_are_told_by_their_kind(new: pathlib.Path) -> None:
    add_tokens(new, {**CLEVIS, "keyslots": ["1"]}, {**TPM2, "keyslots": ["0"]}, {**CLEVIS, "keyslots": ["0"]})
    assert bound_slots(new) == {"clevis": [0, 1], "systemd-tpm2": [0]}


def test_tokens_that_bind_nothing_are_not_told(new: pathlib.Path) -> None:
    """The kernel's keyring is of no machine, and a token may be left over from a slot that was removed."""
    keyring = {"type": "luks2-keyring", "keyslots": ["0"], "key_description": "db"}
    add_tokens(new, keyring, {**CLEVIS, "keyslots": []})
    assert bound_slots(new) == {}


def test_luksmeta_binds_a_luks_1(old: pathlib.Path) -> None:
    """As luksmeta 9 wrote it for ``save -s 2`` and ``save -s 5``, checksums apart."""
    assert bound_slots(old) == {}
    luksmeta(old, {2: CLEVIS_MARK, 5: uuid.UUID("13e9258d-aebf-4269-be5b-a20da610f0f4")})
    assert bound_slots(old) == {"clevis": [2], "luksmeta": [5]}


def test_a_luksmeta_without_slots_binds_nothing(old: pathlib.Path) -> None:
    luksmeta(old, {})
    assert bound_slots(old) == {}


def test_keys_that_lie_nowhere_are_read_as_nothing(old: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """The header is the guest's: a place beyond the end, and a header that is cut off."""
    with old.open("r+b") as file:
        file.seek(208 + 40)
        file.write(struct.pack(">I", 0xFFFFFFFF))
    assert bound_slots(old) == {}
    short = tmp_path / "short"
    short.write_bytes(old.read_bytes()[:300])
    assert bound_slots(short) == {}


def test_the_gap_is_where_the_last_key_ends(old: pathlib.Path) -> None:
    """The same magic elsewhere is a key's material."""
    luksmeta(old, {2: CLEVIS_MARK}, at=MIB)
    assert bound_slots(old) == {}
