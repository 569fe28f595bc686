# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Guests of one sector: they print a text to the first serial port and then do one thing. They boot in a second."""

from __future__ import annotations

import pathlib

_ORIGIN = 0x7C00
_MESSAGE = _ORIGIN + 0x80
_PACKET = _ORIGIN + 0x60

#: cli; xor ax,ax; mov ds,ax; mov si,message; next: lodsb; test al,al; jz end; mov dx,3f8h; out dx,al; jmp next; end:
#: With interrupts on, SeaBIOS would write what it still has to say into the midst of it.
_PRINT = bytes.fromhex("fa31c08ed8be") + _MESSAGE.to_bytes(2, "little") + bytes.fromhex("ac84c07406baf803eeebf5")

#: hlt; jmp back
STAY = bytes.fromhex("faf4ebfd")
#: mov dx,604h; mov ax,2000h; out dx,ax: ACPI's S5 on a q35
POWER_OFF = bytes.fromhex("ba0406b80020ef") + STAY
#: mov dx,0cf9h; mov al,6; out dx,al
RESTART = bytes.fromhex("baf90cb006ee") + STAY
#: again: mov si,packet; mov ax,4300h; mov dl,80h; int 13h; add dword [packet+8],127; jmp again
FILL_DISK = (
    b"\xbe"
    + _PACKET.to_bytes(2, "little")
    + bytes.fromhex("b80043b280cd13668106")
    + (_PACKET + 8).to_bytes(2, "little")
    + bytes.fromhex("7f000000ebeb")
)
#: BIOS disk address packet: 127 sectors from 0000:7c00h, block 1 onwards
_PACKET_BYTES = bytes.fromhex("10007f00007c00000100000000000000")


def write_guest(path: pathlib.Path, text: str, then: bytes = STAY, size: int = 64 * 1024**2) -> pathlib.Path:
    """Write a raw disk of ``size`` bytes whose boot sector prints ``text`` (at most 380 bytes)."""
    code = _PRINT + then
    assert len(code) <= 0x60 and len(text) < 380
    sector = bytearray(512)
    sector[: len(code)] = code
    sector[0x60 : 0x60 + len(_PACKET_BYTES)] = _PACKET_BYTES
    message = text.replace("\n", "\r\n").encode() + b"\0"
    sector[0x80 : 0x80 + len(message)] = message
    sector[510:] = b"\x55\xaa"
    with path.open("wb") as file:
        file.write(sector)
        file.truncate(size)
    return path
