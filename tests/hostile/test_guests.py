# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Guests whose filesystems are traps: the real stages inspect, plan and fix run on each, beside a watched canary."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import socket
import stat
import subprocess
import sys
import typing as t

import pytest

from tests.e2e.migration import REPOSITORY
from tests.hostile.canary import Canary
from tests.unit.plugins.module_utils.guests.phony import Phony, debian

MIB = 1024**2
ESCAPE = "\x1b]0;owned\x07\x1b[2J"
#: For one guest, on a busy machine; a FIFO that is opened would wait for ever. Seconds.
PATIENCE = 240

Spring = t.Callable[[Phony, Canary], None]


@dataclasses.dataclass(frozen=True)
class Trap:
    """One way to build a guest against its worker."""

    spring: Spring
    reasons: frozenset[str] = frozenset()
    """Reasons of a refusal, one of which is right; empty: the guest is taken."""
    debugfs: tuple[str, ...] = ()
    """What is done to the finished filesystem, as debugfs(8) commands."""
    label: str = "root"
    second: bool = False
    """Whether there is another disk, whose filesystem holds links to the host."""


TRAPS: dict[str, Trap] = {}


def trap(*reasons: str, **more: t.Any) -> t.Callable[[Spring], Spring]:
    """Enter a function that changes a sound guest."""

    def enter(spring: Spring) -> Spring:
        TRAPS[spring.__name__] = Trap(spring, frozenset(reasons), **more)
        return spring

    return enter


def replace(guest: Phony, path: str, target: str | os.PathLike[str]) -> None:
    """Put a symbolic link in the place of a file or an (emptied) folder."""
    place = guest.folder / path.lstrip("/")
    if place.is_symlink() or place.is_file():
        place.unlink()
    elif place.is_dir():
        place.rename(place.with_name(place.name + ".away"))
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(target)


@trap()
def absolute_links_to_the_hosts_files(guest: Phony, canary: Canary) -> None:
    for path in ("/etc/fstab", "/etc/hosts", "/etc/default/grub", "/boot/grub/device.map", "/etc/hostname"):
        replace(guest, path, canary.folder / "passwd")
    for path in ("/etc/crypttab", "/etc/netplan/x.yaml", "/etc/machine-id", "/etc/initramfs-tools/conf.d/resume"):
        replace(guest, path, canary.folder / "fifo")


@trap()
def relative_links_to_the_hosts_files(guest: Phony, canary: Canary) -> None:
    up = "../" * 40
    for path in ("/etc/fstab", "/etc/hosts", "/etc/default/grub", "/etc/hostname"):
        replace(guest, path, up + str(canary.folder / "passwd").lstrip("/"))
    replace(guest, "/etc/crypttab", "/proc/1/root" + str(canary.folder / "fstab"))
    replace(guest, "/etc/adjtime", "/proc/self/cwd/x")


@trap()
def folders_that_are_links_to_the_hosts(guest: Phony, canary: Canary) -> None:
    for path in (
        *(
            "/etc/network",
            "/etc/systemd/network",
            "/etc/initramfs-tools",
            "/etc/ssh",
            "/etc/udev/rules.d",
        ),
        *("/usr/share/zoneinfo", "/etc/dracut.conf.d", "/boot/efi", "/boot/loader/entries"),
    ):
        replace(guest, path, canary.folder / "inside")
    # What the links mean to the guest is its own folder of that name.
    guest.put(f"{canary.folder}/inside/Europe/Berlin", "TZif")


@trap("LinkedKeys")
def a_home_that_leads_out(guest: Phony, canary: Canary) -> None:
    guest.put(str(canary.folder / "inside/passwd"), "the guest's\n")
    replace(guest, "/home/admin/.ssh", canary.folder / "inside")


@trap("NoHome")
def a_home_that_is_a_link_to_nowhere(guest: Phony, canary: Canary) -> None:
    replace(guest, "/home/admin", canary.folder / "inside")


@trap()
def boot_that_is_the_root(guest: Phony, canary: Canary) -> None:
    for name in ("vmlinuz-6.1.0-9-amd64", "initrd.img-6.1.0-9-amd64"):
        (guest.folder / "boot" / name).rename(guest.folder / name)
    (guest.folder / "boot/grub").rename(guest.folder / "grub")
    replace(guest, "/boot", "/")


@trap("NoOperatingSystem")
def etc_that_leads_up(guest: Phony, canary: Canary) -> None:
    replace(guest, "/etc", "../../..")
    (guest.folder / "usr/lib/os-release").unlink(missing_ok=True)


@trap("SymlinkLoop")
def links_in_a_circle(guest: Phony, canary: Canary) -> None:
    replace(guest, "/etc/fstab", "crypttab")
    replace(guest, "/etc/crypttab", "fstab")


@trap("SymlinkLoop")
def a_boot_folder_in_a_circle(guest: Phony, canary: Canary) -> None:
    replace(guest, "/boot", "boot")


@trap("NoRegularFile")
def a_fifo_for_fstab(guest: Phony, canary: Canary) -> None:
    (guest.folder / "etc/fstab").unlink()
    os.mkfifo(guest.folder / "etc/fstab")


@trap("NoRegularFile")
def a_device_for_os_release(guest: Phony, canary: Canary) -> None:
    (guest.folder / "etc/os-release").unlink()
    os.mknod(guest.folder / "etc/os-release", stat.S_IFCHR | 0o666, os.makedev(1, 5))


@trap()
def fifos_devices_and_sockets_among_the_configuration(guest: Phony, canary: Canary) -> None:
    for path in ("/etc/netplan/a.yaml", "/etc/systemd/network/a.link", "/etc/dracut.conf.d/a.conf"):
        place = guest.folder / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        os.mkfifo(place)
    os.mknod(guest.folder / "boot/vmlinuz-zero", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    os.mknod(guest.folder / "boot/vmlinuz-loop", stat.S_IFBLK | 0o666, os.makedev(7, 0))
    (guest.folder / "etc/udev/rules.d").mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.open(guest.folder / "etc/udev/rules.d", os.O_PATH)
        listener.bind(f"/proc/self/fd/{here}/a.rules")
        os.close(here)


@trap()
def names_that_steer_a_terminal(guest: Phony, canary: Canary) -> None:
    guest.put("/etc/os-release", f'ID=debian\nVERSION_ID="{ESCAPE}"\nPRETTY_NAME="Debian {ESCAPE}"\n')
    guest.put("/etc/hostname", f"web{ESCAPE}\n")
    guest.put(f"/etc/network/interfaces.d/evil\n{ESCAPE}", f"iface ens{ESCAPE}224 inet static\n address 1{ESCAPE}\n")
    guest.put(
        f"/etc/systemd/network/\u202e{ESCAPE}.link", f"[Match]\nMACAddress=00:50:56:ab:10:21\n[Link]\nName={ESCAPE}\n"
    )
    guest.put(f"/boot/vmlinuz-6.1{ESCAPE}\n", "kernel")
    guest.put(f"/boot/initrd.img-6.1{ESCAPE}\n", f"no archive {ESCAPE}")
    (guest.folder / f"usr/lib/modules/6.1{ESCAPE}\n").mkdir()
    guest.put(
        "/etc/fstab",
        f"/dev/sda1 / ext4 rw 0 1\n/dev/sdz{ESCAPE} /srv{ESCAPE} ext4 rw 0 2\nUUID={ESCAPE} /a\\012b xfs rw 0 0\n"
        f"/dev/sdz9 /x\\033[2J ext4 rw 0 0\n",
    )
    guest.put("/etc/crypttab", f"root{ESCAPE} /dev/sdy{ESCAPE}\n")
    guest.put("/boot/grub/grub.cfg", f"linux /boot/vmlinuz-6.1.0-9-amd64 root=/dev/sda1 resume=/dev/sdx{ESCAPE}\n")
    (guest.folder / "etc/systemd/system" / f"{ESCAPE}.wants").mkdir(parents=True, exist_ok=True)
    guest.put(f"/etc/systemd/system/x.wants/{ESCAPE}.service")


@trap("GuestFileTooBig")
def ten_gib_of_fstab(guest: Phony, canary: Canary) -> None:
    os.truncate(guest.folder / "etc/fstab", 10 * 1024**3)


@trap("GuestFileTooBig")
def ten_gib_of_grub(guest: Phony, canary: Canary) -> None:
    os.truncate(guest.folder / "boot/grub/grub.cfg", 10 * 1024**3)


@trap("InitramfsTooBig")
def ten_gib_of_initramfs(guest: Phony, canary: Canary) -> None:
    os.truncate(guest.folder / "boot/initrd.img-6.1.0-9-amd64", 10 * 1024**3)


@trap("GuestFileProtected", debugfs=("set_inode_field /etc/fstab flags 0x80010",))
def an_immutable_fstab(guest: Phony, canary: Canary) -> None:
    """0x10: EXT4_IMMUTABLE_FL; 0x80000: EXT4_EXTENTS_FL, as mke2fs sets it."""


@trap()
def hard_links_across(guest: Phony, canary: Canary) -> None:
    for path in ("etc/fstab", "boot/grub/grub.cfg", "etc/default/grub"):
        os.link(guest.folder / path, guest.folder / "srv" / pathlib.Path(path).name)


@trap(label="a\nTYPE=xfs\nU", second=True)
def mounts_that_lead_out(guest: Phony, canary: Canary) -> None:
    guest.link("/srv/out", str(canary.folder))
    guest.link("/srv/up", "../" * 30 + str(canary.folder).lstrip("/"))
    guest.link("/srv/circle", "circle")
    places = (
        *(str(canary.folder), "/../../.." + str(canary.folder), "/srv/out/inside", "/srv/up/inside", "/nul\\000byte"),
        *("/etc/../../x", "/proc", "/sys", "/dev", "relative", "/srv/" + "d/" * 3000, "/" + "n" * 300, "/srv/circle"),
    )
    lines = "".join(f"/dev/sdb {place} ext4 rw 0 0\n{canary.folder} {place} none bind 0 0\n" for place in places)
    guest.put(
        "/etc/fstab", f"/dev/sda / ext4 rw 0 1\n{lines}/dev/sdb /srv ext4 rw 0 2\n/dev/sdb /srv/host ext4 rw 0 2\n"
    )


@dataclasses.dataclass
class Outcome:
    """What a person and a program get of a guest."""

    result: dict[str, t.Any]
    error: dict[str, str]
    workdir: pathlib.Path


def carry_out(guest: Phony, canary: Canary, found: Trap, folder: pathlib.Path) -> Outcome:
    """Make a disk of the guest, and let the stages work on it."""
    roots = [folder / "input", folder / "work"]
    for root in roots:
        root.mkdir()
    disk = filesystem(roots[0] / "disk.raw", guest.folder, found.label)
    for command in found.debugfs:
        tool("debugfs", "-w", "-R", command, disk)
    names = [disk.name]
    if found.second:
        data = folder / "data"
        data.mkdir()
        (data / "host").symlink_to(canary.folder)
        names.append(filesystem(roots[0] / "data.raw", data, found.label).name)
    done = subprocess.run(
        [sys.executable, "-m", "tests.hostile.carry_out", *roots, *names],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY / ".collections")},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    answer = json.loads(done.stdout)
    return Outcome(answer.get("result", {}), answer.get("error", {}), roots[1])


def filesystem(image: pathlib.Path, content: pathlib.Path, label: str) -> pathlib.Path:
    """An image of one filesystem."""
    with image.open("wb") as file:
        file.truncate(64 * MIB)
    tool("mke2fs", "-q", "-t", "ext4", "-L", label, "-d", content, image)
    return image


def tool(*args: str | pathlib.Path) -> bytes:
    """A tool that must succeed."""
    return subprocess.run(args, check=True, capture_output=True, timeout=PATIENCE).stdout


def texts(value: t.Any) -> t.Iterator[str]:
    """Every text of a document, and every key."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts(inner)
    elif isinstance(value, str):
        yield value


@pytest.mark.timeout(PATIENCE * 2)
@pytest.mark.parametrize("name", TRAPS)
def test_a_trap(name: str, tmp_path: pathlib.Path, canary: Canary) -> None:
    found = TRAPS[name]
    guest = debian(tmp_path / "guest")
    (guest.folder / "srv").mkdir(exist_ok=True)
    found.spring(guest, canary)
    assert canary.touched() == []

    outcome = carry_out(guest, canary, found, tmp_path)

    if found.reasons:
        assert outcome.error.get("reason") in found.reasons, outcome
        assert outcome.error["class"] in ("invalid", "unsupported")
    else:
        assert not outcome.error, outcome.error
        assert outcome.result["guest"]["osId"] == "debian"
        assert outcome.result["changes"]
    for text in texts([outcome.result, outcome.error]):
        # A diff has lines, and tabs as the guest's file has them.
        assert text.replace("\n", "").replace("\t", "").isprintable(), repr(text)
    canary.check()


def test_the_canary_sings(canary: Canary) -> None:
    (canary.folder / "passwd").read_bytes()
    assert canary.touched()
    os.stat(canary.folder / "passwd")
    assert not canary.touched(), "looking up a name is no event; opening is"


def test_other_names_of_a_file_keep_their_content(tmp_path: pathlib.Path, canary: Canary) -> None:
    guest = debian(tmp_path / "guest")
    (guest.folder / "srv").mkdir()
    os.link(guest.folder / "etc/fstab", guest.folder / "srv/mine")
    before = guest.text("/etc/fstab").encode()

    outcome = carry_out(guest, canary, Trap(lambda guest, canary: None), tmp_path)

    assert "/etc/fstab" in {change["path"] for change in outcome.result["changes"]}
    flat = tmp_path / "flat.raw"
    tool("qemu-img", "convert", "-O", "raw", outcome.workdir / "disk0.overlay.qcow2", flat)
    assert tool("debugfs", "-R", "cat /srv/mine", flat) == before
    assert b"UUID=" in tool("debugfs", "-R", "cat /etc/fstab", flat)
