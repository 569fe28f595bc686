# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Module indexes, as kmod's own programs read and write them."""

from __future__ import annotations

import pathlib
import subprocess

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.initramfs import index
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.initramfs.modules import (
    Indexes,
    Kernel,
    module_name,
    normalize_alias,
    suffix,
)

VERSION = "6.1.0-1-test"
BLK = "kernel/drivers/block/virtio_blk.ko"
PCI = "kernel/drivers/virtio/virtio_pci.ko.xz"
RING = "kernel/drivers/virtio/virtio_ring.ko.xz"


class Files:
    """A guest's folder of modules that exists in a dictionary."""

    def __init__(self, **files: str) -> None:
        self.files = {f"/lib/modules/{VERSION}/{name.replace('__', '.')}": text for name, text in files.items()}

    def is_file(self, path: str) -> bool:
        return path in self.files

    def read_bytes(self, path: str, limit: int = 0) -> bytes:
        return self.files[path].encode()


def indexes() -> Indexes:
    made = Indexes()
    made.add(
        {BLK: RING, PCI: RING, RING: ""},
        [
            "alias virtio:d00000002v* virtio_blk",
            "alias pci:v00001AF4d*sv*sd*bc*sc*i* virtio_pci",
            "alias dash-and[a-f]-more virtio_blk",
            "alias dash-and[a-f]-more virtio_pci",
        ],
        ["softdep virtio_blk pre: virtio_pci"],
    )
    return made


def test_modprobe_resolves_aliases_in_what_is_written(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "lib/modules" / VERSION
    folder.mkdir(parents=True)
    for name, data in indexes().files().items():
        if not name.endswith("alias"):  # kmod reads the binary ones
            (folder / name).write_bytes(data)

    for path in (BLK, PCI, RING):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()

    def modprobe(*arguments: str) -> list[str]:
        command = ["modprobe", "-d", str(tmp_path), "-S", VERSION, *arguments]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()

    assert modprobe("-R", "virtio:d00000002v00001AF4") == ["virtio_blk"]
    assert modprobe("-R", "pci:v00001AF4d00001042sv00001AF4sd00001100bc01sc00i00") == ["virtio_pci"]
    assert modprobe("-R", "dash-andb-more") == ["virtio_blk", "virtio_pci"]
    loads = [line.split()[1].rpartition("/")[2] for line in modprobe("--show-depends", "virtio-blk")]
    assert list(dict.fromkeys(loads)) == ["virtio_ring.ko.xz", "virtio_pci.ko.xz", "virtio_blk.ko"]


def test_binary_indexes_survive_a_round_trip() -> None:
    items = [("", 5, "empty"), ("a", 0, "one"), ("ab", 2, "x"), ("ab", 7, "y: z"), ("b[c-d]*", 1, "w")]
    assert index.read_index(index.write_index(items)) == items
    assert index.read_index(index.write_index([])) == []


@pytest.mark.parametrize(
    "data",
    [b"", b"\xb0\x07\xf4\x57\0\1\0\0\0\0\0\x0c", b"text" * 9, b"\xb0\x07\xf4\x57\0\2\0\1\xe0\0\0\xff"],
    ids=["empty", "version 1", "text", "beyond the end"],
)
def test_other_bytes_are_no_index(data: bytes) -> None:
    with pytest.raises(index.CorruptIndexError):
        index.read_index(data)


def test_index_that_leads_in_a_circle_is_refused() -> None:
    circle = bytes.fromhex("b007f457 00020001 2000000c 6161 2000000c".replace(" ", ""))
    with pytest.raises(index.CorruptIndexError):
        index.read_index(circle)


@pytest.mark.parametrize("only", ["text", "binary"])
def test_indexes_are_read_from_either_form(only: str) -> None:
    files = {name: data for name, data in indexes().files().items() if name.endswith(".bin") == (only == "binary")}
    found = Indexes.read(files.get)
    assert found.dependencies == {BLK: RING, PCI: RING, RING: ""}
    assert sorted(found.aliases)[-1] == ("virtio:d00000002v*", "virtio_blk")
    assert len(found.aliases) == 4


def test_merging_twice_changes_nothing() -> None:
    once, twice = indexes(), indexes()
    twice.add({BLK: RING}, ["alias virtio:d00000002v* virtio_blk"], ["softdep virtio_blk pre: virtio_pci"])
    assert once.files() == twice.files()


def test_kernel_knows_what_a_module_needs() -> None:
    kernel = Kernel(
        Files(
            modules__dep=f"{BLK}: {RING}\n{RING}:\nkernel/a-b.ko.zst: kernel/c.ko\nkernel/c.ko: \n",
            modules__softdep="# comment\nsoftdep a_b pre: virtio-blk post: gone\n",
            modules__builtin="kernel/drivers/virtio/virtio-core.ko\n",
            modules__alias="# c\nalias one a_b\nalias two-three c\nalias four other\n",
        ),
        f"/lib/modules/{VERSION}",
    )
    assert kernel.closure(["a_b", "unknown"]) == {
        "a_b": "kernel/a-b.ko.zst",
        "c": "kernel/c.ko",
        "virtio_blk": BLK,
        "virtio_ring": RING,
    }
    assert kernel.builtin == {"virtio_core"}
    assert kernel.lines_about("modules.alias", ["a_b", "c"]) == ["alias one a_b", "alias two-three c"]


def test_paths_never_leave_the_folder_of_modules() -> None:
    listing = f"/lib/modules/{VERSION}/kernel/a.ko: /lib/modules/{VERSION}/kernel/b.ko ../../../etc/shadow.ko\n"
    kernel = Kernel(Files(modules__dep=listing + "../up.ko:\nnot-a-module:\n"), f"/lib/modules/{VERSION}")
    assert kernel.dependencies == {"kernel/a.ko": ["kernel/b.ko"]}


def test_guest_without_modules_has_none() -> None:
    kernel = Kernel(Files(), "", {"virtio_blk"})
    assert (kernel.paths, kernel.builtin) == ({}, {"virtio_blk"})


def test_names() -> None:
    assert [module_name(path) for path in ("a/virtio-rng.ko.xz", "b.ko", "b.ko.bz2", "ko", "x.ko.d/y")] == [
        "virtio_rng",
        "b",
        None,
        None,
        None,
    ]
    assert suffix("a/b.c.ko.zst") == ".ko.zst"
    assert normalize_alias("a-b[c-d]e-f") == "a_b[c-d]e_f"
