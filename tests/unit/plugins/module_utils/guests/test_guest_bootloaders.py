# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Boot loaders other than a plain GRUB: which kernels they start, and what of them is changed."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import subprocess

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.esp import EspFiles
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.facts import GuestFacts
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.initramfs.cpio import directory, file, write_archive
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.inspection import inspect
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.planning import plan_fixes
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.roots import MountedGuest
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.tree import GuestTree
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.errors import JobError

from tests.unit.plugins.module_utils.guests.phony import ROOT_UUID, Phony, debian, efi_program, filesystem, x86_kernel

MACHINE = "0123456789abcdef0123456789abcdef"
ESP_TYPE = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
BUILTIN = "".join(f"kernel/drivers/{name}.ko\n" for name in ("virtio_pci", "virtio_blk", "virtio_scsi", "virtio_net"))


@pytest.fixture
def guest(tmp_path: pathlib.Path) -> Phony:
    """A server without any boot loader or kernel."""
    guest = debian(tmp_path / "guest")
    for path in sorted((guest.folder / "boot").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    return guest


def modules(guest: Phony, *versions: str) -> None:
    """Kernels' folders of modules, with virtio built in."""
    for version in versions:
        guest.put(f"/usr/lib/modules/{version}/modules.builtin", BUILTIN)
        guest.put(f"/usr/lib/modules/{version}/modules.dep")


def kernels(guest: Phony) -> list[tuple[str, str, str, bool]]:
    """Version, image, initramfs, whether it is the default."""
    return [(k.version, k.path, k.initramfs, k.default) for k in guest.inspect().kernels]


INITRAMFS = write_archive([file("init", b"#!/bin/sh")])


def test_systemd_boot_with_its_kernels_on_the_esp(guest: Phony) -> None:
    modules(guest, "6.1.0-9-amd64", "6.12.1-2-amd64")
    for version, tries in (("6.1.0-9-amd64", ""), ("6.12.1-2-amd64", "+3-0")):
        guest.put(f"/efi/{MACHINE}/{version}/linux", x86_kernel(version))
        guest.put(f"/efi/{MACHINE}/{version}/initrd.img", INITRAMFS)
        guest.put(
            f"/efi/loader/entries/{MACHINE}-{version}{tries}.conf",
            f"# comment\ntitle\tDebian\nversion    {version}\noptions    root=/dev/sda1 rw\n"
            f"linux      /{MACHINE}/{version}/linux\ninitrd     /{MACHINE}/{version}/initrd.img\n",
        )
    guest.put("/efi/loader/loader.conf", "timeout 3\n")
    newest = ("6.12.1-2-amd64", f"/efi/{MACHINE}/6.12.1-2-amd64/linux", f"/efi/{MACHINE}/6.12.1-2-amd64/initrd.img")
    older = ("6.1.0-9-amd64", f"/efi/{MACHINE}/6.1.0-9-amd64/linux", f"/efi/{MACHINE}/6.1.0-9-amd64/initrd.img")
    assert kernels(guest) == [(*newest, True), (*older, False)]
    guest.put("/efi/loader/loader.conf", f"default {MACHINE}-6.1.*\n")
    assert kernels(guest) == [(*newest, False), (*older, True)]

    plan = guest.fix("grub", "serial-console")
    assert len([change for change in plan.edits.changes if "/loader/" in change.path]) == 4
    entry = guest.text(f"/efi/loader/entries/{MACHINE}-6.12.1-2-amd64+3-0.conf")
    assert f"options    root=UUID={ROOT_UUID} rw console=tty0 console=ttyS0,115200\n" in entry
    assert "title\tDebian\n" in entry and "default" in guest.text("/efi/loader/loader.conf")


def test_an_efi_stub_that_chains_to_the_configuration_in_boot(guest: Phony) -> None:
    stub = f"search.fs_uuid {ROOT_UUID} root hd0,gpt2\nset prefix=($root)'/boot/grub'\nconfigfile $prefix/grub.cfg\n"
    guest.put("/boot/efi/EFI/debian/grub.cfg", stub)
    guest.put(
        "/boot/grub/grub.cfg",
        "set default=1\nmenuentry 'new' {\nlinux /boot/vmlinuz-6.1 root=/dev/sda1\ninitrd /boot/initrd.img-6.1\n}\n"
        "menuentry 'old' {\nlinux /boot/vmlinuz-5.10 root=/dev/sda1\ninitrd /boot/initrd.img-5.10\n}\n",
    )
    for version in ("6.1", "5.10"):
        guest.put(f"/boot/vmlinuz-{version}")
        guest.put(f"/boot/initrd.img-{version}", INITRAMFS)
    modules(guest, "6.1", "5.10")
    assert [(kernel[0], kernel[-1]) for kernel in kernels(guest)] == [("6.1", False), ("5.10", True)]
    plan = guest.fix("grub")
    assert [change.path for change in plan.edits.changes if change.path.startswith("/boot")] == ["/boot/grub/grub.cfg"]
    assert guest.text("/boot/efi/EFI/debian/grub.cfg") == stub
    assert plan.warnings == []
    assert [entry.title for entry in guest.inspect().bootloader.entries] == ["new", "old"]


def test_a_kernel_in_a_btrfs_subvolume(guest: Phony) -> None:
    guest.put(
        "/boot/grub/grub.cfg", "menuentry 'x' {\nlinux /@/boot/vmlinuz-6.1 root=/dev/sda1 rootflags=subvol=@\n}\n"
    )
    guest.put("/boot/vmlinuz-6.1")
    assert [k[1] for k in kernels(guest)] == ["/boot/vmlinuz-6.1"]


def test_photon_names_its_kernel_in_a_file_of_variables(guest: Phony) -> None:
    guest.put(
        "/boot/linux-6.1.10-1.ph5.cfg",
        "photon_cmdline=init=/lib/systemd/systemd ro quiet\nphoton_linux=vmlinuz-6.1.10-1.ph5\n"
        "photon_initrd=initrd.img-6.1.10-1.ph5\n",
    )
    guest.link("/boot/photon.cfg", "linux-6.1.10-1.ph5.cfg")
    guest.put("/boot/vmlinuz-6.1.10-1.ph5")
    guest.put("/boot/initrd.img-6.1.10-1.ph5", INITRAMFS)
    guest.put("/boot/vmlinuz-6.1.9-1.ph5")
    guest.put(
        "/boot/grub2/grub.cfg",
        'set default=0\nload_env -f /photon.cfg\nset rootpartition=/dev/sda1\nmenuentry "Photon" {\n'
        "    linux /$photon_linux root=$rootpartition $photon_cmdline $systemd_cmdline\n"
        "    if [ -f /$photon_initrd ]; then\n        initrd /$photon_initrd\n    fi\n}\n",
    )
    modules(guest, "6.1.10-1.ph5", "6.1.9-1.ph5")
    assert kernels(guest) == [
        ("6.1.10-1.ph5", "/boot/vmlinuz-6.1.10-1.ph5", "/boot/initrd.img-6.1.10-1.ph5", True),
        ("6.1.9-1.ph5", "/boot/vmlinuz-6.1.9-1.ph5", "", False),
    ]
    guest.fix("grub", "serial-console")
    assert f"set rootpartition=UUID={ROOT_UUID}\n" in guest.text("/boot/grub2/grub.cfg")
    assert "linux /$photon_linux root=$rootpartition $photon_cmdline $systemd_cmdline\n" in guest.text(
        "/boot/grub2/grub.cfg"
    )
    assert "photon_cmdline=init=/lib/systemd/systemd ro quiet console=tty0 console=ttyS0,115200\n" in guest.text(
        "/boot/photon.cfg"
    )


def test_alpine_with_extlinux(guest: Phony) -> None:
    guest.put(
        "/boot/extlinux.conf",
        "DEFAULT menu.c32\nDEFAULT lts\nLABEL lts\n  MENU DEFAULT\n  LINUX vmlinuz-lts\n  INITRD initramfs-lts\n"
        "  APPEND root=/dev/sda1 modules=sd-mod,usb-storage,ext4 quiet\n",
    )
    guest.put("/etc/update-extlinux.conf", 'default_kernel_opts="quiet rootfstype=ext4"\nroot=/dev/sda1\n')
    guest.put("/boot/vmlinuz-lts", x86_kernel("6.6.32-0-lts"))
    guest.put("/boot/initramfs-lts", INITRAMFS)
    assert [k[:3] for k in kernels(guest)] == [("6.6.32-0-lts", "/boot/vmlinuz-lts", "/boot/initramfs-lts")]
    guest.fix("grub", "serial-console")
    console = "console=tty0 console=ttyS0,115200"
    assert f"APPEND root=UUID={ROOT_UUID} modules=sd-mod,usb-storage,ext4 quiet {console}\n" in guest.text(
        "/boot/extlinux.conf"
    )
    assert guest.text("/etc/update-extlinux.conf") == (
        f'default_kernel_opts="quiet rootfstype=ext4 {console}"\nroot=UUID={ROOT_UUID}\n'
    )


def test_a_kernel_with_two_initramfs_is_there_twice(guest: Phony) -> None:
    guest.put("/boot/vmlinuz-linux", x86_kernel("6.9.3-arch1-1"))
    for name, image in (("arch", "initramfs-linux.img"), ("arch-fallback", "initramfs-linux-fallback.img")):
        guest.put(f"/boot/{image}", INITRAMFS)
        guest.put(
            f"/boot/loader/entries/{name}.conf",
            f"title {name}\nlinux /vmlinuz-linux\ninitrd /intel-ucode.img\ninitrd /{image}\n"
            "options root=/dev/sda1 rw\n",
        )
    guest.put("/boot/intel-ucode.img", INITRAMFS)
    guest.put("/boot/loader/loader.conf", "default arch.conf\n")
    assert kernels(guest) == [
        ("6.9.3-arch1-1", "/boot/vmlinuz-linux", "/boot/initramfs-linux-fallback.img", False),
        ("6.9.3-arch1-1", "/boot/vmlinuz-linux", "/boot/initramfs-linux.img", True),
    ]


def test_refind(guest: Phony) -> None:
    guest.put(
        "/boot/refind_linux.conf", '"Standard"  "root=/dev/sda1 ro quiet"\n"Single"  "root=/dev/sda1 ro single"\n'
    )
    guest.put("/boot/vmlinuz-6.1")
    guest.put("/boot/initrd.img-6.1", INITRAMFS)
    assert guest.inspect().bootloader.kind == "refind"
    guest.fix("grub", "serial-console")
    words = f"root=UUID={ROOT_UUID} ro"
    console = "console=tty0 console=ttyS0,115200"
    assert guest.text("/boot/refind_linux.conf") == (
        f'"Standard"  "{words} quiet {console}"\n"Single"  "{words} single {console}"\n'
    )


def test_a_memory_test_is_no_kernel(guest: Phony) -> None:
    guest.put("/boot/grub/grub.cfg", "menuentry 'Memory test' {\nlinux16 /boot/memtest86+.bin\n}\n")
    guest.put("/boot/memtest86+.bin", x86_kernel("5.0"))
    assert kernels(guest) == []


# -- unified kernel images ---------------------------------------------------------------------------------------------

VERSION = "6.12.1-200.fc41.x86_64"
SERIAL = "console=ttyS0"


def initrd(*names: str) -> bytes:
    """An initramfs with udev and these modules."""
    folder = f"usr/lib/modules/{VERSION}"
    folders = [directory(name) for name in ("usr", "usr/lib", "usr/lib/modules", folder)]
    udev = [file("usr/lib/systemd-udevd", b"x")]
    return write_archive([*folders, *udev, *(file(f"{folder}/{name}.ko", b"module") for name in names)])


def unified(guest: Phony, options: str, *drivers: str) -> str:
    """A guest whose only kernel is unified."""
    path = f"/efi/EFI/Linux/fedora-{VERSION}.efi"
    program = {
        ".osrel": b'ID=fedora\nPRETTY_NAME="Fedora 41"\n',
        ".cmdline": options.encode(),
        ".uname": VERSION.encode(),
        ".linux": b"kernel",
        ".initrd": initrd(*drivers),
    }
    guest.put(path, efi_program(program, signed=True))
    folder = f"/usr/lib/modules/{VERSION}"
    guest.put(f"{folder}/modules.dep", "".join(f"kernel/{n}.ko:\n" for n in ("virtio_pci", "virtio_blk")))
    guest.put(f"{folder}/vmlinuz", x86_kernel(VERSION))
    guest.esp = "/efi"
    guest.filesystems.append(filesystem(5, "vfat", "AAAA-BBBB", type_id=ESP_TYPE))
    return path


def test_a_unified_kernel_that_fits_is_left_alone(guest: Phony) -> None:
    path = unified(guest, f"root=UUID={ROOT_UUID} ro {SERIAL}", "virtio_pci", "virtio_blk")
    facts = guest.inspect()
    assert facts.bootloader.kind == "unified"
    (kernel,) = facts.kernels
    assert (kernel.version, kernel.path, kernel.default, kernel.unified) == (VERSION, path, True, True)
    assert (kernel.drivers["virtio_blk"], kernel.drivers["virtio_scsi"]) == ("initramfs", "missing")
    plan = guest.fix("unified-kernel", "initramfs", "grub", "serial-console")
    assert plan.warnings == [] and [c.path for c in plan.edits.changes if c.path.startswith("/efi")] == []


@pytest.mark.parametrize(
    ("options", "drivers", "words"),
    [
        (f"root=/dev/sda1 {SERIAL}", ("virtio_pci", "virtio_blk"), "its command line names /dev/sda1"),
        (f"root=UUID={ROOT_UUID} {SERIAL}", ("virtio_pci",), "its initramfs lacks virtio_blk"),
    ],
)
def test_a_unified_kernel_that_does_not_fit_is_refused(
    guest: Phony, options: str, drivers: tuple[str, ...], words: str
) -> None:
    unified(guest, options, *drivers)
    with pytest.raises(JobError, match=words) as caught:
        guest.plan("unified-kernel")
    assert caught.value.reason == "UnifiedKernelUnfit" and "rebuild the image" in str(caught.value.suggestion)


def test_one_of_several_kernels_that_does_not_fit_is_a_warning(guest: Phony) -> None:
    path = unified(guest, "root=/dev/sda1")
    modules(guest, "6.1")
    guest.put("/efi/loader/entries/old.conf", "title old\nlinux /vmlinuz-6.1\noptions root=/dev/sda1\n")
    guest.put("/efi/vmlinuz-6.1", x86_kernel("6.1"))
    facts = guest.inspect()
    assert facts.bootloader.kind == "systemd-boot"
    assert [(k.version, k.default) for k in facts.kernels] == [(VERSION, False), ("6.1", True)]
    (warning,) = guest.plan("unified-kernel").warnings
    assert path in warning and "will not boot" in warning


def test_a_unified_kernel_without_a_serial_console_is_said(guest: Phony) -> None:
    unified(guest, f"root=UUID={ROOT_UUID}", "virtio_pci", "virtio_blk")
    (warning,) = guest.plan("unified-kernel").warnings
    assert "no serial console" in warning


def test_a_unified_kernel_stands_in_for_a_missing_boot_loader(guest: Phony) -> None:
    path = unified(guest, f"root=UUID={ROOT_UUID} {SERIAL}", "virtio_pci", "virtio_blk")
    request = dataclasses.replace(guest.request(fixers={"only": ["uefi-fallback"]}), firmware="uefi")
    plan = guest.fix(request=request)
    assert (guest.folder / "efi/EFI/BOOT/BOOTX64.EFI").read_bytes() == (guest.folder / path.lstrip("/")).read_bytes()
    assert any("does not follow updates" in warning for warning in plan.warnings)


# -- the loader at UEFI's default place --------------------------------------------------------------------------------


def esp(guest: Phony, vendor: str, **files: bytes) -> None:
    """An EFI system partition with a vendor's folder; ``__`` in a name is a dot."""
    guest.esp = "/boot/efi"
    guest.filesystems.append(filesystem(5, "vfat", "AAAA-BBBB", type_id=ESP_TYPE))
    for name, data in files.items():
        guest.put(f"/boot/efi/EFI/{vendor}/{name.replace('__', '.')}", data)


def fallback(guest: Phony, *, secure_boot: bool = False) -> tuple[dict[str, bytes], list[str]]:
    """Content of the default place after the fixer, and its warnings."""
    request = dataclasses.replace(
        guest.request(fixers={"only": ["uefi-fallback"]}), firmware="uefi", secure_boot=secure_boot
    )
    warnings = guest.fix(request=request).warnings
    folder = guest.folder / "boot/efi/EFI/BOOT"
    return {path.name: path.read_bytes() for path in folder.iterdir()}, warnings


def test_the_chain_of_suse(guest: Phony) -> None:
    esp(guest, "opensuse", shim__efi=b"shim", grub__efi=b"grub", MokManager__efi=b"mok", grub__cfg=b"search x")
    assert fallback(guest)[0] == {
        "BOOTX64.EFI": b"shim",
        "grub.efi": b"grub",
        "MokManager.efi": b"mok",
        "grub.cfg": b"search x",
    }


def test_grub_that_names_its_folder_needs_no_copy_of_its_configuration(guest: Phony) -> None:
    esp(guest, "debian", grubx64__efi=b"mods\0/EFI/debian\0", grub__cfg=b"search x")
    assert set(fallback(guest)[0]) == {"BOOTX64.EFI"}


@pytest.mark.parametrize("signed", [True, False])
def test_what_secure_boot_will_refuse_is_said(guest: Phony, signed: bool) -> None:
    esp(guest, "debian", grubx64__efi=efi_program(signed=signed))
    dummy, warnings = fallback(guest, secure_boot=True)
    assert len(warnings) == (0 if signed else 1)
    assert signed or "carries no signature" in warnings[0]


@pytest.mark.parametrize("console", ["console=hvc0", "console=xvc0"])
def test_the_console_of_xen_becomes_a_serial_one(guest: Phony, console: str) -> None:
    guest.put("/boot/vmlinuz-2.6")
    guest.put("/boot/initrd-2.6.img", INITRAMFS)
    guest.put("/boot/grub/menu.lst", f"title x\nkernel /vmlinuz-2.6 root=/dev/xvda1 {console} ro\n")
    guest.put("/etc/default/grub", f'GRUB_CMDLINE_LINUX="{console}"\n')
    (guest.folder / "usr/lib/systemd/systemd").unlink()
    port = console.partition("=")[2]
    guest.put(
        "/etc/inittab", f"1:2345:respawn:/sbin/getty 38400 tty1\nco:2345:respawn:/sbin/agetty {port} 9600 vt100\n"
    )
    guest.put("/etc/securetty", "tty1\n")
    guest.fix("grub", "serial-console")
    assert guest.text("/boot/grub/menu.lst").endswith(f" root=UUID={ROOT_UUID} console=ttyS0,115200 ro\n")
    assert guest.text("/etc/default/grub") == 'GRUB_CMDLINE_LINUX="console=ttyS0,115200"\n'
    assert guest.text("/etc/inittab").endswith("\nco:2345:respawn:/sbin/agetty ttyS0 9600 vt100\n")
    assert guest.text("/etc/securetty") == "tty1\nttyS0\n"


# -- kernels on an EFI system partition that the host cannot mount -----------------------------------------------------


def fat_with(folder: pathlib.Path, files: dict[str, bytes], megabytes: int = 40) -> pathlib.Path:
    """A FAT filesystem with these files."""
    image, content = folder / "esp.img", folder / "esp"
    for name, data in files.items():
        (content / name).parent.mkdir(parents=True, exist_ok=True)
        (content / name).write_bytes(data)
    with image.open("wb") as file:
        file.truncate(megabytes * 1024**2)
    subprocess.run(["mkfs.vfat", image], check=True, capture_output=True)
    environment = {**os.environ, "MTOOLSRC": "/dev/null"}
    command = ["mcopy", "-s", "-i", image, *content.iterdir(), "::/"]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    return image


def initramfs_for_vmware(version: str, size: int = 0) -> bytes:
    """One with udev and without virtio, and with ballast that does not pack."""
    folder = f"usr/lib/modules/{version}"
    folders = [directory(name) for name in ("usr", "usr/lib", "usr/lib/modules", folder)]
    return write_archive([*folders, file("usr/lib/systemd-udevd", b"x"), file("ballast", os.urandom(size))])


def systemd_boot_on_fat(guest: Phony, tmp_path: pathlib.Path, ballast: int, megabytes: int) -> GuestTree:
    """A guest whose kernel is on its ESP, which is read and written by mtools."""
    version, folder = "6.1.0-9-amd64", f"{MACHINE}/6.1.0-9-amd64"
    esp_files = {
        f"{folder}/linux": x86_kernel(version),
        f"{folder}/initrd.img": initramfs_for_vmware(version, ballast),
        f"loader/entries/{MACHINE}-{version}.conf": (
            f"title Debian\nversion {version}\noptions root=/dev/sda1\nlinux /{folder}/linux\n"
            f"initrd /{folder}/initrd.img\n"
        ).encode(),
        "loader/loader.conf": b"timeout 3\n",
        "EFI/systemd/systemd-bootx64.efi": efi_program(),
    }
    guest.put(f"/usr/lib/modules/{version}/modules.builtin")
    modules_of = {name: f"kernel/{name}.ko" for name in ("virtio_pci", "virtio_blk")}
    for name, path in modules_of.items():
        guest.put(f"/usr/lib/modules/{version}/{path}", f"module {name}")
    guest.put(f"/usr/lib/modules/{version}/modules.dep", "".join(f"{path}:\n" for path in modules_of.values()))
    (guest.folder / "efi").mkdir()
    tree = guest.tree()
    tree.add_graft("/efi", EspFiles(fat_with(tmp_path, esp_files, megabytes), tmp_path))
    return tree


def portrait(guest: Phony, tree: GuestTree) -> GuestFacts:
    """The portrait of a guest with a grafted ESP."""
    esp_partition = filesystem(5, "vfat", "AAAA-BBBB", type_id=ESP_TYPE)
    return inspect(MountedGuest(tree, guest.filesystems[0], esp="/efi"), [*guest.filesystems, esp_partition])


def test_an_initramfs_on_an_esp_without_vfat(guest: Phony, tmp_path: pathlib.Path) -> None:
    tree = systemd_boot_on_fat(guest, tmp_path, 20 * 1024**2, 80)
    facts = portrait(guest, tree)
    (kernel,) = facts.kernels
    assert kernel.initramfs == f"/efi/{MACHINE}/6.1.0-9-amd64/initrd.img" and kernel.drivers["virtio_blk"] == "module"
    request = dataclasses.replace(guest.request(), firmware="uefi")
    plan = plan_fixes(facts, tree, request)
    plan.edits.apply(tree)
    facts = portrait(guest, tree)
    assert facts.kernels[0].drivers["virtio_blk"] == "initramfs"
    assert f"options root=UUID={ROOT_UUID} console=" in tree.read_text(facts.bootloader.configs[1])
    assert facts.bootloader.fallback_loader is True
    assert plan_fixes(facts, tree, request).edits.changes == []
    assert not list((guest.folder / "efi").iterdir())


def test_an_esp_that_is_too_small_is_found_before_anything_is_written(guest: Phony, tmp_path: pathlib.Path) -> None:
    tree = systemd_boot_on_fat(guest, tmp_path, 8 * 1024**2, 9)
    before = (tmp_path / "esp.img").read_bytes()
    with pytest.raises(JobError, match="/efi") as caught:
        plan_fixes(portrait(guest, tree), tree, dataclasses.replace(guest.request(), firmware="uefi"))
    assert caught.value.reason == "GuestFilesystemFull" and "bytes are missing" in caught.value.message
    assert (tmp_path / "esp.img").read_bytes() == before
