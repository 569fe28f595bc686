# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Kernel command lines wherever a guest keeps them, edited as text.

A boot loader's configuration is never made anew: that would take the guest's programs, and the firmware and disks of
the host that they run on. Facts: GRUB's manual (linux, kernelopts, environment block of 1024 bytes), Boot Loader
Specification (options), syslinux (append), Debian's menu.lst (the kopt comment), rEFInd (refind_linux.conf), Alpine's
update-extlinux.conf, Photon's files of variables.
"""

from __future__ import annotations

import re
import typing as t

from .bootloader import GRUB_ENVIRONMENTS, LINE_LIMIT
from .edits import Edits
from .facts import GuestFacts

_SETTINGS = (
    "/etc/default/grub",
    "/etc/default/grub.d/*.cfg",
    "/etc/kernel/cmdline",
    "/etc/kernel/cmdline.d/*.conf",
    "/etc/cmdline.d/*.conf",
    "/etc/default/extlinux",
    "/etc/default/u-boot",
    "/etc/update-extlinux.conf",
    "/etc/sysconfig/bootloader",
    "/boot/grub/custom.cfg",
    # Photon's grub.cfg reads its kernel and a part of the command line from here.
    "/boot/linux-*.cfg",
)
_ENVIRONMENT_HEADER = "# GRUB Environment Block\n"
_KERNEL_FILE = r"\S*(?:vmlinu[xz]|[bz]?[zI]mage|/kernel|/linux|\$photon_linux)[^/\s]*"
#: A device; names by path have colons, which elsewhere end one (``cryptdevice=/dev/sda2:root``).
_DEVICE = (
    r"""/dev/disk/by-(?:path|id)/[^\s"';,]*?-part\d+(?![\w-])|/dev/disk/by-(?:path|id)/[^\s"';,]+|/dev/[^\s"':;,]+"""
)
_VARIABLE = re.compile(r"\$\{?(?:kernelopts|photon_cmdline)\b")

# By the end of a file's path: where its lines have a command line of their own (group "line").
_GRUB = (
    rf"\s*(?:linux|linux16|linuxefi|kernel)\s+(?:\([^)]*\))?{_KERNEL_FILE}(?P<line>.*?)\s*$",
    r'\s*set\s+kernelopts="(?P<line>.*?)\s*"\s*$',
    r"# kopt=(?P<line>.*?)\s*$",
)
_PLACES: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"/(?:grub|custom)\.cfg|/menu\.lst|/boot/grub/grub\.conf", _GRUB),
    (r"/grubenv", (r"kernelopts=(?P<line>.*?)\s*$",)),
    (r"/loader/entries/[^/]+\.conf", (r"options\s+(?P<line>\S.*?)\s*$",)),
    # Before the boot loader's own file, whose name this one ends with.
    (r"/etc/update-extlinux\.conf", (r"""default_kernel_opts=(?P<quote>["']?)(?P<line>.*?)\s*(?P=quote)\s*$""",)),
    (r"/(?:ext|sys)linux\.(?:conf|cfg)", (r"(?i)\s*append\s+(?P<line>\S.*?)\s*$",)),
    (r"/etc/default/grub.*", (r"""GRUB_CMDLINE_LINUX=(?P<quote>["']?)(?P<line>.*?)\s*(?P=quote)\s*$""",)),
    (r"/etc/default/extlinux", (r"""EXTLINUX_PARAMETERS=(?P<quote>["']?)(?P<line>.*?)\s*(?P=quote)\s*$""",)),
    (r"/etc/default/u-boot", (r"""U_BOOT_PARAMETERS=(?P<quote>["']?)(?P<line>.*?)\s*(?P=quote)\s*$""",)),
    (r"/etc/sysconfig/bootloader", (r"""DEFAULT_APPEND=(?P<quote>["']?)(?P<line>.*?)\s*(?P=quote)\s*$""",)),
    (r"/etc/kernel/cmdline", (r"\s*(?P<line>\S.*?)\s*$",)),
    (r"/boot/refind_linux\.conf", (r'\s*"[^"]*"\s+"(?P<line>[^"]*?)\s*"\s*$',)),
    (r"/boot/linux-[^/]+\.cfg", (r"photon_cmdline=(?P<line>.*?)\s*$",)),
)


def files(guest: GuestFacts, edits: Edits) -> list[str]:
    """Return the files that hold command lines: of the boot loader, and of the guest's tools that write those."""
    found = [*guest.bootloader.configs, *edits.files(*GRUB_ENVIRONMENTS, *_SETTINGS)]
    return list(dict.fromkeys(edits.resolve(path) for path in found if edits.is_file(path)))


def edit(edits: Edits, path: str, change: t.Callable[[str], str], why: str) -> None:
    """Plan ``change`` for each line of ``path`` that is no comment; the kopt comment of menu.lst counts as none."""
    text = edits.read_text(path)
    lines = text.split("\n")
    new = "\n".join(line if _is_untouched(line) else change(line) for line in lines)
    if new != text and text.startswith(_ENVIRONMENT_HEADER):
        new = _padded(new, len(text))
    if new != text:
        edits.write(path, new, why=why)


def arguments(line: str, path: str) -> tuple[int, int] | None:
    """Return where in a line of ``path`` the kernel's arguments are; None where it has none of its own."""
    for place, patterns in _PLACES:
        if re.search(f"(?:{place})$", path):
            for pattern in patterns:
                match = re.match(pattern, line)
                if match:
                    # Arguments that come from a variable are edited where that is set.
                    return None if _VARIABLE.search(match["line"]) else match.span("line")
    return None


def replace_devices(line: str, parameter: str, name: t.Callable[[str], str]) -> str:
    """Return ``line`` with the device of each ``parameter=/dev/…`` given another name; quotes are kept."""
    pattern = rf"""(?<![\w.\-/])({parameter}=)(["']?)({_DEVICE})"""
    return re.sub(pattern, lambda match: match[1] + match[2] + name(match[3]), line)


def _is_untouched(line: str) -> bool:
    comment = line.lstrip().startswith("#") and not line.startswith("# kopt=")
    return comment or not line or len(line) > LINE_LIMIT


def _padded(text: str, size: int) -> str:
    """Return an environment block of ``size`` bytes: GRUB refuses one that is not padded to it with ``#``."""
    lines = [line for line in text.split("\n") if line and not line.startswith("#")]
    block = _ENVIRONMENT_HEADER + "".join(f"{line}\n" for line in lines)
    return block + "#" * (max(size, -(-len(block) // 1024) * 1024) - len(block))
