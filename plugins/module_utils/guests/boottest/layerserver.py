# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A virtual machine's layers as NBD exports, so that QEMU can run as nobody and open no file.

The storage daemon opens the layers and everything that they stand on; QEMU gets one connected socket for each disk.
The size of each layer is bounded: beyond it the guest sees a write error, and the host's storage is safe.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import socket
import subprocess
import tempfile
import typing as t

from ...disks.closing import Closing
from ...disks.command import clean_environment, confined, last_lines
from ...disks.qemu import file_blockdev
from ...protocol.errors import JobError, environment, transient
from . import confinement

_HELP = "See that qemu-storage-daemon runs on the worker's host, and that its scratch folder has room."

#: Bytes that a guest may write to one disk.
LAYER_LIMIT = 4 * 1024**3
#: For the daemon to write out what it holds. Seconds.
_END_SECONDS = 120.0


@dataclasses.dataclass(frozen=True)
class Layer:
    """A file that QEMU may write to."""

    name: str
    """Of the export and of QEMU's block node."""
    path: pathlib.Path
    format: str
    kept: bool = False
    """Whether somebody keeps what is written. Of a throw-away layer the guest's flushes need not reach the storage."""
    writable: bool = True


class LayerServer(Closing):
    """A running storage daemon with one export for each layer; a context manager."""

    def __init__(self, layers: t.Sequence[Layer], folder: pathlib.Path) -> None:
        """Start the daemon and connect to each export.

        Raises:
            JobError: class ``environment``, the daemon cannot be started.
        """
        self.connections: dict[str, socket.socket] = {}
        """By the layer's name; connected, before the NBD handshake."""
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 (closed by close)
        descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY)
        # A path through the folder's descriptor is short: a socket's path has 107 bytes at most.
        path = f"/proc/self/fd/{descriptor}/nbd"
        with socket.socket(socket.AF_UNIX) as listener:
            try:
                listener.bind(path)
                listener.listen(len(layers))
                self._process = subprocess.Popen(
                    _command(layers, listener.fileno()),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=self._stderr,
                    pass_fds=(listener.fileno(),),
                    env=clean_environment(),
                    # Python ignores SIGXFSZ; kept so, writing beyond the limit is an error and not the daemon's end.
                    restore_signals=False,
                )
                for layer in layers:
                    self.connections[layer.name] = connection = socket.socket(socket.AF_UNIX)
                    connection.connect(path)
            except OSError as error:
                self.close()
                raise environment(
                    "NoLayerServer",
                    f"The virtual machine's disks cannot be served: {error}.",
                    _HELP,
                ) from error
            finally:
                with contextlib.suppress(OSError):
                    os.unlink(path)
                os.close(descriptor)

    def finish(self) -> None:
        """End the daemon in order; when it returns, all that was written is in the layers.

        Raises:
            JobError: class ``transient``, it did not end well, so that writes may be lost.
        """
        for connection in self.connections.values():
            connection.close()
        self._process.terminate()
        try:
            status = self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            status = None
        if status != 0:
            raise transient("LostWrites", "The virtual machine's disks were not closed in order.", "Try again.")

    def failed(self) -> JobError | None:
        """Say why the daemon ended, where it did."""
        if self._process.poll() is None:
            return None
        self._stderr.seek(0)
        said = last_lines(self._stderr.read(65536))
        return environment(
            "NoLayerServer",
            f"The virtual machine's disks cannot be served: {said}.",
            _HELP,
        )

    def close(self) -> None:
        """End the daemon."""
        for connection in self.connections.values():
            connection.close()
        if hasattr(self, "_process"):
            self._process.kill()
            self._process.wait()
        self._stderr.close()


def _command(layers: t.Sequence[Layer], listener: int) -> list[str]:
    arguments = ["qemu-storage-daemon", "--nbd-server", f"addr.type=fd,addr.str={listener}"]
    for layer in layers:
        node = {**file_blockdev(layer.path, layer.format), "node-name": layer.name, "read-only": not layer.writable}
        node["cache"] = {"no-flush": not layer.kept}
        arguments += ["--blockdev", json.dumps(node)]
        export: dict[str, t.Any] = {"type": "nbd", "id": layer.name, "node-name": layer.name, "name": layer.name}
        export["writable"] = layer.writable
        arguments += ["--export", json.dumps(export)]
    return confinement.bounded(confined(arguments), LAYER_LIMIT)
