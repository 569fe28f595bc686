# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The index of an OVA, with Python's tarfile as the oracle."""

from __future__ import annotations

import io
import pathlib
import tarfile
import tempfile

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.tarfiles import index_tar
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.errors import JobError
from hypothesis import given, settings
from hypothesis import strategies as st

LONG = "folder/" * 30 + "x" * 150 + ".vmdk"


def pack(path: pathlib.Path, files: dict[str, bytes], layout: int) -> pathlib.Path:
    with tarfile.open(path, "w", format=layout) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


@pytest.mark.parametrize("layout", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_member_is_found_where_it_lies(tmp_path: pathlib.Path, layout: int) -> None:
    files = {"vm.ovf": b"<x/>", "vm-disk1.vmdk": b"d" * 1500, "sub/empty": b"", "grüße.mf": b"m" * 512}
    if layout != tarfile.USTAR_FORMAT:
        files[LONG] = b"long name"
    path = pack(tmp_path / "vm.ova", files, layout)
    data = path.read_bytes()
    found = index_tar(path)
    assert {name: data[m.offset : m.offset + m.size] for name, m in found.items()} == files


def test_other_kinds_of_members_are_left_out(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "vm.ova"
    with tarfile.open(path, "w") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE):
            member = tarfile.TarInfo("link.ovf")
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
        member = tarfile.TarInfo("./real.ovf")
        member.size = 3
        archive.addfile(member, io.BytesIO(b"abc"))
    assert list(index_tar(path)) == ["real.ovf"]


def test_sizes_beyond_octal(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "vm.ova"
    size = 9 * 1024**3
    header = tarfile.TarInfo("big.vmdk")
    header.size = size
    with path.open("wb") as file:
        file.write(header.tobuf(tarfile.GNU_FORMAT))
        file.truncate(512 + size + 1024)
    assert index_tar(path)["big.vmdk"].size == size


def test_cut_off_member_is_noticed(tmp_path: pathlib.Path) -> None:
    path = pack(tmp_path / "vm.ova", {"vm.vmdk": b"d" * 5000}, tarfile.USTAR_FORMAT)
    with path.open("r+b") as file:
        file.truncate(3000)
    with pytest.raises(JobError, match="truncated"):
        index_tar(path)


def test_a_huge_extended_header_is_not_read(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "vm.ova"
    header = tarfile.TarInfo("bomb")
    header.type, header.size = tarfile.XHDTYPE, 8 * 1024**3
    with path.open("wb") as file:
        file.write(header.tobuf(tarfile.GNU_FORMAT))
        file.truncate(9 * 1024**3)
    with pytest.raises(JobError, match="1 MiB"):
        index_tar(path)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_damage_is_told_or_harmless(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "vm.ova"
        pack(path, {"a.ovf": b"<x/>", LONG: b"y" * 700, "b": b"z" * 513}, tarfile.PAX_FORMAT)
        content = bytearray(path.read_bytes()[:8192])
        for _change in range(data.draw(st.integers(1, 4))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        if data.draw(st.booleans()):
            # Make the header's checksum right again, so that the damage goes deeper.
            for start in range(0, len(content) - 511, 512):
                header = content[start : start + 512]
                if header[257:262] == b"ustar":
                    total = sum(header) - sum(header[148:156]) + 8 * 32
                    content[start + 148 : start + 156] = b"%06o\0 " % total
        path.write_bytes(content)
        try:
            members = index_tar(path)
        except JobError:
            return
        assert all(m.offset >= 0 and m.offset + m.size <= len(content) for m in members.values())
