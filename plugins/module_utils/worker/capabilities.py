# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What this worker can do, found out by doing it once on scratch files.

The trials run in a process with its own PID and mount namespaces, so that nothing of them can stay behind. What worked
is remembered for this boot; what did not is tried anew by each worker, because somebody may have installed it.
"""

from __future__ import annotations

import collections.abc as c
import concurrent.futures
import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time
import typing as t

from ..backends.host import boot_id
from ..disks.command import find_program
from ..disks.loop import LoopDevice
from ..guests.boottest import accelerator, confinement
from ..guests.microvm.kernel import find_kernel
from ..guests.microvm.tree import NEEDED
from ..protocol import models
from ..protocol.errors import JobError
from ..scheduling.matching import VOLUMES
from ..telemetry.version import collection_version
from . import kernel

_TOOL_SECONDS = 10.0
_PROBE_SECONDS = 60
_MIB = 1024**2
_CACHE = "capabilities.json"
#: Each filesystem's maker, and the smallest size that it takes.
_FILESYSTEMS: dict[str, tuple[list[str], int]] = {
    "ext4": (["mkfs.ext4", "-q", "-F"], 4 * _MIB),
    "xfs": (["mkfs.xfs", "-q", "-f"], 320 * _MIB),
    "btrfs": (["mkfs.btrfs", "-q", "-f"], 128 * _MIB),
    "vfat": (["mkfs.vfat"], 4 * _MIB),
}


class _Lacking(Exception):
    """The capability is not there; the text says why."""


Found = dict[str, models.Capability]


def probe(
    scratch: pathlib.Path,
    state_dir: pathlib.Path | None = None,
    *,
    kernel_root: pathlib.Path = pathlib.Path("/"),
) -> Found:
    """Return every capability by name, tried out in a temporary folder below ``scratch``.

    ``kernel_root`` is where a kernel for micro-VMs is looked for. ``state_dir`` is where what worked is remembered
    until the next boot; None: nothing is. The calling process, and the jobs that it forks, know QEMU's accelerator
    afterwards without trying it again.
    """
    known, engine = ({}, None) if state_dir is None else _load(state_dir / _CACHE)
    # What is installed may change, and costs nothing to look for.
    known = {name: one for name, one in known.items() if name not in ("microvm", VOLUMES)}
    tried, engine = _probe_apart(scratch, kernel_root, known, engine)
    found = known | tried
    if engine is not None:
        accelerator.remember(engine)
    if state_dir is not None:
        _save(state_dir / _CACHE, found, engine)
    return {name: found[name] for name in sorted(found)}


def _probe_apart(
    scratch: pathlib.Path, kernel_root: pathlib.Path, known: Found, engine: accelerator.Accelerator | None
) -> tuple[Found, accelerator.Accelerator | None]:
    """Make the trials in a process of its own, and return what it found."""
    reading, writing = os.pipe()
    try:
        pid = kernel.fork_into_pid_namespace()
    except OSError as error:
        for end in (reading, writing):
            os.close(end)
        why = f"namespaces cannot be made: {error.strerror}; the worker must be root with CAP_SYS_ADMIN"
        return {"root": models.Capability(available=False, detail=why)}, None
    if pid == 0:
        with contextlib.suppress(BaseException):
            os.close(reading)
            signal.alarm(_PROBE_SECONDS)
            kernel.die_with_parent()
            kernel.own_mounts()
            if engine is not None:
                accelerator.remember(engine)
            try:
                found, engine = _probe_all(scratch, kernel_root, known)
            except OSError as error:
                # Without a folder to try them in, there is nothing that this worker can be said to do.
                why = f"nothing can be tried in {scratch}: {error.strerror}"
                found, engine = {"root": models.Capability(available=False, detail=why)}, None
            with os.fdopen(writing, "w", encoding="utf-8") as pipe:
                pipe.write(_dump(found, engine))
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as pipe:
        text = pipe.read()
    os.waitpid(pid, 0)
    try:
        return _parse(json.loads(text))
    except ValueError:
        why = "the trials did not end within their time"
        return {"root": models.Capability(available=False, detail=why)}, None


def _probe_all(
    scratch: pathlib.Path, kernel_root: pathlib.Path, known: Found
) -> tuple[Found, accelerator.Accelerator | None]:
    trials: dict[str, c.Callable[[pathlib.Path], str]] = {
        "qemu-img": _qemu_img,
        "loop": _loop,
        "fuse-export": _fuse_export,
        "kernel-nbd": _kernel_nbd,
        "device-mapper": _device_mapper,
        "isal": _isal,
        "mtools": _mtools,
        "partclone": _partclone,
        **{f"fs-{name}": _filesystem(name) for name in _FILESYSTEMS},
        "boot-test": _boot_test,
        "microvm": lambda place: _microvm(kernel_root),
    }
    with tempfile.TemporaryDirectory(prefix=".probe-", dir=scratch) as folder:

        def attempt(name: str) -> models.Capability:
            return _attempt(trials[name], pathlib.Path(folder, name))

        names = [name for name in trials if name not in known]
        # As threads of a process that ends with them: each starts children, which die with the thread that made them.
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            found = dict(zip(names, pool.map(attempt, names), strict=True))
    found["root"] = models.Capability(available=True, detail="namespaces and mounts can be made")
    found["attach"] = _attach(known | found)
    found[VOLUMES] = _volumes(known | found)
    engine = None
    # What was tried above is known by now; only its failure would be tried again.
    if (known | found)["boot-test"].available:
        engine = accelerator.probe_accelerator()
        found["kvm"] = models.Capability(available=engine.name == "kvm", detail=engine.detail)
    else:
        found["kvm"] = models.Capability(available=False, detail=found["boot-test"].detail)
    return found, engine


def _attempt(trial: c.Callable[[pathlib.Path], str], place: pathlib.Path) -> models.Capability:
    try:
        place.mkdir()
        return models.Capability(available=True, detail=trial(place))
    except _Lacking as lacking:
        return models.Capability(available=False, detail=str(lacking))
    except JobError as error:
        return models.Capability(available=False, detail=error.message)
    except OSError as error:
        return models.Capability(available=False, detail=f"{error.strerror}: {error.filename or ''}".rstrip(": "))


def _attach(found: Found) -> models.Capability:
    if found["kernel-nbd"].available:
        return models.Capability(available=True, detail="by kernel NBD")
    if found["fuse-export"].available and found["loop"].available:
        return models.Capability(available=True, detail="by a FUSE export and loop devices")
    missing = [name for name in ("kernel-nbd", "fuse-export", "loop") if not found[name].available]
    why = "; ".join(f"{name}: {found[name].detail}" for name in missing)
    return models.Capability(available=False, detail=f"needs kernel-nbd, or fuse-export and loop ({why})")


def _volumes(found: Found) -> models.Capability:
    for name, how in (("device-mapper", "by this host's kernel"), ("microvm", "in a micro-VM")):
        if found[name].available:
            return models.Capability(available=True, detail=how)
    why = "; ".join(f"{name}: {found[name].detail}" for name in ("device-mapper", "microvm"))
    return models.Capability(available=False, detail=f"needs device-mapper, or microvm ({why})")


# -- trials: each returns a detail for people, or raises ---------------------------------------------------------------


def _run(*args: str | pathlib.Path) -> str:
    program = shutil.which(args[0])
    if program is None:
        raise _Lacking(f"{args[0]} is not installed")
    try:
        done = subprocess.run(
            [program, *map(str, args[1:])],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TOOL_SECONDS,
            env={**os.environ, "LC_ALL": "C", "MTOOLS_SKIP_CHECK": "1"},
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise _Lacking(f"{args[0]} did not end within {_TOOL_SECONDS:.0f} s") from error
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
        why = lines[0].removeprefix(f"{args[0]}: ")[:200] if lines else f"ended with status {done.returncode}"
        raise _Lacking(f"{args[0]}: {why}")
    return done.stdout.decode(errors="replace")


def _sparse(path: pathlib.Path, size: int) -> pathlib.Path:
    with open(path, "wb") as file:
        file.truncate(size)
    return path


def _qemu_img(place: pathlib.Path) -> str:
    image = place / "image.qcow2"
    _run("qemu-img", "create", "-q", "-f", "qcow2", image, "1M")
    _run("qemu-img", "check", "-q", "-f", "qcow2", image)
    return _run("qemu-img", "--version").splitlines()[0]


def _loop(place: pathlib.Path) -> str:
    device = LoopDevice(_sparse(place / "file", _MIB), 512, 4096, writable=False)
    try:
        with open(device.device, "rb") as file:
            size = file.seek(0, os.SEEK_END)
    finally:
        device.detach()
    if size != 4096:
        raise _Lacking(f"{device.device} has {size} bytes instead of 4096")
    return "a file was attached at an offset"


def _fuse_export(place: pathlib.Path) -> str:
    program = shutil.which("qemu-storage-daemon")
    if program is None:
        raise _Lacking("qemu-storage-daemon is not installed")
    content = os.urandom(4096)
    (place / "file").write_bytes(content)
    point = place / "export"
    point.touch()
    ready = place / "ready"
    options = [
        *("--blockdev", f"file,node-name=disk,filename={place / 'file'}"),
        *("--export", f"fuse,id=export,node-name=disk,mountpoint={point},writable=off"),
        *("--pidfile", str(ready)),
    ]
    daemon = subprocess.Popen(
        [program, *options], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        deadline = time.monotonic() + _TOOL_SECONDS
        # It writes its PID when all exports are there.
        while not ready.exists():
            if daemon.poll() is not None or time.monotonic() > deadline:
                daemon.kill()
                lines = daemon.communicate()[1].decode(errors="replace").strip().splitlines()
                raise _Lacking(lines[-1][:200] if lines else "qemu-storage-daemon did not get ready")
            time.sleep(0.01)
        if point.read_bytes() != content:
            raise _Lacking("the export shows other bytes than the file")
    finally:
        daemon.terminate()
        daemon.communicate()
    return "a file was exported by qemu-storage-daemon"


def _kernel_nbd(place: pathlib.Path) -> str:
    if not pathlib.Path("/sys/block/nbd0").exists():
        with contextlib.suppress(_Lacking):
            _run("modprobe", "nbd")
    devices = sorted(pathlib.Path("/sys/block").glob("nbd*"), key=lambda device: int(device.name[3:]))
    if not devices:
        raise _Lacking("the kernel has no nbd module")
    free = [device.name for device in devices if not (device / "pid").exists()]
    if not free:
        raise _Lacking(f"all {len(devices)} NBD devices are in use")
    image = place / "image.qcow2"
    _run("qemu-img", "create", "-q", "-f", "qcow2", image, "1M")
    device = f"/dev/{free[-1]}"
    _run("qemu-nbd", "--connect", device, "--format", "qcow2", "--read-only", image)
    _run("qemu-nbd", "--disconnect", device)
    return f"an image was attached as {device}"


def _device_mapper(place: pathlib.Path) -> str:
    if not pathlib.Path("/dev/mapper/control").exists():
        with contextlib.suppress(_Lacking):
            _run("modprobe", "dm_mod")
    name = f"hyper2kvm-probe-{os.getpid()}-{place.parent.name.strip('.')}"
    _run("dmsetup", "create", name, "--table", "0 8 zero")
    _run("dmsetup", "remove", name)
    return "a device was mapped"


def _isal(place: pathlib.Path) -> str:
    try:
        import isal
        from isal import isal_zlib
    except ImportError as error:
        raise _Lacking("the Python package isal is not installed") from error
    if isal_zlib.decompress(isal_zlib.compress(b"probe")) != b"probe":
        raise _Lacking("isal does not give back what it was given")
    return f"isal {isal.__version__}"


def _mtools(place: pathlib.Path) -> str:
    image = _sparse(place / "esp", 4 * _MIB)
    _run("mformat", "-i", image, "-T", "8192", "-h", "16", "-s", "32", "::")
    _run("mmd", "-i", image, "::/EFI")
    _run("mdir", "-i", image, "-b", "::/EFI")
    return "a FAT image was made and read"


def _partclone(place: pathlib.Path) -> str:
    image = _sparse(place / "fs", 4 * _MIB)
    _run("mkfs.ext4", "-q", "-F", image)
    _run("partclone.ext4", "-D", "-s", image, "-O", place / "map", "-L", place / "log")
    return "the used blocks of an ext4 filesystem were listed"


def _filesystem(name: str) -> c.Callable[[pathlib.Path], str]:
    def trial(place: pathlib.Path) -> str:
        maker, size = _FILESYSTEMS[name]
        image, point = _sparse(place / "fs", size), place / "mnt"
        point.mkdir()
        _run(*maker, image)
        device = LoopDevice(image, 0, size, writable=True)
        try:
            _run("mount", "-t", name, "-o", "nosuid,nodev", device.device, point)
            _run("umount", point)
        finally:
            device.detach()
        return "one was made and mounted"

    return trial


def _boot_test(place: pathlib.Path) -> str:
    return accelerator.probe_accelerator().detail


def _microvm(kernel_root: pathlib.Path) -> str:
    """What a machine is made of is there.

    None is booted here: without KVM that takes half a minute of a processor, or several on a busy one, which is more
    than all other trials together and more than they are given; and a worker may never need it. A job whose machine
    does not start says so, and is tried again.
    """
    kernel = find_kernel(kernel_root)
    for name in NEEDED:
        find_program(name)
    confinement.find_program()
    return f"kernel {kernel.version} and all else is installed; not booted until a guest needs it"


# -- memory ------------------------------------------------------------------------------------------------------------


def _identity() -> dict[str, str]:
    kvm = pathlib.Path("/dev/kvm")
    since = str(kvm.stat().st_ctime_ns) if kvm.exists() else ""
    path = os.environ.get("PATH", "")
    return {"boot": boot_id(), "collection": collection_version(), "path": path, "kvm": since}


def _dump(found: Found, engine: accelerator.Accelerator | None) -> str:
    told = {name: one.to_document() for name, one in found.items()}
    return json.dumps(
        {
            "identity": _identity(),
            "found": told,
            "accelerator": None if engine is None else dataclasses.asdict(engine),
        }
    )


def _parse(data: dict[str, t.Any]) -> tuple[Found, accelerator.Accelerator | None]:
    found = {name: models.Capability.model_validate(one) for name, one in data["found"].items()}
    engine = data["accelerator"]
    return found, None if engine is None else accelerator.Accelerator(**engine)


def _load(path: pathlib.Path) -> tuple[Found, accelerator.Accelerator | None]:
    """Return what worked on this boot, with this version of the collection and the same search path."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["identity"] == _identity():
            return _parse(data)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return {}, None


def _save(path: pathlib.Path, found: Found, engine: accelerator.Accelerator | None) -> None:
    worked = {name: one for name, one in found.items() if one.available}
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    # It only saves time: a full disk is no reason not to work.
    with contextlib.suppress(OSError):
        temporary.write_text(_dump(worked, engine), encoding="utf-8")
        temporary.replace(path)
