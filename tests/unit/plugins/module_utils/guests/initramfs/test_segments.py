# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Initramfs files of any shape: found apart, and appended to so that a kernel reads on."""

from __future__ import annotations

import os
import subprocess

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.initramfs import codec, cpio, segments
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.initramfs.codec import Compression
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.errors import JobError

PACKERS = {
    Compression.GZIP: ("gzip", "-nc"),
    Compression.XZ: ("xz", "-c", "--check=crc32"),
    Compression.ZSTD: ("zstd", "-qc"),
    Compression.LZ4: ("lz4", "-lqc"),
    Compression.LZO: ("lzop", "-qc"),
    Compression.BZIP2: ("bzip2", "-c"),
    Compression.LZMA: ("lzma", "-c"),
    Compression.NONE: ("cat",),
}
NOISE = os.urandom(300_000)
BASE = cpio.write_archive(
    [cpio.directory("etc"), cpio.file("etc/noise", NOISE), cpio.file("etc/text", b"a" * 3_000_000)]
)
EARLY = cpio.write_archive([cpio.file("microcode", b"m" * 999)])
MORE = cpio.write_archive([cpio.file("etc/more", b"more")])


def packed(data: bytes, compression: Compression) -> bytes:
    return subprocess.run(PACKERS[compression], input=data, stdout=subprocess.PIPE, check=True).stdout


def with_appendix(data: bytes, compression: Compression = Compression.GZIP) -> bytes:
    parsed = segments.parse_bytes(data)
    assert segments.appendable(parsed)
    return data + segments.appendix(parsed, MORE, compression)


def rewritten(data: bytes, compression: Compression = Compression.GZIP) -> bytes:
    fd = os.memfd_create("test")
    with os.fdopen(fd, "w+b") as file:
        file.write(data)
        file.flush()
        parsed = segments.parse(fd, lambda name, size: False)
        assert not segments.appendable(parsed)
        return b"".join(segments.rewritten(fd, parsed, MORE, compression))


@pytest.mark.parametrize("padding", [0, 1, 512])
@pytest.mark.parametrize("early", [b"", EARLY], ids=["", "early"])
@pytest.mark.parametrize("compression", PACKERS)
def test_segments_are_told_apart(compression: Compression, early: bytes, padding: int) -> None:
    early += b"\0" * (-len(early) % 512)
    body = packed(BASE, compression)
    parsed = segments.parse_bytes(early + body + b"\0" * padding)
    assert [segment.compression for segment in parsed.segments] == [Compression.NONE] * bool(early) + [compression]
    assert (parsed.last.offset, parsed.last.end) == (len(early), len(early) + len(body))
    assert parsed.junk is None
    assert parsed.root.read("etc/noise") == NOISE
    assert parsed.root.nodes["etc/text"].size == 3_000_000
    assert (parsed.root.read("microcode") is not None) == bool(early)


@pytest.mark.parametrize("padding", [0, 1, 3, 4, 511])
@pytest.mark.parametrize("compression", [c for c in PACKERS if c not in (Compression.LZ4, Compression.LZMA)])
def test_appended_archive_is_aligned_behind_zeros(compression: Compression, padding: int) -> None:
    data = packed(BASE, compression) + b"\0" * padding
    result = with_appendix(data)
    parsed = segments.parse_bytes(result)
    assert result.startswith(data)
    assert parsed.last.offset % 512 == 0
    assert parsed.last.offset - parsed.segments[-2].end >= 4
    assert parsed.root.read("etc/more") == b"more"
    assert parsed.root.read("etc/noise") == NOISE


def test_behind_lz4_the_same_stream_goes_on() -> None:
    data = packed(BASE, Compression.LZ4)
    result = with_appendix(data)
    assert result[len(data) :].startswith(bytes.fromhex("02214c18"))
    parsed = segments.parse_bytes(result)
    assert [segment.compression for segment in parsed.segments] == [Compression.LZ4]
    assert parsed.root.read("etc/more") == b"more"


@pytest.mark.parametrize("ending", [b"\0\0\0", b"\0" * 512, b"junk"], ids=["3", "512", "junk"])
def test_lz4_that_nothing_can_follow_is_packed_anew(ending: bytes) -> None:
    front = EARLY + b"\0" * (-len(EARLY) % 512)
    result = rewritten(front + packed(BASE, Compression.LZ4) + ending)
    assert result.startswith(front)
    parsed = segments.parse_bytes(result)
    assert [s.compression for s in parsed.segments] == [Compression.NONE, Compression.GZIP, Compression.GZIP]
    assert parsed.junk is None
    assert parsed.root.read("etc/noise") == NOISE
    assert parsed.root.read("etc/more") == b"more"


def test_junk_hides_what_follows_and_is_cut() -> None:
    data = packed(BASE, Compression.GZIP) + b"\0\0junk"
    assert segments.parse_bytes(data).junk == len(data) - 4
    parsed = segments.parse_bytes(rewritten(data, Compression.NONE))
    assert [s.compression for s in parsed.segments] == [Compression.NONE, Compression.NONE]
    assert parsed.root.read("etc/more") == b"more"


def test_kernel_takes_a_plain_archive_at_multiples_of_four_only() -> None:
    parsed = segments.parse_bytes(packed(BASE, Compression.GZIP).ljust(400_002, b"\0") + MORE)
    assert parsed.junk == 400_002


def test_archives_within_one_stream() -> None:
    parsed = segments.parse_bytes(packed(EARLY + b"\0" * 256 + BASE + MORE, Compression.ZSTD))
    assert len(parsed.segments) == 1
    assert parsed.root.read("microcode") and parsed.root.read("etc/more")


def test_missing_trailer_is_no_fault() -> None:
    cut = BASE[: BASE.index(b"TRAILER!!!") - cpio.HEADER_SIZE]
    assert segments.parse_bytes(packed(cut, Compression.GZIP)).root.read("etc/noise") == NOISE


@pytest.mark.parametrize("compression", PACKERS)
def test_cut_files_are_refused(compression: Compression) -> None:
    data = packed(BASE, compression)
    with pytest.raises(JobError) as failure:
        segments.parse_bytes(data[: len(data) // 2])
    assert failure.value.reason == "InitramfsDamaged"


@pytest.mark.parametrize(
    "compression", [Compression.GZIP, Compression.XZ, Compression.ZSTD, Compression.LZO, Compression.BZIP2]
)
def test_damage_is_seen_by_the_checksums(compression: Compression) -> None:
    data = bytearray(packed(BASE, compression))
    data[len(data) // 3 : len(data) // 3 + 64] = bytes(64)
    with pytest.raises(JobError) as failure:
        segments.parse_bytes(bytes(data))
    assert failure.value.reason == "InitramfsDamaged"


@pytest.mark.parametrize("data", [b"", b"\0" * 4096, b"MZ" + b"\0" * 600])
def test_what_is_no_initramfs_is_refused(data: bytes) -> None:
    with pytest.raises(JobError, match="no initramfs"):
        segments.parse_bytes(data)


@pytest.mark.parametrize("compression", [Compression.GZIP, Compression.ZSTD, Compression.XZ, Compression.BZIP2])
def test_bombs_are_bounded(compression: Compression, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "UNPACKED_LIMIT", 1_000_000)
    with pytest.raises(JobError, match="unpacks to more"):
        segments.parse_bytes(packed(BASE, compression))


@pytest.mark.parametrize(
    ("inside", "supported", "chosen"),
    [
        (Compression.ZSTD, (), Compression.NONE),
        (Compression.ZSTD, (Compression.GZIP,), Compression.GZIP),
        (Compression.XZ, (), Compression.XZ),
        (Compression.LZO, (Compression.BZIP2,), Compression.BZIP2),
        (Compression.NONE, (), Compression.NONE),
    ],
)
def test_only_what_the_kernel_surely_unpacks_is_chosen(
    inside: Compression, supported: tuple[Compression, ...], chosen: Compression
) -> None:
    assert segments.choose(segments.parse_bytes(packed(EARLY, inside)), supported) is chosen


@pytest.mark.parametrize("compression", [Compression.GZIP, Compression.XZ, Compression.BZIP2, Compression.LZ4])
def test_what_is_compressed_can_be_read(compression: Compression) -> None:
    assert codec.decompress(codec.compress(BASE, compression), compression, len(BASE)) == BASE
    with pytest.raises(JobError, match="more than"):
        codec.decompress(codec.compress(BASE, compression), compression, len(BASE) - 1)
