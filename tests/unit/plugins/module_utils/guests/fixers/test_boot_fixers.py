# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a guest needs to find its disks: fstab, crypttab, resume, boot loader, console, EFI loader."""

from __future__ import annotations

import dataclasses
import pathlib

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.esp import EspFiles
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.planning import plan_fixes

from tests.unit.plugins.module_utils.guests.phony import (
    DATA_UUID,
    GRUB_CFG,
    ROOT_UUID,
    SWAP_UUID,
    Phony,
    debian,
    filesystem,
)


@pytest.fixture
def guest(tmp_path: pathlib.Path) -> Phony:
    """A server as it ran on VMware."""
    return debian(tmp_path / "guest")


def test_fstab_by_uuid(guest: Phony) -> None:
    plan = guest.fix("fstab")
    assert guest.text("/etc/fstab") == (
        f"# device mount type\nUUID={ROOT_UUID}\t/ ext4 errors=remount-ro 0 1\nUUID={SWAP_UUID} none swap sw 0 0\n"
        f"UUID={DATA_UUID} /srv/my\\040data xfs defaults 0 2\n/dev/sr0 /media/cdrom0 udf,iso9660 user,noauto 0 0\n"
    )
    assert plan.warnings == []
    assert [(c.path, c.fixer, c.kind) for c in plan.edits.changes] == [("/etc/fstab", "fstab", "write")]


def test_fstab_lines_that_name_no_disk_stay(guest: Phony) -> None:
    text = (
        "LABEL=root / ext4 defaults 0 1\n/dev/mapper/vg-home /home xfs defaults\n/dev/md0 /raid ext4 defaults\n"
        "/dev/cdrom /media/cdrom iso9660 ro,noauto\n/dev/hdc /media/dvd udf,iso9660 noauto\n"
        "/dev/fd0 /media/floppy auto noauto\n"
        "tmpfs /tmp tmpfs size=1g\nnas:/x /mnt nfs defaults\n//nas/y /y cifs password=/dev/sda1\n# /dev/sda1 / ext4 x\n"
    )
    guest.put("/etc/fstab", text)
    assert guest.fix("fstab").edits.changes == []
    assert guest.text("/etc/fstab") == text


def test_the_root_is_what_was_found_whatever_its_name(guest: Phony) -> None:
    guest.put("/etc/fstab", "/dev/sdc7 / ext4 errors=remount-ro 0 1\n")
    assert guest.fix("fstab").warnings == []
    assert guest.text("/etc/fstab") == f"UUID={ROOT_UUID} / ext4 errors=remount-ro 0 1\n"


def test_fstab_says_what_it_cannot_resolve(guest: Phony) -> None:
    guest.put(
        "/etc/fstab",
        "/dev/sda1 / ext4 x\n/dev/sdq1 /a ext4 x\n/dev/sdb1 /b ext4 x\n/dev/sdr1 /c ext4 noauto\n",
    )
    plan = guest.fix("fstab")
    assert ["/dev/sdq1" in plan.warnings[0], "/dev/sdb1" in plan.warnings[1], len(plan.warnings)] == [True, True, 2]
    assert "\n/dev/sdb1 /b" in guest.text("/etc/fstab")


def test_fstab_by_path(guest: Phony) -> None:
    guest.put(
        "/etc/fstab",
        "/dev/disk/by-path/pci-0000:03:00.0-scsi-0:0:0:0-part1 / ext4 a\n"
        "/dev/disk/by-id/scsi-36000c29-part2 none swap sw\n"
        "/dev/disk/by-path/pci-0000:03:00.0-scsi-0:0:1:0-part1 /d xfs a\n",
    )
    guest.fix("fstab")
    assert [line.split()[0] for line in guest.text("/etc/fstab").splitlines()] == [
        f"UUID={ROOT_UUID}",
        f"UUID={SWAP_UUID}",
        f"UUID={DATA_UUID}",
    ]


def test_crypttab(guest: Phony) -> None:
    luks = "99999999-2222-4333-8444-555555555555"
    guest.filesystems += [filesystem(5, "crypto_LUKS", luks), filesystem(6, "")]
    text = (
        "# c\ndata\t/dev/sda5  none luks,discard\nswp /dev/sda6 /dev/urandom swap\n"
        "ok UUID=x none\nlost /dev/sdz1 none\n"
    )
    guest.put("/etc/crypttab", text)
    plan = guest.fix("crypttab")
    assert guest.text("/etc/crypttab") == text.replace("/dev/sda5", f"UUID={luks}").replace(
        "/dev/sda6", "PARTUUID=ff025a63-06"
    )
    assert len(plan.warnings) == 1 and "/dev/sdz1" in plan.warnings[0]


def test_resume(guest: Phony) -> None:
    guest.put("/etc/suspend.conf", "snapshot device = /dev/snapshot\nresume device = /dev/sda2\n")
    guest.fix("resume")
    assert guest.text("/etc/initramfs-tools/conf.d/resume") == f"RESUME=UUID={SWAP_UUID}\n"
    assert f"resume device = UUID={SWAP_UUID}" in guest.text("/etc/suspend.conf")
    assert guest.text("/boot/grub/grub.cfg") == GRUB_CFG.replace("resume=/dev/sda2", f"resume=UUID={SWAP_UUID}")


def test_resume_from_what_is_no_swap(guest: Phony) -> None:
    guest.put("/etc/initramfs-tools/conf.d/resume", "RESUME=/dev/sda1\n")
    plan = guest.fix("resume")
    assert guest.text("/etc/initramfs-tools/conf.d/resume") == "RESUME=/dev/sda1\n"
    assert any("/dev/sda1" in warning for warning in plan.warnings)


def test_grub_as_text(guest: Phony) -> None:
    plan = guest.fix("grub")
    assert guest.text("/boot/grub/grub.cfg") == GRUB_CFG.replace("root=/dev/sda1", f"root=UUID={ROOT_UUID}")
    assert "GRUB_DISABLE_LINUX_UUID=false\n" in guest.text("/etc/default/grub")
    assert not (guest.folder / "boot/grub/device.map").exists()
    assert plan.warnings == []


def test_grub_in_all_its_files(guest: Phony) -> None:
    environment = "# GRUB Environment Block\nsaved_entry=x\nkernelopts=root=/dev/sda1 ro quiet\n"
    guest.put("/boot/grub2/grubenv", environment + "#" * (1024 - len(environment)))
    guest.put("/boot/grub2/grub.cfg", 'set kernelopts="root=/dev/sda1 ro"\nblscfg\n')
    guest.put("/boot/loader/entries/a.conf", "title a\nlinux /vmlinuz-6\noptions root=/dev/sda1 ro $tuned_params\n")
    guest.put("/boot/loader/entries/b.conf", "title b\nlinux /vmlinuz-5\noptions $kernelopts\n")
    guest.put("/etc/kernel/cmdline", "root='/dev/sda1' ro\n")
    guest.put("/etc/default/grub", 'GRUB_CMDLINE_LINUX="root=/dev/sda1 cryptdevice=/dev/sda2:swap"\n#root=/dev/sda1\n')
    guest.fix("grub")
    name = f"root=UUID={ROOT_UUID}"
    block = guest.text("/boot/grub2/grubenv")
    assert len(block) == 1024 and block.startswith("# GRUB Environment Block\nsaved_entry=x\n")
    assert f"kernelopts={name} ro quiet\n#" in block
    assert guest.text("/boot/grub2/grub.cfg") == f'set kernelopts="{name} ro"\nblscfg\n'
    assert f"options {name} ro $tuned_params\n" in guest.text("/boot/loader/entries/a.conf")
    assert guest.text("/boot/loader/entries/b.conf").endswith("options $kernelopts\n")
    assert guest.text("/etc/kernel/cmdline") == f"root='UUID={ROOT_UUID}' ro\n"
    defaults = f'GRUB_CMDLINE_LINUX="{name} cryptdevice=UUID={SWAP_UUID}:swap"\n#root=/dev/sda1\n'
    assert guest.text("/etc/default/grub") == defaults


def test_extlinux_and_grub_legacy(guest: Phony) -> None:
    (guest.folder / "boot/grub/grub.cfg").unlink()
    guest.put("/boot/extlinux/extlinux.conf", "label l0\n  linux /vmlinuz\n  append root=/dev/sda1 ro\n")
    guest.fix("grub", "serial-console")
    append = f"append root=UUID={ROOT_UUID} ro console=tty0 console=ttyS0,115200"
    assert guest.text("/boot/extlinux/extlinux.conf") == f"label l0\n  linux /vmlinuz\n  {append}\n"
    (guest.folder / "boot/extlinux/extlinux.conf").unlink()
    guest.put(
        "/boot/grub/menu.lst",
        "# kopt=root=/dev/sda1 ro\n# root=/dev/sda1\ntitle x\nkernel\t/vmlinuz-2.6 root=/dev/sda1 ro\n",
    )
    guest.put("/boot/grub/device.map", "(fd0) /dev/fd0\n(hd0) /dev/sda\n")
    guest.fix("grub")
    name = f"UUID={ROOT_UUID}"
    assert guest.text("/boot/grub/menu.lst") == (
        f"# kopt=root={name} ro\n# root=/dev/sda1\ntitle x\nkernel\t/vmlinuz-2.6 root={name} ro\n"
    )
    assert guest.text("/boot/grub/device.map") == "(fd0) /dev/fd0\n(hd0) /dev/vda\n"


BY_PATH = "/dev/disk/by-path/pci-0000:03:00.0-scsi-0:0:0:0-part"


@pytest.mark.parametrize(
    ("words", "now"),
    [
        (f"root={BY_PATH}1 ro", f"root=UUID={ROOT_UUID} ro"),
        (f"root='{BY_PATH}1' ro", f"root='UUID={ROOT_UUID}' ro"),
        (f"cryptdevice={BY_PATH}2:root ro", f"cryptdevice=UUID={SWAP_UUID}:root ro"),
        ("root=/dev/sda1,x cryptdevice=/dev/sda2:root", f"root=UUID={ROOT_UUID},x cryptdevice=UUID={SWAP_UUID}:root"),
    ],
)
def test_names_with_colons_on_a_command_line(guest: Phony, words: str, now: str) -> None:
    guest.put("/etc/kernel/cmdline", f"{words}\n")
    guest.fix("grub")
    assert guest.text("/etc/kernel/cmdline") == f"{now}\n"


def test_the_root_that_was_found_beats_the_name(guest: Phony) -> None:
    guest.put("/boot/grub/grub.cfg", GRUB_CFG.replace("root=/dev/sda1", "root=/dev/sdb1"))
    plan = guest.fix("grub")
    assert f"root=UUID={ROOT_UUID} ro" in guest.text("/boot/grub/grub.cfg")
    assert any("/dev/sdb1" in warning for warning in plan.warnings)


def test_a_kernel_without_initramfs_needs_partuuid(guest: Phony) -> None:
    (guest.folder / "boot/initrd.img-6.1.0-9-amd64").unlink()
    guest.fix("grub")
    assert f"root=UUID={ROOT_UUID} ro" not in guest.text("/boot/grub/grub.cfg")
    assert "root=PARTUUID=ff025a63-01 ro" in guest.text("/boot/grub/grub.cfg")


def test_a_search_for_a_filesystem_that_is_gone(guest: Phony) -> None:
    guest.put("/boot/grub/grub.cfg", GRUB_CFG.replace(f"root {ROOT_UUID}", "root 12121212-2222-4333-8444-555555555555"))
    assert any("12121212" in warning for warning in guest.plan("grub").warnings)


def test_a_serial_console(guest: Phony) -> None:
    guest.fix("serial-console")
    words = "quiet resume=/dev/sda2"
    assert guest.text("/boot/grub/grub.cfg") == GRUB_CFG.replace(words, words + " console=tty0 console=ttyS0,115200")
    assert 'GRUB_CMDLINE_LINUX="console=tty0 console=ttyS0,115200"\n' in guest.text("/etc/default/grub")


def test_a_serial_console_in_bls(guest: Phony) -> None:
    guest.put("/boot/grub/grub.cfg", 'set kernelopts="root=/dev/sda1 ro"\nblscfg\n')
    guest.put("/boot/loader/entries/a.conf", "title a\nlinux /vmlinuz-6\noptions root=UUID=1 ro\n")
    guest.put("/boot/loader/entries/b.conf", "title b\nlinux /vmlinuz-5\noptions $kernelopts\n")
    guest.fix("serial-console")
    console = "console=tty0 console=ttyS0,115200"
    assert guest.text("/boot/grub/grub.cfg") == f'set kernelopts="root=/dev/sda1 ro {console}"\nblscfg\n'
    assert guest.text("/boot/loader/entries/a.conf") == f"title a\nlinux /vmlinuz-6\noptions root=UUID=1 ro {console}\n"
    assert guest.text("/boot/loader/entries/b.conf") == "title b\nlinux /vmlinuz-5\noptions $kernelopts\n"


@pytest.mark.parametrize("present", ["console=ttyS1,9600", "console=tty0 console=ttyS0"])
def test_a_serial_console_that_is_there(guest: Phony, present: str) -> None:
    guest.put("/boot/grub/grub.cfg", GRUB_CFG.replace("ro  quiet", f"ro {present} quiet"))
    guest.put("/etc/default/grub", f'GRUB_CMDLINE_LINUX="{present}"\n')
    assert guest.fix("serial-console").edits.changes == []


def test_a_login_prompt_by_inittab(guest: Phony) -> None:
    (guest.folder / "usr/lib/systemd/systemd").unlink()
    (guest.folder / "usr/sbin/init").unlink()
    guest.put("/etc/inittab", "1:2345:respawn:/sbin/getty 38400 tty1\n#T0:23:respawn:/sbin/getty -L ttyS0 9600 vt100\n")
    guest.put("/usr/sbin/getty")
    guest.put("/etc/securetty", "tty1\n")
    guest.fix("serial-console")
    assert guest.text("/etc/inittab").endswith("\nT0:2345:respawn:/sbin/getty -L ttyS0 115200 vt100\n")
    assert guest.text("/etc/securetty") == "tty1\nttyS0\n"
    guest.put("/bin/busybox")
    guest.link("/sbin/init", "/bin/busybox")
    guest.put("/etc/inittab", "::sysinit:/sbin/openrc\n")
    guest.fix("serial-console")
    assert guest.text("/etc/inittab").endswith("\nttyS0::respawn:/sbin/getty -L 115200 ttyS0 vt100\n")


def uefi(guest: Phony, **loaders: bytes) -> None:
    """Give the guest an EFI system partition with these loaders of Debian's."""
    guest.esp = "/boot/efi"
    (guest.folder / "boot/efi").mkdir()
    guest.filesystems.append(filesystem(5, "vfat", "AAAA-BBBB", type_id="c12a7328-f81f-11d2-ba4b-00a0c93ec93b"))
    for name, data in loaders.items():
        guest.put(f"/boot/efi/EFI/debian/{name}.efi", data)


def test_the_uefi_fallback_with_shim(guest: Phony) -> None:
    uefi(guest, shimx64=b"shim", grubx64=b"grub", mmx64=b"mok", fbx64=b"fallback")
    request = dataclasses.replace(guest.request(fixers={"only": ["uefi-fallback"]}), firmware="uefi")
    guest.fix(request=request)
    boot = guest.folder / "boot/efi/EFI/BOOT"
    assert {path.name: path.read_bytes() for path in boot.iterdir()} == {
        "BOOTX64.EFI": b"shim",
        "grubx64.efi": b"grub",
        "mmx64.efi": b"mok",
    }


def test_the_uefi_fallback_without_shim(guest: Phony) -> None:
    uefi(guest, grubx64=b"grub")
    guest.put("/boot/efi/EFI/aaa/grubx64.efi", b"another's")
    request = dataclasses.replace(guest.request(fixers={"only": ["uefi-fallback"]}), firmware="uefi")
    guest.fix(request=request)
    boot = guest.folder / "boot/efi/EFI/BOOT"
    assert {path.name: path.read_bytes() for path in boot.iterdir()} == {"BOOTX64.EFI": b"grub"}


def test_a_uefi_fallback_that_is_there_stays(guest: Phony) -> None:
    uefi(guest, grubx64=b"grub")
    guest.put("/boot/efi/efi/Boot/bootx64.efi", b"own")
    (guest.folder / "boot/efi/EFI").rename(guest.folder / "boot/efi/tmp")
    (guest.folder / "boot/efi/tmp/debian").rename(guest.folder / "boot/efi/efi/debian")
    (guest.folder / "boot/efi/tmp").rmdir()
    request = dataclasses.replace(guest.request(fixers={"only": ["uefi-fallback"]}), firmware="uefi")
    assert guest.fix(request=request).edits.changes == []


def test_no_loader_to_copy_is_said(guest: Phony) -> None:
    uefi(guest)
    request = dataclasses.replace(guest.request(fixers={"only": ["uefi-fallback"]}), firmware="uefi")
    (warning,) = guest.fix(request=request).warnings
    assert "BOOTX64.EFI" in warning


def test_the_uefi_fallback_through_mtools(guest: Phony, fat: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (guest.folder / "boot/efi").mkdir()
    guest.esp = "/boot/efi"
    tree = guest.tree()
    tree.add_graft("/boot/efi", EspFiles(fat, tmp_path))
    uefi_guest = guest.inspect()
    uefi_guest.bootloader = dataclasses.replace(uefi_guest.bootloader, esp="/boot/efi")
    request = dataclasses.replace(guest.request(fixers={"only": ["uefi-fallback"]}), firmware="uefi")
    plan = plan_fixes(uefi_guest, tree, request)
    plan.edits.apply(tree)
    assert tree.read_bytes("/boot/efi/EFI/BOOT/BOOTX64.EFI") == b"shim" * 1000
    again = EspFiles(fat, tmp_path)
    assert sorted(again.listdir("/efi/boot")) == ["BOOTX64.EFI", "grubx64.efi"]
    assert again.read("/EFI/boot/GRUBX64.efi", 100) == b"grub"
    assert not list((guest.folder / "boot/efi").iterdir())
