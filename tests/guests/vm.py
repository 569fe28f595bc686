# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Starting guests on VMware's hardware, or on virtio, and seeing what comes of it.

The guests have no serial console, as most servers on VMware have none. So their screen is read: from the text buffer
of the VGA card where the firmware is BIOS; from the kernel's own buffer of the screen in the guest's memory where it
paints letters on a framebuffer. A machine is on no network but QEMU's own; its ssh server can be reached.
"""

from __future__ import annotations

import collections.abc as c
import contextlib
import dataclasses
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import tempfile
import time
import typing as t

from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.boottest.accelerator import probe_accelerator

from tests.guests.specs import MIB, GuestSpec

_CODE = pathlib.Path("/usr/share/OVMF/OVMF_CODE_4M.fd")
_VARIABLES = pathlib.Path("/usr/share/OVMF/OVMF_VARS_4M.fd")
#: The screen of a UEFI guest is looked for in the whole of its memory, which takes most of a second.
_POLL_SECONDS = {"bios": 0.5, "uefi": 5.0}

#: What a Debian initramfs prints when it gives up on the root device.
NO_ROOT_DEVICE = r"ALERT! +/dev/\S+ does not exist|\(initramfs\)"


class NotSeenError(AssertionError):
    """The machine did not show what was waited for; the message holds its screen."""


@dataclasses.dataclass
class Machine:
    """A running machine."""

    process: subprocess.Popen[bytes]
    monitor: Monitor
    firmware: str

    def screen(self) -> str:
        """The text on the screen and what scrolled off it lately; empty while the firmware shows graphics."""
        return self._vga_text() if self.firmware == "bios" else self._framebuffer_text()

    def wait_for(self, pattern: str, timeout: float = 1500) -> str:
        """Wait until the pattern is on the screen; returns the screen.

        :raises NotSeenError: it was not there within ``timeout`` seconds, or the machine ended.
        """
        deadline = time.monotonic() + timeout
        while True:
            text = self.screen() if self.process.poll() is None else ""
            if re.search(pattern, text):
                return text
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise NotSeenError(f"{pattern!r} was not seen within {timeout:.0f} s. The screen:\n{text}")
            time.sleep(_POLL_SECONDS[self.firmware])

    def wait_for_ssh(self, timeout: float = 1500) -> str:
        """Connect to the guest's static address, port 22, until a server greets; returns its greeting.

        :raises NotSeenError: none did within ``timeout`` seconds.
        """
        deadline = time.monotonic() + timeout
        port = self._ssh_port()
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 5) as connection:
                if greeting := connection.recv(256):
                    return greeting.decode(errors="replace").strip()
            time.sleep(_POLL_SECONDS["bios"])
        raise NotSeenError(f"No ssh server greeted within {timeout:.0f} s. The screen:\n{self.screen()}")

    def _ssh_port(self) -> int:
        shown = self.monitor.human("info usernet")
        match = re.search(r"TCP\[HOST_FORWARD\]\s+\d+\s+\S+\s+(\d+)", shown)
        if match is None:
            raise NotSeenError(f"QEMU forwards no port:\n{shown}")
        return int(match.group(1))

    def _vga_text(self) -> str:
        words = re.findall(r"0x([0-9a-f]{8})", self.monitor.human("xp /8192xw 0xb8000"))
        cells = b"".join(int(word, 16).to_bytes(4, "little") for word in words)[::2]
        rows = [cells[start : start + 80].decode("cp437") for start in range(0, len(cells), 80)]
        return _tidy("\n".join(rows))

    def _framebuffer_text(self) -> str:
        """Runs of character cells, light grey on black (attribute 7), as Linux keeps them for each virtual terminal."""
        found = []
        for data in self._memory():
            for run in re.finditer(rb"(?:[\x20-\x7e]\x07){160,}", data):
                text = run.group()[::2].decode("ascii")
                if text.strip():
                    found.append("\n".join(part for part in re.split(r" {4,}", text)))
        return _tidy("\n".join(found))

    def _memory(self) -> c.Iterator[bytes]:
        with self._memory_file().open("rb", buffering=0) as file:
            position = 0
            while True:
                try:
                    position = os.lseek(file.fileno(), position, os.SEEK_DATA)
                except OSError:  # ENXIO: nothing but untouched memory up to the end
                    return
                data = os.pread(file.fileno(), 16 * MIB + 65536, position)
                if b"\x07 \x07" in data:
                    yield data
                position += 16 * MIB

    def _memory_file(self) -> pathlib.Path:
        """The guest's memory is a file without a name that QEMU holds open."""
        for descriptor in pathlib.Path(f"/proc/{self.process.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # QEMU opens and closes others meanwhile
                if os.readlink(descriptor).startswith("/memfd:memory-backend-memfd"):
                    return descriptor
        raise NotSeenError("QEMU has no memory")


def _tidy(text: str) -> str:
    lines = (line.replace("\0", " ").rstrip() for line in text.splitlines())
    return "\n".join(line for line in lines if line)


class Monitor:
    """QEMU's monitor, spoken to over an inherited socket: no file is left behind."""

    def __init__(self, connection: socket.socket) -> None:
        self._file = connection.makefile("rw", encoding="utf-8")
        self._read()  # the greeting
        self.execute("qmp_capabilities")

    def execute(self, command: str, **arguments: object) -> t.Any:
        """Run a QMP command and return its answer."""
        json.dump({"execute": command, "arguments": arguments}, self._file)
        self._file.write("\n")
        self._file.flush()
        while "return" not in (answer := self._read()):
            if "error" in answer:
                raise RuntimeError(f"{command}: {answer['error']['desc']}")
        return answer["return"]

    def human(self, line: str) -> str:
        """Run a command of the monitor for people and return what it prints."""
        return str(self.execute("human-monitor-command", **{"command-line": line}))

    def _read(self) -> dict[str, t.Any]:
        line = self._file.readline()
        if not line:
            raise NotSeenError("QEMU ended")
        answer: dict[str, t.Any] = json.loads(line)
        return answer


@contextlib.contextmanager
def started(
    spec: GuestSpec,
    disk: pathlib.Path,
    *,
    disk_format: t.Literal["raw", "qcow2", "vmdk"] = "raw",
    hardware: t.Literal["vmware", "virtio"] = "vmware",
    variables: pathlib.Path | None = None,
) -> c.Iterator[Machine]:
    """Start a guest from a disk that is not written to: what the guest writes is thrown away.

    :param hardware: ``vmware``: what VMware gave it (its disk controller, VMXNET3 in slot 192); ``virtio``: KVM's.
    :param variables: the UEFI firmware's variables (``nvram.fd``); None: a machine that has never run an installer.
    """
    with tempfile.TemporaryDirectory(prefix="guest-") as folder, contextlib.ExitStack() as stack:
        ours, theirs = socket.socketpair()
        stack.enter_context(ours)
        command = [*_machine(spec), *_hardware(spec, disk, disk_format, hardware)]
        command += ["-chardev", f"socket,id=monitor,fd={theirs.fileno()}", "-mon", "chardev=monitor,mode=control"]
        if spec.firmware == "uefi":
            writable = pathlib.Path(folder) / "nvram.fd"
            shutil.copy(variables or _VARIABLES, writable)
            command += ["-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={_CODE}"]
            command += ["-drive", f"if=pflash,unit=1,format=raw,file={writable}"]
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *command],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        theirs.close()
        try:
            yield Machine(process, Monitor(ours), spec.firmware)
        finally:
            process.kill()
            process.wait()


def boot(
    spec: GuestSpec,
    disk: pathlib.Path,
    until: str = r"login:",
    *,
    disk_format: t.Literal["raw", "qcow2", "vmdk"] = "raw",
    hardware: t.Literal["vmware", "virtio"] = "vmware",
    variables: pathlib.Path | None = None,
    timeout: float = 1500,
) -> str:
    """Start a guest, wait until a pattern is on its screen, stop it; returns the screen. Arguments as :func:`started`.

    :raises NotSeenError: it was not there within ``timeout`` seconds.
    """
    with started(spec, disk, disk_format=disk_format, hardware=hardware, variables=variables) as machine:
        return machine.wait_for(until, timeout)


def _machine(spec: GuestSpec) -> list[str]:
    size = spec.memory_mib
    accelerator = probe_accelerator()
    return [
        "qemu-system-x86_64",
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-vga",
        "std",
        "-accel",
        accelerator.name,
        "-cpu",
        accelerator.cpu,
        "-machine",
        "q35,memory-backend=ram",
        "-object",
        f"memory-backend-memfd,id=ram,size={size}M,share=on",
        "-m",
        f"{size}M",
        "-smp",
        # As in a boot test: emulated processors wait for each other.
        str(spec.cpus if accelerator.name == "kvm" else 1),
        # With ACPI's hotplug the cards are numbered by their slot on the bus; with PCIe's own the port's number counts,
        # as on VMware, and the card in slot 192 becomes ens192.
        "-global",
        "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off",
    ]


def _hardware(spec: GuestSpec, disk: pathlib.Path, disk_format: str, hardware: str) -> list[str]:
    image = f"id=disk0,if=none,format={disk_format},snapshot=on,file={str(disk).replace(',', ',,')}"
    host = spec.gateway
    address = spec.address.split("/")[0]
    network = f"user,id=lan,restrict=on,net={spec.network},host={host},hostfwd=tcp:127.0.0.1:0-{address}:22"
    mac = spec.mac or "00:50:56:ab:ff:ff"
    port = "pcie-root-port,id=port{0},chassis={0},slot={0}"
    command = ["-drive", image, "-netdev", network]
    for slot in (160, 192):
        command += ["-device", port.format(slot)]
    if hardware == "virtio":
        command += ["-device", "virtio-blk-pci,bus=port160,drive=disk0"]
    elif spec.controller == "pvscsi":
        command += ["-device", "pvscsi,id=scsi0,bus=port160", "-device", "scsi-hd,bus=scsi0.0,drive=disk0"]
    else:
        command += ["-device", "ide-hd,bus=ide.0,drive=disk0"]  # q35 has an AHCI controller
    card = "virtio-net-pci" if hardware == "virtio" else "vmxnet3"
    command += ["-device", f"{card},bus=port192,netdev=lan,mac={mac},romfile="]
    return command
