# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The builder of guests: the files that it writes, judged by the programs that read them. Needs no root."""

from __future__ import annotations

import hashlib
import itertools
import json
import pathlib
import random
import re
import struct
import subprocess
import tarfile

import pytest

from tests.guests import cut_short
from tests.guests.disk import layout, write_table
from tests.guests.grub import nvram_variables
from tests.guests.ova import write_ova
from tests.guests.specs import MIB, SPECS
from tests.guests.vmdk import write_stream_optimized


def _sparse_disk(path: pathlib.Path, size: int) -> pathlib.Path:
    """A disk with data at its start, at its end and in a few places between."""
    numbers = random.Random(1)
    with path.open("xb") as file:
        file.truncate(size)
        for position in (0, 3 * MIB + 512, 33 * MIB, 70 * MIB - 65536, size - 512):
            file.seek(position)
            file.write(numbers.randbytes(min(200_000, size - position)))
    return path


def _compare(vmdk: pathlib.Path, raw: pathlib.Path) -> None:
    subprocess.run(["qemu-img", "compare", "-f", "vmdk", "-F", "raw", vmdk, raw], check=True, capture_output=True)


def test_a_stream_optimized_vmdk_is_read_by_qemu_as_the_disk_that_it_came_from(tmp_path: pathlib.Path) -> None:
    raw = _sparse_disk(tmp_path / "disk.raw", 96 * MIB)
    vmdk = tmp_path / "disk.vmdk"

    populated = write_stream_optimized(raw, vmdk)

    _compare(vmdk, raw)
    assert populated < 2 * MIB and vmdk.stat().st_size < 2 * MIB


def test_the_grain_directory_is_at_the_end_as_vmware_puts_it(tmp_path: pathlib.Path) -> None:
    vmdk = tmp_path / "disk.vmdk"
    write_stream_optimized(_sparse_disk(tmp_path / "disk.raw", 96 * MIB), vmdk)

    content = vmdk.read_bytes()

    assert struct.unpack_from("<Q", content, 56) == (2**64 - 1,)
    assert content[-1024:-1020] == b"KDMV" and content[-512:] == bytes(512)
    (directory,) = struct.unpack_from("<Q", content, len(content) - 1024 + 56)
    assert directory * 512 < len(content) - 1024


def test_each_grain_says_where_on_the_disk_it_belongs(tmp_path: pathlib.Path) -> None:
    vmdk = tmp_path / "disk.vmdk"
    write_stream_optimized(_sparse_disk(tmp_path / "disk.raw", 96 * MIB), vmdk)
    content = vmdk.read_bytes()
    (directory,) = struct.unpack_from("<Q", content, len(content) - 1024 + 56)

    grains = 0
    for number, table in enumerate(struct.unpack_from("<3I", content, directory * 512)):
        for entry, sector in enumerate(struct.unpack_from("<512I", content, table * 512) if table else ()):
            if sector:
                assert struct.unpack_from("<Q", content, sector * 512) == ((number * 512 + entry) * 128,)
                grains += 1
    assert grains > 10


def test_an_ova_has_its_description_first_and_digests_that_hold(tmp_path: pathlib.Path) -> None:
    spec = SPECS["debian12-uefi"]
    vmdk = tmp_path / "disk.vmdk"
    populated = write_stream_optimized(_sparse_disk(tmp_path / "disk.raw", 96 * MIB), vmdk)

    write_ova(spec, vmdk, populated, tmp_path / "it.ova")

    with tarfile.open(tmp_path / "it.ova") as archive:
        names = archive.getnames()
        members = {name: archive.extractfile(name) for name in names}
        content = {name: file.read() for name, file in members.items() if file}
    assert [name.rsplit(".")[-1] for name in names] == ["ovf", "mf", "vmdk", "nvram"]
    assert not any("/" in name for name in names)
    digests = re.findall(r"SHA256\((\S+)\)= ([0-9a-f]{64})", content["debian12-uefi.mf"].decode())
    assert len(digests) == 3
    for name, digest in digests:
        assert hashlib.sha256(content[name]).hexdigest() == digest
    assert {path.name for path in tmp_path.iterdir()} == {"it.ova", "disk.raw"}


@pytest.mark.parametrize("name", SPECS)
def test_partitions_are_what_sfdisk_finds(tmp_path: pathlib.Path, name: str) -> None:
    spec = SPECS[name]
    slices = layout(spec)
    disk = tmp_path / "disk.raw"

    write_table(disk, spec, slices)

    shown = subprocess.run(["sfdisk", "-J", disk], check=True, capture_output=True)
    table = json.loads(shown.stdout)["partitiontable"]
    assert table["label"] == ("gpt" if spec.firmware == "uefi" else "dos")
    found = [(part["start"] * 512, part["size"] * 512) for part in table["partitions"]]
    assert found == [(part.start, part.size) for part in slices]
    assert all(later.start == part.start + part.size for part, later in itertools.pairwise(slices))


def test_boot_variables_are_appended_to_the_firmwares_own(tmp_path: pathlib.Path) -> None:
    template = pathlib.Path("/usr/share/OVMF/OVMF_VARS_4M.fd").read_bytes()
    esp = layout(SPECS["debian12-uefi"])[0]

    store = nvram_variables(template, esp)

    assert len(store) == len(template)
    assert r"\EFI\debian\grubx64.efi".encode("utf-16-le") in store
    assert struct.pack("<IQQ", 1, esp.start // 512, esp.size // 512) in store


def test_an_ova_that_was_cut_short_is_no_whole_one(tmp_path: pathlib.Path) -> None:
    whole = tmp_path / "whole.ova"
    whole.write_bytes(bytes(range(256)) * 40)

    cut_short(whole, tmp_path / "cut.ova")

    assert (tmp_path / "cut.ova").read_bytes() == whole.read_bytes()[:7680]
