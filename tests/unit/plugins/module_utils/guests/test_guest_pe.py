# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""EFI's programs by their headers, also ones that lie."""

from __future__ import annotations

import os

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests import pe
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.plugins.module_utils.guests.phony import efi_program

IMAGE = efi_program({".uname": b"6.1", ".linux": b"kernel" * 200, ".initrd": b"x" * 3000}, signed=True)


def read(data: bytes) -> tuple[pe.Program | None, bytes]:
    """The program, and its section .initrd."""
    fd = os.memfd_create("image", os.MFD_CLOEXEC)
    with open(fd, "w+b") as file:
        file.write(data)
        file.flush()
        program = pe.read_program(fd)
        return program, pe.section(fd, program, ".initrd", 1 << 20) if program else b""


@pytest.mark.parametrize("signed", [True, False])
def test_sections_machine_and_signature(signed: bool) -> None:
    program, initrd = read(efi_program({".initrd": b"x" * 3000}, signed=signed))
    assert program is not None
    assert (program.machine, program.signed, initrd) == ("x86_64", signed, b"x" * 3000)


@pytest.mark.parametrize("data", [b"", b"MZ", b"MZ" + b"\xff" * 100, b"\x7fELF" * 100, IMAGE[:100]])
def test_what_is_no_program(data: bytes) -> None:
    assert read(data)[0] is None
    assert pe.machine_of(data) == ""


@given(st.lists(st.tuples(st.integers(0, 600), st.integers(0, 255)), min_size=1, max_size=12))
def test_headers_that_lie_break_nothing(damage: list[tuple[int, int]]) -> None:
    data = bytearray(IMAGE)
    for at, byte in damage:
        data[at] = byte
    dummy, initrd = read(bytes(data))
    assert len(initrd) <= len(IMAGE)
