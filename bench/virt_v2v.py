# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""``python -m bench.virt_v2v``: virt-v2v on the same guests and machine, with both results booted by the same test.

Debian's package is installed into a folder of its own, with the kernel of which libguestfs makes its appliance. Without
KVM that appliance runs on an emulated processor, which is most of what virt-v2v's time is then.
"""

from __future__ import annotations

import hashlib
import os
import pathlib
import stat
import subprocess
import tempfile
import time

from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.attach import attach
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.filesystems import probe
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.overlay import create_throwaway
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.boottest.accelerator import TCG, probe_accelerator
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.roots import mount_guest
from ansible_collections.hyper2kvm.core.plugins.module_utils.worker.engine import private_mounts

from bench.figures import Figure, disk_of
from tests.e2e.migration import ConversionHost, job
from tests.guests import DEFAULT_CACHE, build
from tests.guests.specs import SPECS, GuestSpec

_RELEASE = "trixie"
_PACKAGES = ("virt-v2v", "linux-image-amd64")
_GUESTS = ("debian12", "debian12-uefi", "debian12-btrfs")
#: What programs leave there is of no meaning to the guest.
_SCRATCH = ("/tmp/", "/run/", "/var/tmp/")

Files = dict[str, tuple[object, ...]]


def main() -> None:
    """Convert and boot each guest by both, and print a table of it."""
    DEFAULT_CACHE.mkdir(parents=True, exist_ok=True)
    private_mounts()
    with tempfile.TemporaryDirectory(dir=DEFAULT_CACHE) as scratch:
        for figure in _beside(pathlib.Path(scratch)):
            print(f"{figure.what}  {figure.text}")


def _beside(scratch: pathlib.Path) -> list[Figure]:
    root = _installed()
    version = _inside(root, "virt-v2v", "--version").strip()
    figures = []
    print(f"  {version} (Debian {_RELEASE})\n")
    print("| guest | by | conversion, s | boot test | on `ens192` | files changed, added, removed |")
    print("| --- | --- | --- | --- | --- | --- |")
    for guest in _GUESTS:
        spec = SPECS[guest]
        place = scratch / guest
        place.mkdir()
        ova = build(guest) / f"{guest}.ova"
        before = _files(disk_of(ova, place), "vmdk", place)
        host = ConversionHost(place)
        host.add(ova, "vm.ova")
        ours = _by_us(host)
        theirs, disk = _by_virt_v2v(root, host.input / "vm.ova", host.input)
        results = (("hyper2kvm", ours, host.output / "vm/vm.qcow2"), (version, theirs, disk))
        for name, seconds, result in results:
            told = "refuses it | | "
            if result is not None:
                booted = _boot(host, result, spec)
                changed = _differences(before, _files(result, "qcow2", place))
                told = f"{booted} | {changed}"
            print(f"| `{guest}` | {name} | {seconds:.0f} | {told} |", flush=True)
        if disk is not None:
            figures.append(Figure(f"{guest}: hyper2kvm's conversion ÷ virt-v2v's", ours / theirs))
    return figures


def _installed() -> pathlib.Path:
    """virt-v2v in a folder of the cache; made once."""
    name = hashlib.sha256(repr((_RELEASE, _PACKAGES)).encode()).hexdigest()[:12]
    root = DEFAULT_CACHE.parent / f"virt-v2v-{name}"
    if not root.exists():
        with tempfile.TemporaryDirectory(dir=DEFAULT_CACHE.parent) as folder:
            fresh = pathlib.Path(folder, "root")
            pathlib.Path(folder).chmod(0o755)
            command = ["mmdebstrap", "--variant=important", f"--include={','.join(_PACKAGES)}", _RELEASE, str(fresh)]
            subprocess.run(command, check=True, capture_output=True)
            fresh.rename(root)
    for kind in ("proc", "sys", "dev"):
        subprocess.run(["mount", "--rbind", f"/{kind}", root / kind], check=True)
    return root


def _inside(root: pathlib.Path, *command: str | pathlib.Path) -> str:
    """Run a program of the folder in it, and return what it printed.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    environment = {"PATH": "/usr/sbin:/usr/bin", "LC_ALL": "C.UTF-8", "LIBGUESTFS_BACKEND": "direct", "HOME": "/root"}
    if probe_accelerator().name == TCG.name:
        # It takes the KVM that there is, and gives up where that does not work.
        environment["LIBGUESTFS_BACKEND_SETTINGS"] = "force_tcg"
    done = subprocess.run(["chroot", root, *command], env=environment, check=True, capture_output=True, text=True)
    return done.stdout


def _by_us(host: ConversionHost) -> float:
    """Convert, and return the seconds."""
    os.sync()
    began = time.monotonic()
    host.run(job("vm", "vm.ova", verify={"boot": False, "rehearse": "never"}))
    return time.monotonic() - began


def _by_virt_v2v(root: pathlib.Path, ova: pathlib.Path, place: pathlib.Path) -> tuple[float, pathlib.Path | None]:
    """Convert, and return the seconds and the disk, or None where it refused."""
    work = root / "srv"
    subprocess.run(["mount", "--bind", place, work], check=True)
    try:
        os.sync()
        began = time.monotonic()
        try:
            _inside(root, "virt-v2v", "-i", "ova", f"/srv/{ova.name}", "-o", "local", "-os", "/srv", "-of", "qcow2")
        except subprocess.CalledProcessError as error:
            print(f"  virt-v2v: {error.stderr.strip().splitlines()[-1:]}")
            return time.monotonic() - began, None
        seconds = time.monotonic() - began
    finally:
        subprocess.run(["umount", work], check=True)
    (disk,) = place.glob("*-sda")
    return seconds, disk.rename(place / "virt-v2v.qcow2")


def _boot(host: ConversionHost, disk: pathlib.Path, spec: GuestSpec) -> str:
    """Boot a disk with the card that the definition of our target has, which is the source's where that tells it.

    Whether it booted, and the address that its interface has.
    """
    name = f"boot-{disk.stem}"
    source = host.input / f"{name}.qcow2"
    source.unlink(missing_ok=True)
    os.link(disk, source)
    macs = [nic["mac"] for nic in host.result("vm/result.json")["hardware"]["nics"]]
    (done,) = host.run(job(name, source.name, "boot-test", guest={"network": {"macs": macs}}))
    error = done["status"].get("lastError")
    if error is not None:
        return f"{error['reason']} | "
    test = host.result(f"{name}/boot-test.json")["bootTest"]
    addresses = test["facts"]["addresses"].get("ens192", [])
    others = sorted(set(test["facts"]["interfaces"]) - {"ens192"})
    place = "its address" if spec.address in addresses else f"none; the card is {', '.join(others) or 'not seen'}"
    return f"booted in {test['seconds']:.0f} s | {place}"


def _files(disk: pathlib.Path, fmt: str, scratch: pathlib.Path) -> Files:
    """All files of a guest: kind, mode, owner, and what is in it."""
    overlay = scratch / "look.qcow2"
    overlay.unlink(missing_ok=True)
    create_throwaway(overlay, disk, fmt)
    found: Files = {}
    with (
        attach({"disk0": overlay}, writable=True, workdir=scratch) as attachment,
        mount_guest(attachment, probe(attachment), writable=False, workdir=scratch) as guest,
        guest.tree.folder("/") as top,
    ):
        begin = f"/proc/self/fd/{top}/."
        for folder, folders, files in os.walk(begin):
            for name in (*folders, *files):
                path = pathlib.Path(folder, name)
                shown = f"/{path.relative_to(begin)}"
                if not shown.startswith(_SCRATCH):
                    found[shown] = _identity(path)
    return found


def _identity(path: pathlib.Path) -> tuple[object, ...]:
    status = path.lstat()
    kept = (status.st_mode, status.st_uid, status.st_gid)
    if stat.S_ISLNK(status.st_mode):
        return (*kept, os.readlink(path))
    if stat.S_ISREG(status.st_mode):
        with path.open("rb") as file:
            return (*kept, hashlib.file_digest(file, "sha256").hexdigest())
    return kept


def _differences(before: Files, after: Files) -> str:
    changed = sum(1 for path in before.keys() & after.keys() if before[path] != after[path])
    return f"{changed}, {len(after.keys() - before.keys())}, {len(before.keys() - after.keys())}"


if __name__ == "__main__":
    main()
