# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Files of the host that nobody may touch: the kernel tells when somebody does (inotify(7))."""

from __future__ import annotations

import ctypes
import os
import pathlib
import struct

# sys/inotify.h: every event but the watch's own; those that change something.
_ALL_EVENTS = 0x00000FFF
_IS_FOLDER = 0x40000000
_CHANGES = 0x00000FC6
_EVENT = struct.Struct("iIII")
_NAMES = {
    0x1: "read",
    0x2: "written",
    0x4: "changed",
    0x20: "opened",
    0x40: "moved",
    0x100: "created",
    0x200: "removed",
}

_libc = ctypes.CDLL(None, use_errno=True)


class Canary:
    """A folder with a file, a FIFO that would hang who opens it, and a folder; watched from now on."""

    def __init__(self, folder: pathlib.Path) -> None:
        folder.mkdir()
        self.folder = folder
        (folder / "inside").mkdir()
        self._contents = {"passwd": b"secret\n", "fstab": b"/dev/sda1 / ext4 rw 0 1\n", "inside/passwd": b"secret\n"}
        for name, content in self._contents.items():
            (folder / name).write_bytes(content)
        os.mkfifo(folder / "fifo")
        self._queue = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        for place in (folder, folder / "inside"):
            if _libc.inotify_add_watch(self._queue, os.fsencode(place), _ALL_EVENTS) < 0:
                raise OSError(ctypes.get_errno(), "inotify_add_watch")

    def touched(self) -> list[str]:
        """What happened to the files since the start, or since the last call: each is a breach."""
        try:
            data = os.read(self._queue, 65536)
        except BlockingIOError:
            data = b""
        found = []
        while data:
            _watch, mask, _cookie, size = _EVENT.unpack_from(data)
            name = data[_EVENT.size : _EVENT.size + size].rstrip(b"\0").decode()
            # Others on this host may look through its temporary folders (and see names); nobody else reads files there.
            if not mask & _IS_FOLDER or mask & _CHANGES:
                found.append(f"{name or 'the folder'} was {_NAMES.get(mask & 0xFFF, hex(mask))}")
            data = data[_EVENT.size + size :]
        return found

    def check(self) -> None:
        """Fail where anything was touched, or is not what it was."""
        touched = self.touched()
        assert not touched, f"the host's files were touched: {touched}"
        assert {name: (self.folder / name).read_bytes() for name in self._contents} == self._contents
        assert sorted(path.name for path in self.folder.rglob("*")) == ["fifo", "fstab", "inside", "passwd", "passwd"]
        self.touched()  # by this check

    def close(self) -> None:
        """Watch no longer."""
        os.close(self._queue)
