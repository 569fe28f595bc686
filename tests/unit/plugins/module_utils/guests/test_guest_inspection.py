# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The portrait of a guest."""

from __future__ import annotations

import json
import os
import pathlib

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.bootloader import find_bootloader
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.inspection import firmware_by_partitions
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.kernels import find_kernels, version_key
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.errors import JobError

from tests.unit.plugins.module_utils.guests.phony import GRUB_CFG, Phony, debian, filesystem


def test_a_debian_server(tmp_path: pathlib.Path) -> None:
    guest = debian(tmp_path / "guest")
    facts = guest.inspect()
    assert (facts.os_id, facts.version, facts.pretty_name) == ("debian", "12", "Debian GNU/Linux 12 (bookworm)")
    assert (facts.arch, facts.init, facts.systemd_version) == ("x86_64", "systemd", 252)
    assert (facts.hostname, facts.timezone, facts.machine_id, facts.firmware) == ("web01", "Etc/UTC", True, "bios")
    assert facts.bootloader.kind == "grub2" and facts.bootloader.configs == ("/boot/grub/grub.cfg",)
    (kernel,) = facts.kernels
    assert (kernel.version, kernel.path) == ("6.1.0-9-amd64", "/boot/vmlinuz-6.1.0-9-amd64")
    assert kernel.initramfs == "/boot/initrd.img-6.1.0-9-amd64" and kernel.default
    assert kernel.drivers["virtio_blk"] == "builtin"
    assert guest.folder.joinpath(kernel.modules.replace("/lib", "/usr/lib", 1).lstrip("/")).is_dir()
    assert [(m.mountpoint, m.filesystem and m.filesystem.type) for m in facts.mounts] == [
        ("/", "ext4"),
        ("none", "swap"),
        ("/srv/my data", "xfs"),
        ("/media/cdrom0", None),
    ]
    assert [(tool.name, tool.enabled) for tool in facts.tools] == [("vmware-tools", True)]
    assert facts.services == ("open-vm-tools.service",)
    assert facts.warnings == []


def test_the_portrait_is_harmless_json(tmp_path: pathlib.Path) -> None:
    guest = debian(tmp_path / "guest")
    guest.put("/etc/os-release", 'ID=x\nPRETTY_NAME="evil \x1b[2J"\n')
    document = guest.inspect().to_document()
    assert json.loads(json.dumps(document)) == document
    assert document["prettyName"] == "evil \\x1b[2J"
    assert document["kernels"][0]["default"] is True
    assert document["filesystems"][0]["partition"]["typeId"] == "83"


def test_a_missing_disk_is_a_risk(tmp_path: pathlib.Path) -> None:
    guest = debian(tmp_path / "guest")
    guest.put(
        "/etc/fstab",
        "/dev/sda1 / ext4 defaults\nUUID=gone /data ext4 defaults\nUUID=x /opt ext4 nofail\nnas:/x /n nfs a\n",
    )
    (risk,) = guest.inspect().risks
    assert risk.reason == "MissingFilesystem" and "/data" in risk.message and risk.suggestion


def test_no_kernel_is_a_risk(tmp_path: pathlib.Path) -> None:
    guest = debian(tmp_path / "guest")
    (guest.folder / "boot/vmlinuz-6.1.0-9-amd64").unlink()
    assert "NoKernel" in [risk.reason for risk in guest.inspect().risks]


def test_hibernation_is_a_risk(tmp_path: pathlib.Path) -> None:
    guest = debian(tmp_path / "guest")
    guest.filesystems[1] = filesystem(2, "swsuspend")
    assert "Hibernated" in [risk.reason for risk in guest.inspect().risks]


@pytest.mark.timeout(10)
def test_a_fifo_where_configuration_should_be(tmp_path: pathlib.Path) -> None:
    guest = debian(tmp_path / "guest")
    (guest.folder / "etc/hostname").unlink()
    os.mkfifo(guest.folder / "etc/hostname")
    with pytest.raises(JobError, match="/etc/hostname is a FIFO"):
        guest.inspect()


GPT_ESP = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
GPT_BIOS_BOOT = "21686148-6449-6e6f-744e-656564454649"


@pytest.mark.parametrize(
    ("types", "loader", "bios", "firmware"),
    [
        ([], False, False, "bios"),
        ([GPT_ESP], True, False, "uefi"),
        ([GPT_ESP], True, True, "uefi"),
        ([GPT_ESP, GPT_BIOS_BOOT], True, True, None),
        ([GPT_ESP, GPT_BIOS_BOOT], False, True, "bios"),
        (["ef"], True, False, "uefi"),
    ],
)
def test_firmware_by_the_disk(
    tmp_path: pathlib.Path, types: list[str], loader: bool, bios: bool, firmware: str | None
) -> None:
    guest = debian(tmp_path / "guest")
    guest.esp = "/boot/efi" if types else ""
    guest.filesystems += [filesystem(5 + n, "vfat", type_id=kind) for n, kind in enumerate(types)]
    if loader:
        guest.put("/boot/efi/EFI/debian/shimx64.efi")
    if bios:
        guest.put("/boot/grub/i386-pc/normal.mod")
    facts = guest.inspect()
    assert facts.firmware == firmware
    if types:
        assert facts.bootloader.fallback_loader is False


@pytest.mark.parametrize(
    ("types", "firmware"),
    [([], None), (["83"], "bios"), ([GPT_ESP], "uefi"), ([GPT_ESP, GPT_BIOS_BOOT], None), (["ef"], None)],
)
def test_firmware_of_a_guest_that_cannot_be_seen(types: list[str], firmware: str | None) -> None:
    found = [filesystem(1 + n, "", type_id=kind) for n, kind in enumerate(types)]
    assert firmware_by_partitions(found) == firmware


def default_kernel(guest: Phony) -> str:
    """File name of the kernel that is booted when nobody chooses."""
    with guest.tree() as tree:
        entries = find_bootloader(tree).entries
    return next((e.kernel.rpartition("/")[2] for e in entries if e.default), "")


def kernels_of(guest: Phony) -> list[tuple[str, str, str, bool]]:
    """Version, image, initramfs and whether it is the default."""
    with guest.tree() as tree:
        found = find_kernels(tree, find_bootloader(tree).entries)
    return [(k.version, k.path, k.initramfs, k.default) for k in found]


def test_kernels_of_several_families(tmp_path: pathlib.Path) -> None:
    guest = Phony(tmp_path / "guest")
    for name in (
        "vmlinuz-5.9.0-1-amd64",
        "initrd.img-5.9.0-1-amd64",
        "vmlinuz-5.10.0-2-amd64",
        "vmlinuz-5.10.0-2-amd64.old",
    ):
        guest.put(f"/boot/{name}")
    guest.link("/boot/vmlinuz", "vmlinuz-5.10.0-2-amd64")
    guest.put("/boot/vmlinuz-4.18.0-553.el8.x86_64")
    guest.put("/boot/initramfs-4.18.0-553.el8.x86_64.img")
    guest.put("/boot/initramfs-4.18.0-553.el8.x86_64kdump.img")
    guest.put("/boot/vmlinuz-linux")
    guest.put("/boot/initramfs-linux.img")
    guest.put("/usr/lib/modules/6.9.3-arch1-1/pkgbase", "linux\n")
    guest.put("/boot/vmlinuz-lts")
    guest.put("/boot/initramfs-lts")
    guest.put("/lib/modules/6.6.32-0-lts/modules.dep")
    assert kernels_of(guest) == [
        ("6.9.3-arch1-1", "/boot/vmlinuz-linux", "/boot/initramfs-linux.img", True),
        ("6.6.32-0-lts", "/boot/vmlinuz-lts", "/boot/initramfs-lts", False),
        ("5.10.0-2-amd64", "/boot/vmlinuz-5.10.0-2-amd64", "", False),
        ("5.9.0-1-amd64", "/boot/vmlinuz-5.9.0-1-amd64", "/boot/initrd.img-5.9.0-1-amd64", False),
        (
            "4.18.0-553.el8.x86_64",
            "/boot/vmlinuz-4.18.0-553.el8.x86_64",
            "/boot/initramfs-4.18.0-553.el8.x86_64.img",
            False,
        ),
    ]


def test_versions_sort_as_numbers() -> None:
    versions = ["5.10.0-2", "5.9.0-10", "6.1.0-9", "5.10.0-10", "4.18.0-553.el8"]
    assert sorted(versions, key=version_key) == ["4.18.0-553.el8", "5.9.0-10", "5.10.0-2", "5.10.0-10", "6.1.0-9"]


MENU = GRUB_CFG.replace('set default="0"', 'set default="%s"') + """\
submenu 'Advanced options' $menuentry_id_option 'advanced' {
\tmenuentry 'with 6.1.0-9' $menuentry_id_option 'adv-new' {
\t\tif [ x = y ]; then
\t\t\ttrue
\t\tfi
\t\tlinux\t/vmlinuz-6.1.0-9-amd64 root=/dev/sda1
\t}
\tmenuentry 'with 5.10' $menuentry_id_option 'adv-old' {
\t\tlinux\t/vmlinuz-5.10.0-2-amd64 root=/dev/sda1
\t}
}
"""


@pytest.mark.parametrize(
    ("default", "kernel"),
    [
        ("0", "vmlinuz-6.1.0-9-amd64"),
        ("2", "vmlinuz-6.1.0-9-amd64"),
        ("2>1", "vmlinuz-5.10.0-2-amd64"),
        ("advanced>adv-old", "vmlinuz-5.10.0-2-amd64"),
        ("Advanced options>with 5.10", "vmlinuz-5.10.0-2-amd64"),
        ("${saved_entry}", "vmlinuz-5.10.0-2-amd64"),
        ("no such entry", "vmlinuz-6.1.0-9-amd64"),
    ],
)
def test_the_default_kernel(tmp_path: pathlib.Path, default: str, kernel: str) -> None:
    guest = Phony(tmp_path / "guest")
    guest.put("/boot/grub/grub.cfg", MENU.replace('"%s"', f'"{default}"'))
    guest.put("/boot/grub/grubenv", "# GRUB Environment Block\nsaved_entry=advanced>adv-old\n" + "#" * 900)
    assert default_kernel(guest) == kernel


def test_the_default_kernel_of_bls(tmp_path: pathlib.Path) -> None:
    guest = Phony(tmp_path / "guest")
    guest.put("/boot/grub2/grub.cfg", 'set default="${saved_entry}"\nblscfg\n')
    guest.put("/boot/grub2/grubenv", "# GRUB Environment Block\nsaved_entry=abc-4.18\n")
    for version in ("4.18", "5.14"):
        guest.put(
            f"/boot/loader/entries/abc-{version}.conf", f"title x\nlinux /vmlinuz-{version}\noptions root=/dev/sda1\n"
        )
    with guest.tree() as tree:
        loader = find_bootloader(tree)
        assert loader.kind == "grub2" and len(loader.configs) == 3
    assert default_kernel(guest) == "vmlinuz-4.18"


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        ({"/boot/extlinux/extlinux.conf": "default l0\nlabel l0\n  linux ../vmlinuz-5\n"}, "extlinux"),
        ({"/boot/loader/entries/a.conf": "linux /vmlinuz\n", "/boot/loader/loader.conf": ""}, "systemd-boot"),
        ({"/boot/grub/menu.lst": "default 0\ntitle x\nkernel /vmlinuz-2.6 root=/dev/sda1\n"}, "grub-legacy"),
        ({}, ""),
    ],
)
def test_other_boot_loaders(tmp_path: pathlib.Path, files: dict[str, str], kind: str) -> None:
    guest = Phony(tmp_path / "guest")
    for path, text in files.items():
        guest.put(path, text)
    with guest.tree() as tree:
        loader = find_bootloader(tree)
        assert loader.kind == kind
    expected = {"extlinux": "vmlinuz-5", "grub-legacy": "vmlinuz-2.6", "systemd-boot": "vmlinuz"}
    assert default_kernel(guest) == expected.get(kind, "")


@pytest.mark.parametrize("init", ["openrc", "sysvinit"])
def test_services_without_systemd(tmp_path: pathlib.Path, init: str) -> None:
    guest = debian(tmp_path / "guest")
    (guest.folder / "usr/lib/systemd/systemd").unlink()
    if init == "openrc":
        guest.put("/usr/sbin/openrc")
        guest.put("/etc/init.d/sshd")
        guest.link("/etc/runlevels/default/sshd", "/etc/init.d/sshd")
    else:
        guest.put("/etc/init.d/sshd")
        guest.link("/etc/rc3.d/S02sshd", "../init.d/sshd")
    assert "sshd" in guest.inspect().services


def test_every_risk_says_what_to_do(tmp_path: pathlib.Path) -> None:
    guest = debian(tmp_path / "guest")
    guest.put("/etc/fstab", "/dev/sda1 / ext4 defaults\nUUID=gone /data ext4 defaults\n")
    guest.filesystems[1] = filesystem(2, "swsuspend")
    guest.put("/boot/vmlinuz-5.5")
    guest.put("/boot/initrd.img-5.5", b"\x1f\x8bdamaged")
    (guest.folder / "boot/grub/grub.cfg").unlink()
    risks = guest.inspect().risks
    assert {risk.reason for risk in risks} == {
        "NoBootloader",
        "NoModules",
        "InitramfsDamaged",
        "MissingFilesystem",
        "Hibernated",
    }
    assert all(risk.suggestion for risk in risks)


@pytest.mark.timeout(30)
def test_a_menu_made_to_tire_its_reader(tmp_path: pathlib.Path) -> None:
    guest = debian(tmp_path / "guest")
    deep = "/a" * 6000
    entries = "".join(f"menuentry '{n}' {{\nlinux {deep} root=/dev/sda1\ninitrd {deep}\n}}\n" for n in range(300))
    shallow = "menuentry 'x' {\nlinux /vmlinuz root=/dev/sda1\n}\n" * 100_000
    guest.put("/boot/grub/grub.cfg", entries + shallow)
    guest.put("/etc/udev/rules.d/70-x.rules", 'KERNELS=="0000:0b:00.0" ' * 200_000 + "\n")
    guest.put("/etc/selinux/config", "SELINUX=enforcing\n")
    guest.put("/etc/selinux/targeted/contexts/files/file_contexts", "/.*x\ta:b:c:s0\n" * 300_000)
    assert len(guest.inspect().bootloader.entries) <= 500
    assert guest.plan("network-match", "hypervisor-tools", "interface-names").edits.changes
