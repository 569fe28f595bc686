# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which accelerator QEMU can really use here: found by running a boot sector, never by looking at ``/dev/kvm``.

``/dev/kvm`` may exist and yet be of no use: some hosts refuse a CPU model's registers so that QEMU aborts, others (KVM
inside certain virtual machines) execute a million instructions a second, with which no kernel boots within a timeout.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import subprocess
import tempfile
import typing as t

from ...protocol import errors
from . import confinement

#: Turns of the boot sector's loop. 0.1 s on a processor, 0.3 s under TCG, a minute where KVM is emulated.
_TURNS = 50_000_000
#: SeaBIOS does not boot from a disk too small for one cylinder.
_DISK_BYTES = 1 << 20
_EXIT_PORT = 0xF4
_EXIT_VALUE = 0x21
#: isa-debug-exit ends QEMU with (value << 1) | 1.
_EXIT_STATUS = (_EXIT_VALUE << 1) | 1
_TRY_SECONDS = 2.0
_TCG_TRY_SECONDS = 30.0

#: ``max`` comes first, because distributions of today need x86-64-v2 or v3. Without ``arch-capabilities`` because some
#: hosts offer that register and then refuse to set it.
_KVM_CPUS = ("max", "max,-arch-capabilities", "host", "host,-arch-capabilities", "qemu64")
_TCG_CPU = "max"


@dataclasses.dataclass(frozen=True)
class Accelerator:
    """What QEMU runs guests with."""

    name: t.Literal["kvm", "tcg"]
    cpu: str
    """QEMU's ``-cpu``."""
    detail: str
    """For a person: what was tried and why this was chosen."""


TCG = Accelerator("tcg", _TCG_CPU, "QEMU's TCG emulates the processor")


def boot_sector(turns: int = _TURNS) -> bytes:
    """Return 512 bytes of 16-bit code that counts ``turns`` down and then ends QEMU through ``isa-debug-exit``."""
    code = (
        b"\xfa"  # cli
        + b"\x66\xb9"  # mov ecx, turns
        + turns.to_bytes(4, "little")
        + b"\x66\x49"  # dec ecx
        + b"\x75\xfc"  # jnz back to dec
        + bytes((0xB0, _EXIT_VALUE))  # mov al, value
        + bytes((0xE6, _EXIT_PORT))  # out port, al
        + b"\xf4"  # hlt
    )
    return code.ljust(510, b"\0") + b"\x55\xaa"


@dataclasses.dataclass(frozen=True)
class _Trial:
    ok: bool
    slow: bool
    message: str


def _try(program: str, name: str, cpu: str, seconds: float) -> _Trial:
    with tempfile.TemporaryFile() as written:
        written.write(boot_sector())
        written.truncate(_DISK_BYTES)
        written.flush()
        sector = os.open(f"/proc/self/fd/{written.fileno()}", os.O_RDONLY)
    try:
        command = [
            program,
            *confinement.BASE_ARGUMENTS,
            *("-machine", f"q35,accel={name}", "-cpu", cpu, "-m", "32"),
            *("-add-fd", f"fd={sector},set=1"),
            *("-blockdev", "driver=file,filename=/dev/fdset/1,read-only=on,node-name=disk"),
            *("-device", "virtio-blk-pci,drive=disk"),
            *("-device", f"isa-debug-exit,iobase={_EXIT_PORT:#x},iosize=1"),
        ]
        done = subprocess.run(
            confinement.confined(command, max_file_bytes=1 << 20),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=(sector,),
            env={**os.environ, "LC_ALL": "C"},
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return _Trial(False, True, f"{_TURNS} loops of a boot sector took over {seconds:.0f} s")
    finally:
        os.close(sector)
    if done.returncode == _EXIT_STATUS:
        return _Trial(True, False, "a boot sector ran")
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    return _Trial(False, False, lines[-1][-200:] if lines else f"QEMU ended with status {done.returncode}")


_remembered: Accelerator | None = None


def remember(accelerator: Accelerator) -> None:
    """Have :func:`probe_accelerator` return what another process found on this boot, without trying again."""
    global _remembered
    _remembered = accelerator
    probe_accelerator.cache_clear()


@functools.lru_cache(maxsize=1)
def probe_accelerator() -> Accelerator:
    """Return the fastest accelerator that ran a boot sector; the answer is kept for the life of the process.

    Takes well under a second where KVM works or is absent, and up to 3 s where KVM is there but too slow.

    :raises JobError: (environment) if QEMU is missing or cannot even run the boot sector under TCG.
    """
    if _remembered is not None:
        return _remembered
    program = confinement.find_program()
    if confinement.KVM_DEVICE.exists():
        said = ""
        for cpu in _KVM_CPUS:
            trial = _try(program, "kvm", cpu, _TRY_SECONDS)
            if trial.ok:
                return Accelerator("kvm", cpu, f"KVM ran a boot sector with -cpu {cpu}")
            said = trial.message
            if trial.slow:
                said = f"KVM is present but too slow: {said}"
                break
        why = f"{confinement.KVM_DEVICE} is of no use here ({said})"
    else:
        why = f"there is no {confinement.KVM_DEVICE}"
    trial = _try(program, "tcg", _TCG_CPU, _TCG_TRY_SECONDS)
    if not trial.ok:
        raise errors.environment(
            "QemuUnusable",
            f"QEMU cannot run even a boot sector under emulation: {trial.message}.",
            f"Run {program} by hand on this worker, and repair its installation.",
        )
    return dataclasses.replace(TCG, detail=f"QEMU's TCG emulates the processor, because {why}")
