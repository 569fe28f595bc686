# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The fixer on guests made of a few files: what is planned, and what is left alone."""

from __future__ import annotations

import dataclasses
import gzip
import lzma
import os
import pathlib
import re
import subprocess
import tracemalloc

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.model import Filesystem, Partition
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.edits import Edits
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.facts import (
    GuestFacts,
    InitramfsTool,
    Kernel,
    Mount,
)
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.fixers.base import FixRequest
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.fixers.linux.initramfs import InitramfsFixer
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.initramfs import cpio, segments
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.initramfs.rootfs import RootFs
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.initramfs.survey import driver_places
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.tree import GuestTree
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol import models, yaml_text
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.errors import JobError

OLD, NEW = "5.9.0-1-amd64", "6.1.0-56-amd64"
DRIVERS = {
    "virtio_ring": "drivers/virtio/virtio_ring",
    "virtio_pci": "drivers/virtio/virtio_pci",
    "virtio_blk": "drivers/block/virtio_blk",
    "virtio_scsi": "drivers/scsi/virtio_scsi",
    "virtio_net": "drivers/net/virtio_net",
    "vmw_pvscsi": "drivers/scsi/vmw_pvscsi",
    "sd_mod": "drivers/scsi/sd_mod",
}
ROOT_UUID, SWAP_UUID = "11111111-2222-3333-4444-555555555555", "66666666-7777-8888-9999-000000000000"


class Guest:
    """A guest below a folder, with as many kernels as wanted."""

    def __init__(self, root: pathlib.Path) -> None:
        self.root = root
        root_fs = Filesystem(Partition("disk0", 1, 0, 0), "ext4", ROOT_UUID)
        swap = Filesystem(Partition("disk0", 2, 0, 0), "swap", SWAP_UUID)
        self.facts = GuestFacts(filesystems=(root_fs, swap), initramfs_tool="initramfs-tools")
        self.facts.mounts = (Mount("/dev/disk/by-path/pci-0-scsi-0-part1", "/", "ext4", "", root_fs),)

    def write(self, path: str, data: str | bytes) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data.encode() if isinstance(data, str) else data)

    def kernel(
        self,
        version: str,
        initramfs: list[cpio.Entry],
        *,
        suffix: str = ".ko",
        modules: tuple[str, ...] = tuple(DRIVERS),
        builtin: tuple[str, ...] = (),
        default: bool = True,
    ) -> None:
        """Add a kernel with modules, and a gzip initramfs of these entries."""
        folder = f"lib/modules/{version}"
        paths = {name: f"kernel/{DRIVERS[name]}{suffix}" for name in modules}
        for name, path in paths.items():
            data = f"module {name}".encode()
            self.write(f"{folder}/{path}", lzma.compress(data) if suffix == ".ko.xz" else data)
        needs = {path: "" if name == "virtio_ring" else paths.get("virtio_ring", "") for name, path in paths.items()}
        self.write(f"{folder}/modules.dep", "".join(f"{path}: {needed}\n" for path, needed in needs.items()))
        self.write(f"{folder}/modules.alias", "".join(f"alias bus:{name}* {name}\n" for name in modules))
        self.write(f"{folder}/modules.builtin", "".join(f"kernel/{DRIVERS[name]}.ko\n" for name in builtin))
        self.write(f"boot/initrd.img-{version}", gzip.compress(cpio.write_archive(initramfs)))
        fact = Kernel(version, f"/boot/vmlinuz-{version}", f"/boot/initrd.img-{version}", f"/{folder}", default)
        self.facts.kernels += (fact,)

    def plan(self, planned_before: dict[str, str] | None = None) -> Edits:
        edits = Edits(GuestTree(self.root))
        for path, text in (planned_before or {}).items():
            edits.write(path, text, why="another fixer's")
        with edits.by("initramfs"):
            InitramfsFixer().plan(self.facts, edits, FixRequest(models.GuestSpec()))
        return edits

    def unpacked(self, edits: Edits, version: str) -> RootFs:
        return segments.parse_bytes(edits.read_bytes(f"/boot/initrd.img-{version}", 1 << 30)).root


@pytest.fixture
def guest(tmp_path: pathlib.Path) -> Guest:
    return Guest(tmp_path / "guest")


def initramfs(
    version: str,
    *extra: cpio.Entry,
    modules: tuple[str, ...] = ("vmw_pvscsi", "sd_mod"),
    suffix: str = ".ko",
    udev: bool = True,
) -> list[cpio.Entry]:
    """What a usrmerged initramfs-tools makes."""
    top = f"usr/lib/modules/{version}"
    folders = [
        "usr",
        "usr/lib",
        "conf",
        "conf/conf.d",
        "etc",
        "scripts",
        "usr/lib/modules",
        top,
        f"{top}/kernel",
        f"{top}/kernel/drivers",
        *(f"{top}/kernel/drivers/{name}" for name in ("scsi", "net", "block", "virtio")),
    ]
    paths = [f"kernel/{DRIVERS[name]}{suffix}" for name in modules]
    entries = [cpio.directory(name) for name in folders]
    entries += [cpio.symlink("lib", "usr/lib"), cpio.file("init", b"#!/bin/sh\n"), cpio.file("scripts/functions", b"")]
    entries += [cpio.file(f"{top}/{path}", b"old") for path in paths]
    entries.append(cpio.file(f"{top}/modules.dep", "".join(f"{path}:\n" for path in paths).encode()))
    entries.append(cpio.file(f"{top}/modules.alias", b"alias old vmw_pvscsi\n"))
    if udev:
        entries += [cpio.file("usr/lib/systemd-udevd", b"x"), cpio.directory("etc/udev")]
    return [*entries, *extra]


def test_every_kernel_gets_what_it_lacks(guest: Guest) -> None:
    guest.kernel(OLD, initramfs(OLD), default=False)
    guest.kernel(NEW, initramfs(NEW))
    edits = guest.plan()
    assert [(change.kind, change.path) for change in edits.changes] == [
        ("append", f"/boot/initrd.img-{OLD}"),
        ("append", f"/boot/initrd.img-{NEW}"),
    ]
    for version in (OLD, NEW):
        root = guest.unpacked(edits, version)
        folder = f"usr/lib/modules/{version}"
        assert root.read(f"{folder}/kernel/drivers/block/virtio_blk.ko") == b"module virtio_blk"
        dep = (root.read(f"{folder}/modules.dep") or b"").decode().splitlines()
        assert "kernel/drivers/scsi/vmw_pvscsi.ko:" in dep
        assert "kernel/drivers/block/virtio_blk.ko: kernel/drivers/virtio/virtio_ring.ko" in dep
        alias = (root.read(f"{folder}/modules.alias") or b"").decode()
        assert "alias old vmw_pvscsi\n" in alias and "alias bus:virtio_pci* virtio_pci\n" in alias
        assert root.nodes["lib"].data == b"usr/lib"
        assert not any("virtio_net" in path for path in root.nodes), "no network drivers were in it before"


def test_second_run_changes_nothing(guest: Guest) -> None:
    guest.write("etc/initramfs-tools/modules", "vmw_pvscsi")
    guest.write("etc/initramfs-tools/conf.d/driver-policy", "MODULES=list\n")
    guest.kernel(NEW, initramfs(NEW, cpio.file("conf/conf.d/resume", b"RESUME=/dev/sda2\n")))
    edits = guest.plan()
    assert edits.read_text("/etc/initramfs-tools/modules").splitlines() == [
        "vmw_pvscsi",
        "virtio_pci",
        "virtio_blk",
        "virtio_scsi",
    ]
    edits.apply(GuestTree(guest.root, writable=True))
    assert guest.plan().changes == []


def test_network_driver_follows_others_and_names_go_with_it(guest: Guest) -> None:
    entries = initramfs(NEW, cpio.file(f"usr/lib/modules/{NEW}/kernel/drivers/net/vmxnet3.ko", b"old"))
    guest.kernel(NEW, entries)
    link = "/etc/systemd/network/10-hyper2kvm-ens192.link"
    edits = guest.plan({link: "[Link]\nName=ens192\n"})
    root = guest.unpacked(edits, NEW)
    assert root.read(f"lib/modules/{NEW}/kernel/drivers/net/virtio_net.ko") == b"module virtio_net"
    assert root.read(link) == b"[Link]\nName=ens192\n"


@pytest.mark.parametrize("inside", [".ko.xz", ".ko"])
def test_modules_stay_compressed_where_the_initramfs_has_such(guest: Guest, inside: str) -> None:
    guest.kernel(NEW, initramfs(NEW, suffix=inside), suffix=".ko.xz")
    root = guest.unpacked(guest.plan(), NEW)
    data = root.read(f"lib/modules/{NEW}/kernel/drivers/block/virtio_blk{inside}")
    assert data is not None
    assert (lzma.decompress(data) if inside == ".ko.xz" else data) == b"module virtio_blk"
    dep = (root.read(f"lib/modules/{NEW}/modules.dep") or b"").decode()
    assert f"kernel/drivers/block/virtio_blk{inside}: kernel/drivers/virtio/virtio_ring{inside}\n" in dep


@pytest.mark.parametrize("where", ["inside", "builtin", "config"])
def test_drivers_that_are_there_are_recognised(guest: Guest, where: str) -> None:
    names = ("virtio_pci", "virtio_blk")
    if where == "inside":
        guest.kernel(NEW, initramfs(NEW, modules=names))
    elif where == "builtin":
        guest.kernel(NEW, initramfs(NEW), modules=(), builtin=names)
    else:
        guest.kernel(NEW, initramfs(NEW), modules=())
        guest.write(f"boot/config-{NEW}", "CONFIG_VIRTIO_PCI=y\nCONFIG_VIRTIO_BLK=y\n")
    guest.facts.initramfs_tool = "dracut"
    guest.write("etc/dracut.conf.d/x.conf", "")
    edits = guest.plan()
    assert edits.changes == [] and edits.warnings == []


def test_kernel_without_virtio_is_refused_only_where_it_is_the_default(guest: Guest) -> None:
    guest.kernel(OLD, initramfs(OLD), modules=("vmw_pvscsi",), default=False)
    guest.kernel(NEW, initramfs(NEW))
    edits = guest.plan()
    assert [change.path for change in edits.changes] == [f"/boot/initrd.img-{NEW}"]
    assert OLD in edits.warnings[0] and "no virtio_pci" in edits.warnings[0]
    guest.kernel("6.5", initramfs("6.5"), modules=("vmw_pvscsi",))
    with pytest.raises(JobError) as failure:
        guest.plan()
    assert failure.value.reason == "KernelWithoutVirtio"


def test_kernel_that_nothing_describes_is_left_to_the_boot_test(guest: Guest) -> None:
    guest.kernel(NEW, initramfs(NEW), modules=())
    edits = guest.plan()
    assert edits.changes == [] and "boot test" in edits.warnings[0]


def test_loader_with_a_list_gets_the_names(guest: Guest) -> None:
    guest.kernel(NEW, initramfs(NEW, cpio.file("conf/modules", b"vmw_pvscsi"), udev=False))
    root = guest.unpacked(guest.plan(), NEW)
    assert root.read("conf/modules") == b"vmw_pvscsi\nvirtio_pci\nvirtio_blk\nvirtio_scsi\n"


def test_loader_of_its_own_is_refused(guest: Guest) -> None:
    guest.kernel(NEW, [cpio.directory("bin"), cpio.file("bin/nash", b""), cpio.file("init", b"insmod /lib/sd.ko")])
    with pytest.raises(JobError) as failure:
        guest.plan()
    assert failure.value.reason == "InitramfsLoaderUnknown"


def test_damaged_initramfs_is_named(guest: Guest) -> None:
    guest.kernel(NEW, initramfs(NEW))
    guest.write(f"boot/initrd.img-{NEW}", b"\x1f\x8b" + bytes(range(200)))
    with pytest.raises(JobError, match=f"/boot/initrd.img-{NEW}"):
        guest.plan()


def test_copies_follow_and_old_device_names_go(guest: Guest) -> None:
    old = "/dev/disk/by-path/pci-0-scsi-0-part1"
    hooks = "var/lib/dracut/hooks/initqueue/finished"
    wants = "etc/systemd/system/initrd.target.wants"
    folders = [
        "var",
        "var/lib",
        "var/lib/dracut",
        "var/lib/dracut/hooks",
        "var/lib/dracut/hooks/initqueue",
        hooks,
        "etc/cmdline.d",
        "etc/systemd",
        "etc/systemd/system",
        wants,
        "cryptroot",
    ]
    guest.write("etc/lvm.conf", "filter = old")
    guest.kernel(
        NEW,
        initramfs(
            NEW,
            *(cpio.directory(name) for name in folders),
            cpio.file("etc/lvm.conf", b"filter = old"),
            cpio.file("etc/cmdline.d/95resume.conf", b"resume=/dev/sda2\n"),
            cpio.file("etc/cmdline.d/95root-dev.conf", f"root={old}\n".encode()),
            cpio.file("cryptroot/crypttab", b"# was /dev/sda9\ncrypt /dev/sda9 none luks\n"),
            cpio.file(f"{hooks}/devexists-a.sh", f'[ -e "{old}" ]\n'.encode()),
            cpio.file(f"{hooks}/devexists-b.sh", b'[ -e "/dev/disk/by-id/wwn-0x6000c29" ]\n'),
            cpio.file(f"{hooks}/devexists-c.sh", b'[ -e "/dev/disk/by-uuid/1234" ]\n'),
            cpio.symlink(f"{wants}/dev-disk-by\\x2did-wwn\\x2d0x6000c29.device", "../x.device"),
            cpio.symlink(f"{wants}/dev-disk-by\\x2duuid-1234.device", "../x.device"),
        ),
    )
    edits = guest.plan({"/etc/lvm.conf": "filter = new"})
    root = guest.unpacked(edits, NEW)
    assert root.read("etc/lvm.conf") == b"filter = new"
    assert root.read("etc/cmdline.d/95resume.conf") == f"resume=UUID={SWAP_UUID}\n".encode()
    assert root.read("etc/cmdline.d/95root-dev.conf") == f"root=UUID={ROOT_UUID}\n".encode()
    assert root.read("cryptroot/crypttab") == b"# was /dev/sda9\ncrypt /dev/sda9 none luks\n"
    assert root.read(f"{hooks}/devexists-a.sh") == f'[ -e "/dev/disk/by-uuid/{ROOT_UUID}" ]\n'.encode()
    assert root.read(f"{hooks}/devexists-b.sh") == b"true\n"
    assert root.read(f"{hooks}/devexists-c.sh") == b'[ -e "/dev/disk/by-uuid/1234" ]\n'
    assert root.nodes[f"{wants}/dev-disk-by\\x2did-wwn\\x2d0x6000c29.device"].data == b"/dev/null"
    assert root.nodes[f"{wants}/dev-disk-by\\x2duuid-1234.device"].data == b"../x.device"
    assert any("/dev/sda9" in warning for warning in edits.warnings)


@pytest.mark.parametrize("builtin", [True, False])
def test_kernel_without_an_initramfs_is_warned_of_unless_all_is_built_in(guest: Guest, builtin: bool) -> None:
    names = ("virtio_pci", "virtio_blk")
    guest.kernel(NEW, [], modules=() if builtin else names, builtin=names if builtin else ())
    guest.facts.kernels = (dataclasses.replace(guest.facts.kernels[0], initramfs=""),)
    edits = guest.plan()
    assert edits.changes == [] and len(edits.warnings) == (0 if builtin else 1)


def test_portrait_tells_where_drivers_are(guest: Guest) -> None:
    modules = ("virtio_ring", "virtio_blk", "virtio_scsi")
    guest.kernel(NEW, initramfs(NEW, modules=("virtio_blk",)), modules=modules, builtin=("virtio_pci",))
    kernel = guest.facts.kernels[0]
    tree = GuestTree(guest.root)
    expected = {"virtio_pci": "builtin", "virtio_blk": "initramfs", "virtio_scsi": "module", "virtio_net": "missing"}
    assert driver_places(tree, NEW, kernel.initramfs, kernel.modules) == expected
    assert driver_places(tree, NEW, "", kernel.modules) == {**expected, "virtio_blk": "module"}


def test_initramfs_that_several_kernels_share_is_patched_once(guest: Guest) -> None:
    guest.kernel(NEW, initramfs(NEW))
    os.symlink(f"initrd.img-{NEW}", guest.root / "boot/initrd.img")
    guest.facts.kernels += (Kernel(NEW, "/boot/vmlinuz", "/boot/initrd.img", f"/lib/modules/{NEW}", True),)
    assert len(guest.plan().changes) == 1


def test_lz4_with_padding_is_written_anew(guest: Guest) -> None:
    guest.kernel(NEW, initramfs(NEW))
    archive = cpio.write_archive(initramfs(NEW))
    lz4 = subprocess.run(["lz4", "-lc"], input=archive, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
    guest.write(f"boot/initrd.img-{NEW}", lz4.stdout + bytes(3))
    edits = guest.plan()
    (change,) = edits.changes
    assert change.kind == "write" and "packed anew" in change.why
    root = guest.unpacked(edits, NEW)
    assert root.read(f"lib/modules/{NEW}/kernel/drivers/block/virtio_blk.ko") == b"module virtio_blk"


@pytest.mark.parametrize("policy", ["most", "dep", "list"])
def test_initramfs_tools_is_told_where_its_policy_would_drop_drivers(guest: Guest, policy: str) -> None:
    guest.write("etc/initramfs-tools/initramfs.conf", f"# MODULES=x\nMODULES={policy}\n")
    guest.kernel(NEW, initramfs(NEW))
    text = guest.plan().text("/etc/initramfs-tools/modules")
    assert text == ("" if policy == "most" else "virtio_pci\nvirtio_blk\nvirtio_scsi\n")


def test_dracut_is_told_and_no_longer_omits(guest: Guest) -> None:
    guest.facts.initramfs_tool = "dracut"
    guest.write("etc/dracut.conf.d/vmware.conf", 'omit_drivers+=" floppy virtio_blk virtio.* "\nhostonly=yes\n')
    guest.kernel(NEW, initramfs(NEW))
    edits = guest.plan()
    assert edits.text("/etc/dracut.conf.d/vmware.conf") == 'omit_drivers+=" floppy "\nhostonly=yes\n'
    assert edits.text("/etc/dracut.conf.d/hyper2kvm.conf") == 'add_drivers+=" virtio_pci virtio_blk virtio_scsi "\n'
    edits.apply(GuestTree(guest.root, writable=True))
    assert guest.plan().changes == []


def test_big_initramfs_is_read_without_being_kept(guest: Guest) -> None:
    """150 MB in 3,000 files."""
    noise = os.urandom(50_000)
    extra = [cpio.file(f"usr/lib/{number}", noise) for number in range(3_000)]
    guest.kernel(NEW, initramfs(NEW))
    packed = subprocess.run(["zstd", "-q1c"], input=cpio.write_archive(initramfs(NEW, *extra)), stdout=-1, check=True)
    guest.write(f"boot/initrd.img-{NEW}", packed.stdout)
    tracemalloc.start()
    edits = guest.plan()
    dummy, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 16_000_000
    assert len(edits.changes) == 1


def test_each_of_several_big_initramfs_is_patched(guest: Guest) -> None:
    """What was planned for one is not read for the next: each is bigger than a file of configuration may be."""
    filling = os.urandom(17 * 1024**2)
    for version in (OLD, NEW):
        guest.kernel(version, initramfs(version, cpio.file("usr/lib/big", filling)), default=version == NEW)
    edits = guest.plan()
    assert [change.path for change in edits.changes] == [f"/boot/initrd.img-{version}" for version in (OLD, NEW)]
    assert not edits.warnings


NASH = """\
#!/bin/nash
mount -t proc /proc /proc
echo "Loading scsi_mod.ko module"
insmod /lib/scsi_mod.ko
echo "Loading mptspi.ko module"
insmod /lib/mptspi.ko
echo Waiting for driver initialization.
stabilized --hash --interval 250 /proc/scsi/scsi
mkblkdevs
resume /dev/sda2
mkrootdev -t ext3 -o defaults,ro /dev/sda1
mount /sysroot
"""


def test_a_script_for_nash_inserts_the_drivers_in_order(guest: Guest) -> None:
    folders = [cpio.directory(name) for name in ("lib", "bin")]
    guest.kernel(NEW, [*folders, cpio.file("lib/mptspi.ko", b"old"), cpio.file("init", NASH.encode(), 0o755)])
    edits = guest.plan()
    root = guest.unpacked(edits, NEW)
    script = (root.read("init") or b"").decode()
    names = ("virtio_ring", "sd_mod", "virtio_blk", "virtio_pci", "virtio_scsi")
    assert re.findall(r"insmod /lib/(\w+)\.ko", script) == ["scsi_mod", "mptspi", *names]
    assert script.index("virtio_scsi") < script.index("stabilized")
    assert f"resume UUID={SWAP_UUID}\n" in script and f"defaults,ro UUID={ROOT_UUID}\n" in script
    assert all(root.read(f"lib/{name}.ko") == f"module {name}".encode() for name in names)
    assert not any(path.startswith("lib/modules") for path in root.nodes)
    assert root.nodes["init"].mode & 0o777 == 0o755
    edits.apply(GuestTree(guest.root, writable=True))
    assert guest.plan().changes == []


BOOSTER = """\
moduledependencies:
    sd_mod:
        - scsi_mod
kernel: 6.1.0
"""


@pytest.mark.parametrize("config", [BOOSTER, "kernel: 6.1.0\n", "moduledependencies: {}\nkernel: 6.1.0\n"])
def test_booster_gets_drivers_into_its_own_lists(guest: Guest, config: str) -> None:
    folders = [cpio.directory(name) for name in ("etc", "usr", "usr/lib", "usr/lib/modules")]
    files = [
        cpio.file("init", b"\x7fELF"),
        cpio.file("etc/booster.init.yaml", config.encode()),
        cpio.file("usr/lib/modules/booster.alias", b"bus:old* vmw_pvscsi\n"),
        cpio.file("usr/lib/modules/sd_mod.ko", b"old"),
    ]
    guest.kernel(NEW, [*folders, *files], suffix=".ko.xz")
    guest.facts.initramfs_tool = "booster"
    edits = guest.plan()
    root = guest.unpacked(edits, NEW)
    settings = yaml_text.load((root.read("etc/booster.init.yaml") or b"").decode())
    assert settings["kernel"] == "6.1.0"
    assert {name: list(settings["moduledependencies"][name]) for name in ("virtio_blk", "virtio_pci")} == {
        "virtio_blk": ["virtio_ring"],
        "virtio_pci": ["virtio_ring"],
    }
    assert settings["moduledependencies"].get("sd_mod", ["scsi_mod"]) == ["scsi_mod"]
    aliases = (root.read("usr/lib/modules/booster.alias") or b"").decode().splitlines()
    assert aliases[0] == "bus:old* vmw_pvscsi" and "bus:virtio_blk* virtio_blk" in aliases
    assert root.read("usr/lib/modules/virtio_blk.ko") == b"module virtio_blk"
    assert root.read("usr/lib/modules/sd_mod.ko") == b"old"
    edits.apply(GuestTree(guest.root, writable=True))
    assert guest.plan().changes == []


ALL = "virtio_pci virtio_blk virtio_scsi"


@pytest.mark.parametrize(
    ("tool", "path", "before", "after"),
    [
        (
            "mkinitcpio",
            "etc/mkinitcpio.conf",
            "MODULES=(btrfs)\n",
            f"MODULES=(btrfs)\nMODULES=(${{MODULES[@]}} {ALL})\n",
        ),
        ("mkinitcpio", "etc/mkinitcpio.conf", f"MODULES=({ALL})\n", f"MODULES=({ALL})\n"),
        (
            "booster",
            "etc/booster.yaml",
            "compression: zstd\n",
            f"compression: zstd\nmodules: {ALL.replace(' ', ',')}\n",
        ),
        ("booster", "etc/booster.yaml", "modules: nvme\n", f"modules: nvme,{ALL.replace(' ', ',')}\n"),
        ("mkinitfs", "etc/mkinitfs/mkinitfs.conf", 'features="base ext4"\n', 'features="base ext4 virtio"\n'),
        ("make-initrd", "etc/initrd.mk", "AUTODETECT = all\n", f"AUTODETECT = all\nMODULES_ADD += {ALL}\n"),
        ("mkinitrd", "etc/sysconfig/kernel", 'A=1\nINITRD_MODULES="mptspi"\n', f'A=1\nINITRD_MODULES="mptspi {ALL}"\n'),
    ],
)
def test_each_tool_keeps_the_drivers(guest: Guest, tool: InitramfsTool, path: str, before: str, after: str) -> None:
    guest.facts.initramfs_tool = tool
    guest.write(path, before)
    guest.kernel(NEW, initramfs(NEW))
    edits = guest.plan()
    assert edits.text(f"/{path}") == after
    edits.apply(GuestTree(guest.root, writable=True))
    assert guest.plan().changes == []


def test_mkinitcpio_with_drop_ins(guest: Guest) -> None:
    guest.facts.initramfs_tool = "mkinitcpio"
    guest.write("etc/mkinitcpio.conf", "MODULES=()\n")
    guest.write("etc/mkinitcpio.conf.d/a.conf", "COMPRESSION=zstd\n")
    guest.kernel(NEW, initramfs(NEW))
    assert guest.plan().text("/etc/mkinitcpio.conf.d/hyper2kvm.conf") == f"MODULES+=({ALL})\n"


def test_lists_of_disks_inside_name_no_hardware(guest: Guest) -> None:
    members = "DEVICE /dev/sda1 /dev/sdb1\nARRAY /dev/md0 UUID=1:2:3:4 devices=/dev/sda1,/dev/sdb1\n"
    folders = [cpio.directory(name) for name in ("etc/lvm", "etc/lvm/devices", "etc/mdadm")]
    files = [
        cpio.file("etc/lvm/devices/system.devices", b"IDTYPE=sys_wwid IDNAME=naa.6 DEVNAME=/dev/sda2 PVID=x\n"),
        cpio.file("etc/mdadm/mdadm.conf", members.encode()),
    ]
    guest.kernel(NEW, initramfs(NEW, *folders, *files))
    edits = guest.plan()
    root = guest.unpacked(edits, NEW)
    named = b"IDTYPE=devname IDNAME=/dev/sda2 DEVNAME=/dev/sda2 PVID=x\n"
    assert root.read("etc/lvm/devices/system.devices") == named
    assert root.read("etc/mdadm/mdadm.conf") == b"DEVICE partitions containers\nARRAY /dev/md0 UUID=1:2:3:4\n"
    edits.apply(GuestTree(guest.root, writable=True))
    assert guest.plan().changes == []
