# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Small inputs that describe something endless: each is refused within the time and memory of an honest one."""

from __future__ import annotations

import json
import pathlib
import struct
import tarfile
import typing as t

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks import ovf, partitions, qcow2, tarfiles, vmdk
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.file_range import FileRange
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.source import open_source
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.initramfs import index, modules
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.netconfig import read_interfaces
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.tree import GuestTree
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol import models, validation
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.errors import JobError

from tests.hostile import seeds
from tests.unit.plugins.module_utils.disks.disk_files import StreamVmdk, qemu_img

pytestmark = pytest.mark.timeout(60)
TIB = 1024**4


def refused(read: t.Callable[[], object]) -> JobError:
    """The refusal of an input."""
    with pytest.raises(JobError) as caught:
        read()
    return caught.value


# -- job documents -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x]\nb: [*a, *a]\n",
        "!!python/object/apply:os.system [id]\n",
        "[" * 100_000,
        '{"a":' * 100_000,
        "a: " + "[" * 500_000,
        "a: " * 3 + "\n",
        "- " * 20_000,
        "x" * 2 * 1024**2,
    ],
    ids=["aliases", "tags", "deep-list", "deep-mapping", "deep-flow", "nested", "deep-block", "long"],
)
def test_job_documents_that_grow(text: str) -> None:
    assert refused(lambda: validation.parse_job(text)).reason == "InvalidDocument"


def test_a_refusal_shows_no_escape_of_the_document() -> None:
    error = refused(lambda: validation.parse_job('{"spec": {"\\u001b]0;owned\\u0007": 1}, "\\u202e": 2}'))
    assert str(error).isprintable()
    assert all(problem.field.isprintable() for problem in validation.find_problems('{"\\u001b": 1}'))


# -- packages ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        "<a/>" * 3_000_000,
        f'<x xmlns:p="{"u" * 1_000_000}">' + "".join(f"<p:e{i}/>" for i in range(50_000)) + "</x>",
        f"<x {'a' * 5000}='1'/>",
        "<x>" * 5000,
        "<?xml version='1.0' encoding='UTF-16'?>",
    ],
    ids=["elements", "namespace", "attribute", "depth", "encoding"],
)
def test_xml_that_grows(body: str) -> None:
    assert refused(lambda: ovf.parse_ovf(f"<Envelope>{body}</Envelope>".encode(), "x.ovf")).reason == "BadOvf"


@pytest.mark.parametrize(
    "doctype",
    [
        '<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>',
        '<!DOCTYPE x SYSTEM "http://127.0.0.1:1/x.dtd">',
        '<!DOCTYPE x [<!ENTITY % p SYSTEM "file:///etc/passwd"> %p;]>',
        '<!DOCTYPE x [<!ENTITY a "aaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>',
    ],
    ids=["file", "network", "parameter", "laughs"],
)
def test_xml_entities(doctype: str) -> None:
    text = seeds.OVF.replace('<?xml version="1.0"?>', f'<?xml version="1.0"?>{doctype}')
    error = refused(lambda: ovf.parse_ovf(text.encode(), "x.ovf"))
    assert "DOCTYPE" in error.message


def test_a_thousand_disks() -> None:
    item = seeds.OVF[seeds.OVF.index("<Item><rasd:InstanceID>4") : seeds.OVF.index("<Item><rasd:InstanceID>5")]
    text = seeds.OVF.replace(item, item * 1000)
    assert refused(lambda: ovf.parse_ovf(text.encode(), "x.ovf")).reason == "TooManyDisks"


def test_a_megabyte_of_tiny_tar_records(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "x.ova"
    record = b"5 a=\n"
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 200_000 * len(record)
    data = record * 200_000
    padded = data + bytes(-len(data) % 512)
    with path.open("wb") as file:
        for dummy in range(20):
            file.write(header.tobuf(tarfile.USTAR_FORMAT) + padded)
    assert refused(lambda: tarfiles.index_tar(path)).reason == "BadOva"


# -- disks -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", ["a=" + " " * 900_000 + "x", "RW " + "1 " * 400_000, 'b="' + "x" * 900_000])
def test_a_vmdk_descriptor_of_one_line(line: str) -> None:
    text = seeds.DESCRIPTOR + line.encode()
    assert refused(lambda: vmdk.parse_descriptor(text, "x.vmdk")).reason == "BadVmdk"


@pytest.mark.parametrize("capacity", [1 << 60, (64 * TIB // 512) + 1, (1 << 63) // 512])
def test_a_vmdk_of_a_size_beyond_reason(tmp_path: pathlib.Path, capacity: int) -> None:
    path = StreamVmdk({0: b"a" * 65536}, header_capacity=None).build(tmp_path / "x.vmdk")
    with path.open("r+b") as file:
        for place in (12, path.stat().st_size - 1024 + 12):
            file.seek(place)
            file.write(struct.pack("<Q", capacity))
    assert refused(lambda: open_source(models.SourceSpec(path="x.vmdk"), tmp_path)).reason == "BadVmdk"


def test_a_flat_extent_of_a_size_beyond_reason(tmp_path: pathlib.Path) -> None:
    (tmp_path / "x.vmdk").write_bytes(seeds.DESCRIPTOR.replace(b"2048", b"999999999999999"))
    (tmp_path / "flat.raw").write_bytes(b"x")
    assert refused(lambda: open_source(models.SourceSpec(path="x.vmdk"), tmp_path)).reason == "BadVmdk"


@pytest.mark.parametrize("size", [1 << 62, 64 * TIB + 512, (1 << 64) - 1, 0])
def test_a_qcow2_of_a_size_beyond_reason(tmp_path: pathlib.Path, size: int) -> None:
    path = tmp_path / "x.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", path, "1M")
    with path.open("r+b") as file:
        file.seek(24)
        file.write(size.to_bytes(8, "big"))
        file.seek(36)
        file.write(((1 << 32) - 1).to_bytes(4, "big"))
    with FileRange(path) as image:
        assert refused(lambda: qcow2.read_header(image)).reason in ("BadQcow2", "Truncated")


def test_a_partition_table_that_never_ends() -> None:
    entries = [{"node": f"d{n}", "start": 1, "size": 1, "type": "83"} for n in range(5000)]
    text = json.dumps({"partitiontable": {"label": "gpt", "partitions": entries}}).encode()
    assert refused(lambda: partitions.parse_table(text, "disk0", 1 << 40)).reason == "TooManyPartitions"


@pytest.mark.parametrize("start", [-5, "99999999999999999999", 1e999, None, [], "x"])
def test_partitions_outside_the_disk(start: object) -> None:
    entry = {"node": "d1", "start": start, "size": 8, "type": "83"}
    text = json.dumps({"partitiontable": {"label": "gpt", "partitions": [entry]}}).encode()
    assert refused(lambda: partitions.parse_table(text, "disk0", 1 << 30)).reason == "PartitionTable"


# -- guests ------------------------------------------------------------------------------------------------------------


def test_a_module_index_without_end() -> None:
    # A node whose 256 children are the node itself: 256 ** 512 paths, and not one item.
    node = struct.pack(">III", 0xB007F457, 0x00020001, 12 | 0x20000000) + bytes((0, 255))
    data = node + struct.pack(">I", 12 | 0x20000000) * 256
    with pytest.raises(index.CorruptIndexError, match="loop"):
        index.read_index(data)


def test_a_module_index_of_one_long_key() -> None:
    data = struct.pack(">III", 0xB007F457, 0x00020001, 12 | 0x80000000) + b"k" * 1_000_000 + b"\0"
    with pytest.raises(index.CorruptIndexError):
        index.read_index(data)


def test_modules_that_need_what_is_not_there() -> None:
    class Files:
        def is_file(self, path: str) -> bool:
            return path.endswith("modules.dep")

        def read_bytes(self, path: str, limit: int = 0) -> bytes:
            return "a.ko: gone.ko\nü.ko:\n".encode()

    kernel = modules.Kernel(Files(), "/lib/modules/1")
    assert kernel.closure(["a"]) == {"a": "a.ko"}
    merged = modules.Indexes()
    merged.add({"ü.ko": "", "a.ko": ""}, [], [])
    assert [key for key, dummy, dummy in index.read_index(merged.files()["modules.dep.bin"])] == ["a"]


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x,x,x,x,x,x,x,x,x]\n"
        + "".join(f"{c}: &{c} [{','.join([f'*{p}'] * 9)}]\n" for p, c in zip("abcdefgh", "bcdefghi", strict=True))
        + "network: {ethernets: {ens1: {addresses: [*i]}}}\n",
        "network: !!int ''\n",
        "network: !!timestamp x\n",
        "network: !!bool x\n",
        "network: {ethernets: {[a, b]: {}, ens1: 3}}\n",
        "network: {ethernets: {ens1: {match: [1], set-name: {a: b}, addresses: {a: 1}}}}\n",
        "network: {ethernets: {ens1: {<<: [{a: 1}, 2]}}}\n",
        "[" * 20_000,
        "\x1b: \x00\n",
    ],
    ids=["laughs", "int", "timestamp", "bool", "key", "types", "merge", "deep", "control"],
)
def test_netplan_files_that_are_traps(tmp_path: pathlib.Path, text: str) -> None:
    (tmp_path / "etc/netplan").mkdir(parents=True)
    (tmp_path / "etc/netplan/x.yaml").write_text(text)
    with GuestTree(tmp_path) as tree:
        assert len(str(read_interfaces(tree))) < 1000


def test_netplan_says_yes_in_many_ways(tmp_path: pathlib.Path) -> None:
    (tmp_path / "etc/netplan").mkdir(parents=True)
    for number, word in enumerate(("yes", "true", "no", "False")):
        (tmp_path / f"etc/netplan/{number}.yaml").write_text(
            f"network: {{ethernets: {{e{number}: {{dhcp4: {word}}}}}}}\n"
        )
    with GuestTree(tmp_path) as tree:
        assert [interface.dhcp for interface in read_interfaces(tree)] == [True, True, False, False]


def test_a_folder_with_thousands_of_configuration_files(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "etc/systemd/network"
    folder.mkdir(parents=True)
    for number in range(1200):
        (folder / f"{number}.network").touch()
    with GuestTree(tmp_path) as tree:
        assert refused(lambda: read_interfaces(tree)).reason == "GuestFolderTooBig"
