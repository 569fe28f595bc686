# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Guests of families that cannot be had here: every file that a conversion changes, and that it changes no other."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import typing as t

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.initramfs import segments
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.initramfs.rootfs import RootFs

from tests.unit.plugins.module_utils.guests.layouts import HOOKS, LAYOUTS, MACHINE, MICROCODE, rpm
from tests.unit.plugins.module_utils.guests.phony import NEW_MAC, OLD_MAC, ROOT_UUID, SWAP_UUID, Phony

ROOT, SWAP = f"UUID={ROOT_UUID}", f"UUID={SWAP_UUID}"
CONSOLE = "console=tty0 console=ttyS0,115200"
LINK = "etc/systemd/network/05-hyper2kvm-{}.link"
TOOLS = "etc/systemd/system/{0}", "etc/systemd/system/multi-user.target.wants/{0}"
BY_PATH = "/dev/disk/by-path/pci-0000:03:00.0-scsi-0:0:0:0-part"

#: By layout what changes: a file that is new, or gone, or has other texts in the place of these.
GONE, NEW = "gone", "new"
Change = t.Union[str, dict[str, str]]  # noqa: UP007 (evaluated at run time)
APPENDED: Change = {}
DRIVERS = "virtio_pci virtio_blk virtio_scsi sd_mod"
EXPECTED: dict[str, dict[str, Change]] = {
    "rhel": {
        "boot/efi/EFI/BOOT": NEW,
        **{f"boot/efi/EFI/BOOT/{name}": NEW for name in ("BOOTX64.EFI", "grubx64.efi", "mmx64.efi")},
        **{
            f"boot/loader/entries/{MACHINE}-{version}.conf": {
                "root=/dev/sda1": f"root={ROOT}",
                "resume=/dev/sda2": f"resume={SWAP}",
                "$tuned_params": f"$tuned_params {CONSOLE}",
            }
            for version in ("5.14.0-427.el9.x86_64", "5.14.0-362.el9.x86_64")
        },
        "boot/initramfs-5.14.0-427.el9.x86_64.img": APPENDED,
        "boot/initramfs-5.14.0-362.el9.x86_64.img": APPENDED,
        "etc/default/grub": {"resume=/dev/sda2": f"resume={SWAP}", 'quiet"': f'quiet {CONSOLE}"'},
        "etc/dracut.conf.d/hyper2kvm.conf": NEW,
        "etc/fstab": {"/dev/sda1": ROOT, "/dev/sda2": SWAP},
        "etc/kernel/cmdline": {"root=/dev/sda1": f"root={ROOT}", "quiet": f"quiet {CONSOLE}"},
        "etc/lvm/devices/system.devices": {"IDTYPE=sys_wwid IDNAME=naa.6000c29": "IDTYPE=devname IDNAME=/dev/sda2"},
        "etc/systemd/network": NEW,
        LINK.format("ens192"): NEW,
        TOOLS[0].format("vmtoolsd.service"): NEW,
        TOOLS[1].format("vmtoolsd.service"): GONE,
    },
    "suse": {
        "boot/grub2/device.map": GONE,
        "boot/grub2/grub.cfg": {
            f"root={BY_PATH}1": f"root={ROOT}",
            f"resume={BY_PATH}2": f"resume={SWAP}",
            "quiet\n": f"quiet {CONSOLE}\n",
        },
        "boot/initrd-6.4.0-150600.21-default": APPENDED,
        "etc/default/grub": {f"resume={BY_PATH}2": f"resume={SWAP}", 'LINUX=""': f'LINUX="{CONSOLE}"'},
        "etc/dracut.conf.d/hyper2kvm.conf": NEW,
        "etc/fstab": {f"{BY_PATH}1": ROOT, f"{BY_PATH}2": SWAP},
        "etc/udev/rules.d/70-persistent-net.rules": {OLD_MAC: NEW_MAC},
        TOOLS[0].format("vmtoolsd.service"): NEW,
        TOOLS[1].format("vmtoolsd.service"): GONE,
    },
    "ubuntu": {
        "boot/grub/grub.cfg": {" ro  \n": f" ro {CONSOLE}  \n"},
        "boot/initrd.img-6.8.0-45-generic": APPENDED,
        "etc/cloud/cloud.cfg.d/99-hyper2kvm.cfg": NEW,
        "etc/default/grub": {'CMDLINE_LINUX=""': f'CMDLINE_LINUX="{CONSOLE}"'},
        "etc/initramfs-tools/modules": NEW,
        "etc/netplan/50-cloud-init.yaml": {OLD_MAC: NEW_MAC},
        "etc/systemd/network": NEW,
        LINK.format("ens192"): NEW,
        TOOLS[0].format("open-vm-tools.service"): NEW,
        TOOLS[1].format("open-vm-tools.service"): GONE,
    },
    "arch": {
        "boot/EFI/BOOT": NEW,
        "boot/EFI/BOOT/BOOTX64.EFI": NEW,
        "boot/initramfs-linux.img": APPENDED,
        "boot/initramfs-linux-fallback.img": APPENDED,
        **{
            f"boot/loader/entries/{name}.conf": {"root=/dev/sda1 rw": f"root={ROOT} rw {CONSOLE}"}
            for name in ("arch", "arch-fallback")
        },
        "etc/mkinitcpio.conf.d/hyper2kvm.conf": NEW,
        LINK.format("ens33"): NEW,
        TOOLS[0].format("vmtoolsd.service"): NEW,
        TOOLS[1].format("vmtoolsd.service"): GONE,
    },
    "alpine": {
        "boot/extlinux.conf": {"root=/dev/sda1": f"root={ROOT}", "rootfstype=ext4": f"rootfstype=ext4 {CONSOLE}"},
        "boot/initramfs-lts": APPENDED,
        "etc/fstab": {"/dev/sda1": ROOT, "/dev/sda2": SWAP},
        "etc/inittab": {
            "ttyS0 vt100\n": "ttyS0 vt100\nttyS0::respawn:/sbin/getty -L 115200 ttyS0 vt100\n",
        },
        "etc/mkinitfs/mkinitfs.conf": {' usb"': ' usb virtio"'},
        "etc/runlevels/boot/open-vm-tools": GONE,
        "etc/securetty": {"tty1\n": "tty1\nttyS0\n"},
        "etc/update-extlinux.conf": {"root=/dev/sda1": f"root={ROOT}", 'ext4"': f'ext4 {CONSOLE}"'},
    },
    "photon": {
        "boot/grub2/grub.cfg": {"rootpartition=/dev/sda1": f"rootpartition={ROOT}"},
        "boot/initrd.img-6.1.109-1.ph5": APPENDED,
        "boot/linux-6.1.109-1.ph5.cfg": {"loglevel=3 quiet": f"loglevel=3 quiet {CONSOLE}"},
        "etc/dracut.conf.d/hyper2kvm.conf": NEW,
        "etc/fstab": {"/dev/sda1": ROOT},
        "etc/systemd/network/99-dhcp-en.network": {"Driver=vmxnet3": "Driver=virtio_net"},
        TOOLS[0].format("vmtoolsd.service"): NEW,
        TOOLS[1].format("vmtoolsd.service"): GONE,
    },
}
#: The suffix of the family's modules, inside the initramfs as well.
PACKING = {"rhel": ".xz", "suse": ".zst", "ubuntu": ".zst", "arch": ".zst", "alpine": ".gz", "photon": ".xz"}


@pytest.fixture(params=LAYOUTS)
def name(request: pytest.FixtureRequest) -> str:
    """Each family."""
    return str(request.param)


@pytest.fixture
def guest(name: str, tmp_path: pathlib.Path) -> Phony:
    """A guest of the family."""
    return LAYOUTS[name](tmp_path / "guest")


def convert(guest: Phony) -> list[str]:
    """Fix the guest as a conversion does, twice (``fix`` asserts that the second changes nothing); the warnings."""
    request = dataclasses.replace(guest.request(), firmware=guest.inspect().firmware or "bios")
    return guest.fix(request=request).warnings


def test_every_file_that_is_changed_and_none_else(name: str, guest: Phony) -> None:
    assert guest.inspect().risks == ()
    before = guest.snapshot()
    assert convert(guest) == []
    after = guest.snapshot()
    changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    expected = EXPECTED[name]
    assert changed - expected.keys() == set() and expected.keys() - changed == set()
    for path, change in expected.items():
        if change == GONE:
            assert path in before and path not in after
        elif change == NEW:
            assert path not in before and path in after
        elif change == APPENDED:
            assert after[path][1].startswith(before[path][1]) and before[path][2] == after[path][2]
        else:
            text = before[path][1].decode()
            for old, new in dict(change).items():  # type: ignore[arg-type]
                assert old in text, f"{path} had no {old!r}"
                text = text.replace(old, new)
            assert after[path][1].decode() == text and before[path][2] == after[path][2]


@pytest.mark.parametrize("name", ["rhel", "suse", "photon"], indirect=True)
def test_what_packages_own_is_as_they_installed_it(guest: Phony) -> None:
    assert rpm(guest, "-Va", "--nomtime") == ""
    convert(guest)
    assert rpm(guest, "-Va", "--nomtime") == ""
    (guest.folder / "usr/bin/vmtoolsd").write_text("changed")
    assert "/usr/bin/vmtoolsd" in rpm(guest, "-Va", "--nomtime")


def unpacked(guest: Phony, path: str) -> RootFs:
    """What the kernel makes of an initramfs."""
    return segments.parse_bytes((guest.folder / path.lstrip("/")).read_bytes()).root


def test_every_initramfs_finds_a_virtio_disk(name: str, guest: Phony) -> None:
    kernels = guest.inspect().kernels
    old = {kernel.initramfs: unpacked(guest, kernel.initramfs) for kernel in kernels}
    convert(guest)
    for kernel in guest.inspect().kernels:
        places = {driver: kernel.drivers[driver] for driver in ("virtio_pci", "virtio_blk", "virtio_scsi")}
        assert set(places.values()) == {"initramfs"}, kernel.initramfs
        root, suffix = unpacked(guest, kernel.initramfs), PACKING[name]
        folder = f"lib/modules/{kernel.version}" if name in ("ubuntu", "arch", "alpine") else ""
        folder = folder or f"usr/lib/modules/{kernel.version}"
        index = (root.read(f"{folder}/modules.dep") or b"").decode()
        assert f"kernel/drivers/block/virtio_blk.ko{suffix}: kernel/drivers/virtio/virtio_ring.ko{suffix}" in index
        assert f"kernel/drivers/scsi/vmw_pvscsi.ko{suffix}:" in index
        assert root.read(f"{folder}/kernel/drivers/scsi/vmw_pvscsi.ko{suffix}") == b"old"
        for path, node in old[kernel.initramfs].nodes.items():
            assert root.nodes[path].type == node.type


@pytest.mark.parametrize("name", ["rhel", "suse", "photon"])
def test_dracut_no_longer_waits_for_the_old_machines_disks(guest: Phony) -> None:
    convert(guest)
    for kernel in guest.inspect().kernels:
        assert (guest.folder / kernel.initramfs.lstrip("/")).read_bytes().startswith(MICROCODE)
        root = unpacked(guest, kernel.initramfs)
        assert root.read("etc/cmdline.d/95root-dev.conf") == f"root={ROOT} rootfstype=xfs rootflags=rw\n".encode()
        assert root.read(f"{HOOKS}/devexists-a.sh") == f'[ -e "/dev/disk/by-uuid/{ROOT_UUID}" ]\n'.encode()
        assert b"IDTYPE=devname IDNAME=/dev/sda2" in (root.read("etc/lvm/devices/system.devices") or b"")


def test_the_default_and_the_names_of_entries_stay(guest: Phony) -> None:
    before = guest.inspect().bootloader
    convert(guest)
    after = guest.inspect().bootloader
    assert after.kind == before.kind and len(before.entries) > 0
    assert [(e.title, e.kernel, e.initramfs, e.default) for e in after.entries] == [
        (e.title, e.kernel, e.initramfs, e.default) for e in before.entries
    ]
    assert sum(entry.default for entry in after.entries) == 1


@pytest.mark.parametrize("name", ["rhel"])
def test_new_files_of_a_guest_with_selinux_have_its_labels(guest: Phony) -> None:
    convert(guest)
    path = guest.folder / LINK.format("ens192")
    assert os.getxattr(path, "security.selinux") == b"system_u:object_r:etc_t:s0\0"
