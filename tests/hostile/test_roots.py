# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whatever documents, packages and images name: nothing outside of the input and output roots is read or written."""

from __future__ import annotations

import io
import json
import os
import pathlib
import subprocess
import tarfile
import typing as t

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.overlay import create_overlay
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.source import open_source
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol import models, validation
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.errors import ErrorClass, JobError
from ansible_collections.hyper2kvm.core.plugins.module_utils.worker.layout import layout_of

from tests.hostile import seeds
from tests.hostile.canary import Canary
from tests.unit.plugins.module_utils.disks.disk_files import StreamVmdk, qemu_img

pytestmark = pytest.mark.timeout(120)

#: Names that mean a file of the canary's folder, or a server, to whoever believes them.
NAMES = (
    "{host}/passwd",
    "../host/passwd",
    "sub/../../host/passwd",
    "./../host/passwd",
    "link",
    "folder/passwd",
    "sub/deep",
    "chain1",
    "loop",
    "fifo",
    "fifo-link",
    "file:{host}/passwd",
    "file://{host}/passwd",
    'json:{{"driver":"raw","file":{{"driver":"file","filename":"{host}/passwd"}}}}',
    "nbd:127.0.0.1:1",
    "nbd://127.0.0.1:1/x",
    "nbd+unix:///x?socket={host}/fifo",
    "http://127.0.0.1:1/x",
    "ssh://127.0.0.1/x",
    "fat:{host}",
    "blkdebug::{host}/passwd",
    "/dev/zero",
    "/proc/self/root{host}/passwd",
    "",
    ".",
    "\0",
    "~/x",
    "$HOME",
    "n" * 5000,
)


@pytest.fixture
def root(tmp_path: pathlib.Path, canary: Canary) -> pathlib.Path:
    """An input root with every kind of link out of it."""
    folder = tmp_path / "input"
    (folder / "sub").mkdir(parents=True)
    (folder / "link").symlink_to(canary.folder / "passwd")
    (folder / "folder").symlink_to(canary.folder)
    (folder / "sub/deep").symlink_to("../../host/passwd")
    (folder / "chain1").symlink_to("chain2")
    (folder / "chain2").symlink_to("sub/deep")
    (folder / "loop").symlink_to("loop")
    (folder / "fifo-link").symlink_to(canary.folder / "fifo")
    os.mkfifo(folder / "fifo")
    return folder


@pytest.fixture(params=NAMES, ids=[name[:30] for name in NAMES])
def name(request: pytest.FixtureRequest, canary: Canary) -> str:
    return str(request.param).format(host=canary.folder)


def refused(read: t.Callable[[], object]) -> JobError:
    """The refusal, which blames the input and cannot steer a terminal."""
    with pytest.raises(JobError) as caught:
        read()
    assert caught.value.error_class in (ErrorClass.INVALID, ErrorClass.UNSUPPORTED)
    assert str(caught.value).isprintable()
    return caught.value


def opened(root: pathlib.Path, path: str, kind: str = "auto") -> object:
    return open_source(models.SourceSpec(path=path, type=models.SourceType(kind)), root)


# -- job documents -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["raw", "qcow2", "vmdk", "ova", "ovf"])
def test_sources(root: pathlib.Path, name: str, kind: str) -> None:
    document = {"path": name, "type": kind}
    job = {"metadata": {"name": "x"}, "spec": {"operation": "inspect", "source": document}}
    refused(lambda: open_source(validation.parse_job(job).spec.source, root))


def test_disks(root: pathlib.Path, name: str) -> None:
    (root / "good.raw").write_bytes(bytes(512))
    job = {"metadata": {"name": "x"}, "spec": {"source": {"disks": [{"path": "good.raw"}, {"path": name}]}}}
    refused(lambda: open_source(validation.parse_job(job).spec.source, root))


@pytest.mark.parametrize(
    "path", ["../host", "/etc", "{host}", "out", "out/x", "sub/../..", ".", ".hyper2kvm", "sub/../.hyper2kvm", "circle"]
)
def test_targets(tmp_path: pathlib.Path, canary: Canary, path: str) -> None:
    output = tmp_path / "output"
    (output / "sub").mkdir(parents=True)
    (output / "out").symlink_to(canary.folder)
    (output / "circle").symlink_to("circle")
    path = path.format(host=canary.folder)
    job = {"metadata": {"name": "x"}, "spec": {"source": {"path": "x"}, "target": {"path": path}}}
    refused(lambda: layout_of(validation.parse_job(job), output))


@pytest.mark.parametrize("name", ["../x", "/x", "a/b", ".", "..", "x\n", "\x1b[2J"])
def test_target_names(name: str) -> None:
    refused(
        lambda: validation.parse_job(
            {"metadata": {"name": "x"}, "spec": {"source": {"path": "x"}, "target": {"name": name}}}
        )
    )


# -- packages ----------------------------------------------------------------------------------------------------------


def test_files_of_an_ovf_folder(root: pathlib.Path, name: str) -> None:
    escaped = name.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;").replace("\0", "&#1;")
    (root / "sub/vm.ovf").write_text(seeds.OVF.replace("d.vmdk", escaped))
    for link in ("link", "folder", "chain1", "chain2", "loop", "fifo-link"):
        (root / "sub" / link).symlink_to(f"../{link}")
    refused(lambda: opened(root, "sub"))
    refused(lambda: opened(root, "sub/vm.ovf"))


@pytest.mark.parametrize("file", ["vm.ovf", "vm.mf"])
def test_descriptors_and_manifests_that_are_links(root: pathlib.Path, canary: Canary, file: str) -> None:
    (root / "sub/vm.ovf").write_text(seeds.OVF)
    (root / "sub/d.vmdk").write_bytes(b"x")
    (root / "sub" / file).unlink(missing_ok=True)
    (root / "sub" / file).symlink_to(canary.folder / "passwd")
    assert refused(lambda: opened(root, "sub")).reason == "PathRefused"


@pytest.mark.parametrize("member", ["symbolic", "hard", "device", "fifo", "absolute", "above", "escape", "twice"])
def test_members_of_an_ova(root: pathlib.Path, canary: Canary, member: str) -> None:
    disk = StreamVmdk({0: b"a" * 65536}).build(root / "d").read_bytes()
    names = {"absolute": f"{canary.folder}/passwd", "above": "../host/passwd", "escape": "\x1b]0;x\x07"}
    name = names.get(member, "d.vmdk")
    with tarfile.open(root / "vm.ova", "w") as tar:

        def add(name: str, data: bytes) -> None:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))

        add("vm.ovf", seeds.OVF.replace("d.vmdk", name.replace("\x1b", "").replace("\x07", "")).encode())
        info = tarfile.TarInfo(name)
        kinds = {
            "symbolic": tarfile.SYMTYPE,
            "hard": tarfile.LNKTYPE,
            "device": tarfile.CHRTYPE,
            "fifo": tarfile.FIFOTYPE,
        }
        if member in kinds:
            info.type, info.linkname = kinds[member], f"{canary.folder}/passwd"
            tar.addfile(info)
        else:
            add(name, disk)
        if member == "twice":
            add(name, b"x")
    if member in ("absolute", "above"):
        # A member's name is a key and never a path: these bytes are the archive's own.
        source = t.cast("t.Any", opened(root, "vm.ova"))
        assert source.images[0].path == root / "vm.ova"
    else:
        refused(lambda: opened(root, "vm.ova"))
    assert sorted(path.name for path in root.parent.iterdir()) == ["host", "input"]


# -- images ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["FLAT", "VMFS", "SPARSE", "VMFSSPARSE", "SESPARSE", "VMFSRDM", "ZERO"])
def test_extents(root: pathlib.Path, name: str, kind: str) -> None:
    text = seeds.DESCRIPTOR.replace(b"flat.raw", name.encode()).replace(b"FLAT", kind.encode())
    (root / "x.vmdk").write_bytes(text)
    refused(lambda: opened(root, "x.vmdk"))


def test_parent_hints(root: pathlib.Path, name: str) -> None:
    (root / "flat.raw").write_bytes(bytes(1024**2))
    hint = f'parentFileNameHint="{name}"\n'
    (root / "x.vmdk").write_bytes(
        seeds.DESCRIPTOR.replace(b"parentCID=ffffffff", b"parentCID=00000001") + hint.encode()
    )
    refused(lambda: opened(root, "x.vmdk"))
    StreamVmdk({0: b"a" * 65536}, parent="00000001", descriptor_tail=hint[:2000]).build(root / "y.vmdk")
    refused(lambda: opened(root, "y.vmdk"))


def test_backing_files(root: pathlib.Path, name: str) -> None:
    qemu_img("create", "-q", "-f", "qcow2", root / "x.qcow2", "1M")
    raw = name.encode()[:1000]
    with (root / "x.qcow2").open("r+b") as file:
        # Header extensions begin at 104 or 112; the name goes behind them, within the first cluster.
        file.seek(2048)
        file.write(raw or b"/")
        file.seek(8)
        file.write((2048).to_bytes(8, "big") + max(1, len(raw)).to_bytes(4, "big"))
    refused(lambda: opened(root, "x.qcow2"))


def test_data_files(root: pathlib.Path, canary: Canary, tmp_path: pathlib.Path) -> None:
    outside = tmp_path / "outside.raw"
    qemu_img("create", "-q", "-f", "qcow2", "-o", f"data_file={outside},data_file_raw=on", root / "x.qcow2", "1M")
    refused(lambda: opened(root, "x.qcow2"))


@pytest.mark.parametrize("header", ["qcow2", "vmdk", "vmdk-descriptor", "luks", "vhd", "vdi", "json"])
def test_a_raw_disk_stays_raw(root: pathlib.Path, canary: Canary, header: str) -> None:
    qemu_img("create", "-q", "-f", "qcow2", "-b", canary.folder / "passwd", "-F", "raw", root / "evil.qcow2", "1M")
    canary.touched()  # by qemu-img, which made it
    first = {
        "qcow2": (root / "evil.qcow2").read_bytes(),
        "vmdk": StreamVmdk({0: b"a" * 65536}).build(root / "v").read_bytes()[:65536],
        "vmdk-descriptor": seeds.DESCRIPTOR.replace(b"flat.raw", str(canary.folder / "passwd").encode()),
        "luks": b"LUKS\xba\xbe\0\1",
        "vhd": b"conectix" + bytes(504),
        "vdi": b"<<< Oracle VM VirtualBox Disk Image >>>\n".ljust(64, b"\0") + b"\x7f\x10\xda\xbe",
        "json": b"json:{}",
    }[header]
    disk = root / "disk.raw"
    disk.write_bytes(first.ljust(1024**2, b"\0"))
    for source in (opened(root, "disk.raw"), opened(root, "disk.raw", "raw")):
        (image,) = t.cast("t.Any", source).images
        assert (image.format, image.virtual_size) == ("raw", disk.stat().st_size)
        overlay = root.parent / "overlay.qcow2"
        create_overlay(overlay, image)
        about = json.loads(qemu_img("info", "--output=json", overlay))
        assert about["backing-filename-format"] == "raw"
        qemu_img("convert", "-f", "qcow2", "-O", "raw", overlay, root.parent / "flat")
        subprocess.run(["cmp", disk, root.parent / "flat"], check=True)
