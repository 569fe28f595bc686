# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a boot test changes in the guest to see it boot; made in a throw-away layer and nowhere else.

The kernel's messages go to the first serial port, boot menus do not wait, a systemd guest reports, and a guest with an
inittab asks for a login on the serial port. Nothing of it makes a guest boot that would not boot without it.
"""

from __future__ import annotations

import re

from ..tree import GuestTree
from . import report

#: The last console= is where /dev/console leads; a screen beside it costs emulated guests time.
#: ``quiet`` before is overruled by the later loglevel.
KERNEL_ARGUMENTS = "console=ttyS0,115200 loglevel=6 systemd.show_status=1 plymouth.enable=0"

_GRUB2 = ("/boot/grub/grub.cfg", "/boot/grub2/grub.cfg", "/boot/efi/EFI/*/grub.cfg")
_GRUB_LEGACY = ("/boot/grub/menu.lst", "/boot/grub/grub.conf")
_ENTRIES = ("/boot/loader/entries/*.conf", "/boot/efi/loader/entries/*.conf", "/efi/loader/entries/*.conf")
_LOADER = ("/boot/loader/loader.conf", "/boot/efi/loader/loader.conf", "/efi/loader/loader.conf")
_EXTLINUX = ("/boot/extlinux.conf", "/boot/extlinux/extlinux.conf", "/boot/syslinux/syslinux.cfg")

#: systemd gives a device, and a start of a service, 90 seconds. An emulated processor on a busy machine does not
#: get through udev's work in that time, and the guest would end in emergency mode for a /boot that is there. systemd
#: before 252 takes the first setting for devices too, and passes over the second. Seconds.
_PATIENCE = "/etc/systemd/system.conf.d/99-hyper2kvm-boot-test.conf"
_PATIENCE_TEXT = "[Manager]\nDefaultTimeoutStartSec=360\nDefaultDeviceTimeoutSec=360\n"

_APPEND = rf"\g<0> {KERNEL_ARGUMENTS}"
#: By the files' patterns: what is replaced in them. ``linux`` may be ``linux16`` or ``linuxefi``.
_EDITS: dict[tuple[str, ...], tuple[tuple[str, str], ...]] = {
    _GRUB2: (
        (r"^\s*linux(16|efi)?[ \t]+\S.*$", _APPEND),
        (r"^(\s*set timeout=)\S+", r"\g<1>0"),
        (r"^(\s*terminal_output)[ \t].*$", r"\g<1> console"),
    ),
    _GRUB_LEGACY: ((r"^\s*kernel[ \t]+\S.*$", _APPEND), (r"^(\s*timeout[ \t=]+)\d+", r"\g<1>0")),
    _ENTRIES: ((r"^options[ \t].*$", _APPEND),),
    _LOADER: ((r"^(timeout[ \t]+)\S+", r"\g<1>0"),),
    _EXTLINUX: ((r"^\s*append[ \t].*$", _APPEND), (r"^(\s*timeout[ \t]+)\d+", r"\g<1>1")),
}


def instrument(tree: GuestTree, token: str, *, emulated: bool) -> bool:
    """Change the guest under ``tree``; return whether it will report by itself.

    Args:
        tree: the guest's files.
        token: of its report.
        emulated: its processor will be, and may stand still while its clock goes on.

    Raises:
        JobError: a file of the guest is not what it should be, or cannot be written.
    """
    for patterns, replacements in _EDITS.items():
        for path in tree.files(*patterns):
            _edit(tree, path, replacements)
    if is_systemd(tree):
        for path, text in report.files(token).items():
            tree.write(path, text.encode())
        for path, target in report.links().items():
            tree.symlink(path, target)
        if emulated:
            tree.write(_PATIENCE, _PATIENCE_TEXT.encode())
        return True
    _add_getty(tree)
    return False


def is_systemd(tree: GuestTree) -> bool:
    """Whether systemd is what the guest's kernel starts."""
    return tree.exists("/sbin/init") and tree.resolve("/sbin/init").endswith("/systemd")


def _edit(tree: GuestTree, path: str, replacements: tuple[tuple[str, str], ...]) -> None:
    old = tree.read_bytes(path).decode("utf-8", "surrogateescape")
    new = old
    for pattern, replacement in replacements:
        new = re.sub(pattern, replacement, new, flags=re.MULTILINE | re.IGNORECASE)
    if new != old:
        tree.write(path, new.encode("utf-8", "surrogateescape"))


def _add_getty(tree: GuestTree) -> None:
    """Ask for a login on the serial port, in BusyBox's or System V's inittab."""
    path = "/etc/inittab"
    if not tree.is_file(path):
        return
    text = tree.read_bytes(path).decode("utf-8", "surrogateescape")
    if re.search(r"^[^#\n]*ttyS0", text, re.MULTILINE):
        return
    busybox = re.search(r"^\w*::(respawn|sysinit|askfirst):", text, re.MULTILINE) is not None
    identity = "ttyS0::" if busybox else "h2k:2345:"
    line = f"{identity}respawn:/sbin/getty -L 115200 ttyS0 vt100\n"
    tree.write(path, (text.rstrip("\n") + "\n" + line).encode("utf-8", "surrogateescape"))
