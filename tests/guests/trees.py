# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The package trees that guests are made of, each built once by mmdebstrap and kept as a tarball.

As a program, ``python -m tests.guests.trees NAME TARBALL``, it draws one; it wants namespaces of its own.
"""

from __future__ import annotations

import collections.abc as c
import dataclasses
import os
import pathlib
import sys
import typing as t

from tests.guests.host import BuildError, run


@dataclasses.dataclass(frozen=True)
class Tree:
    """A set of Debian packages."""

    name: str
    release: str
    variant: str
    """mmdebstrap's."""
    packages: tuple[str, ...]
    fetched: tuple[str, ...] = ()
    """Packages that lie in ``/var/cache`` as files, not installed: those which conflict with an installed one."""
    drawn: str = "2026-11"
    """When the packages were last drawn from the archive: a new value makes every guest anew, with newer packages."""

    def draw(self, tarball: pathlib.Path) -> None:
        """Fetch the packages and write the tarball; takes about a minute for the big one.

        :raises BuildError: mmdebstrap failed (no network, no keyring …).
        """
        hooks = []
        if self.fetched:
            fetch = f"cd /var/cache && apt-get download {' '.join(self.fetched)}"
            hooks.append(f"--customize-hook=chroot \"$1\" sh -c '{fetch}'")
        # Kernel packages leave the initramfs to the guest's own configuration, which comes later.
        os.environ["INITRD"] = "No"
        # What mmdebstrap unpacks is removed with the tarball's folder, even if it is killed.
        tarball.parent.chmod(0o755)
        os.environ["TMPDIR"] = str(tarball.parent)
        run(
            [
                "mmdebstrap",
                "--mode=root",
                f"--variant={self.variant}",
                f"--include={','.join(self.packages)}",
                *self.options(),
                *hooks,
                self.release,
                tarball,
            ]
        )

    def options(self) -> c.Sequence[str]:
        """Further words for mmdebstrap."""
        return ()


@dataclasses.dataclass(frozen=True)
class TrimmedTree(Tree):
    """Packages less some of their files."""

    excluded: tuple[str, ...] = ()
    """What dpkg does not unpack: dpkg(1), ``path-exclude``."""

    def options(self) -> c.Sequence[str]:
        """Further words for mmdebstrap."""
        return [f"--dpkgopt=path-exclude={pattern}" for pattern in self.excluded]


#: A server as an administrator would have set it up. About 0.9 GiB.
DEBIAN = Tree(
    name="debian",
    release="bookworm",
    variant="important",
    packages=(
        "linux-image-amd64",
        "initramfs-tools",
        "zstd",
        "xz-utils",
        "lz4",
        "busybox",
        "grub-pc",
        "grub-efi-amd64-bin",
        "efibootmgr",
        "systemd-sysv",
        "systemd-timesyncd",
        "libpam-systemd",
        "dbus",
        "ifupdown",
        "iproute2",
        "openssh-server",
        "open-vm-tools",
        "e2fsprogs",
        "xfsprogs",
        "btrfs-progs",
        "dosfstools",
        "parted",
        "pciutils",
        "locales",
        "man-db",
        "bash-completion",
        "ca-certificates",
        "curl",
        "git",
        "nginx-light",
        "python3",
        "rsyslog",
        "logrotate",
        "sudo",
        "tcpdump",
        "unattended-upgrades",
        "vim",
    ),
    fetched=("grub-efi-amd64",),
)

#: Of the kernel's modules, those that no virtual machine has a use for: most of the packages' bytes.
_NO_HARDWARE = tuple(
    f"*/modules/*/kernel/{folder}/*"
    for folder in (
        *("sound", "drivers/gpu", "drivers/iio", "drivers/infiniband", "drivers/isdn", "drivers/media"),
        *("drivers/mmc", "drivers/mtd", "drivers/net/ethernet", "drivers/net/wireless", "drivers/staging"),
        *("drivers/thunderbolt", "drivers/usb/gadget", "net/bluetooth", "net/mac80211"),
    )
)


def _server(release: str, *further: str) -> TrimmedTree:
    return TrimmedTree(
        name=f"server-{release}",
        release=release,
        variant="minbase",
        packages=(
            *("linux-image-amd64", "initramfs-tools", "dracut-core", "zstd", "xz-utils", "busybox"),
            *("grub-pc", "grub-efi-amd64-bin", "extlinux", "syslinux-common"),
            *("systemd-sysv", "udev", "kmod", "dbus", "iproute2"),
            *("ifupdown", "network-manager", "netplan.io"),
            *("e2fsprogs", "xfsprogs", "btrfs-progs", "lvm2", "cryptsetup-initramfs", "mdadm"),
            *further,
        ),
        fetched=("grub-efi-amd64", "dracut"),
        excluded=(*_NO_HARDWARE, "/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/man/*"),
    )


#: By release, small ones with every tool that servers of the matrix use; what one does not use is removed from it.
SERVERS: t.Mapping[str, Tree] = {
    "bullseye": _server("bullseye"),
    "bookworm": _server("bookworm", "systemd-boot-efi"),
    "trixie": _server("trixie", "systemd-boot-efi", "systemd-cryptsetup"),
}

TREES: t.Mapping[str, Tree] = {tree.name: tree for tree in (DEBIAN, *SERVERS.values())}


if __name__ == "__main__":
    try:
        TREES[sys.argv[1]].draw(pathlib.Path(sys.argv[2]))
    except BuildError as problem:
        sys.exit(str(problem))
