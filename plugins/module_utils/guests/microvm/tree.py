# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is in a micro-VM: Python, this collection, the tools that it runs, and the kernel's drivers for storage.

Everything is copied from what the worker has installed, file by file, by its name: nothing of the host is shown to the
machine as a whole, and nothing that is not named here can get into it.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import pathlib
import py_compile
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import typing as t

from ...disks.command import clean_environment, find_program
from ...protocol.errors import environment
from ..initramfs import cpio
from ..initramfs.codec import decompress, detect
from .kernel import KernelFiles

#: Python's search path in the machine: libraries, and collections.
LIBRARIES, COLLECTIONS = "/opt/hyper2kvm/lib", "/opt/hyper2kvm/collections"
_CORE = f"{COLLECTIONS}/ansible_collections/hyper2kvm/core/plugins/module_utils"
_SERVICE = "ansible_collections.hyper2kvm.core.plugins.module_utils.guests.microvm.service"

#: Without these no guest can be looked into; the others each serve some guests, which are told what is missing.
NEEDED = ("prlimit", "unshare", "setpriv", "blkid", "sfdisk", "modprobe")
_TOOLS = (
    *("cryptsetup", "dmsetup", "lvm"),
    *("xfs_logprint", "partclone.extfs", "partclone.xfs", "partclone.btrfs"),
    *("e2fsck", "xfs_repair", "btrfs", "fsck.fat"),
    *("zstd", "lz4", "lzop", "ntfscat"),
)
#: Found by their names at run time, so that no program says that it needs them.
_LATE_LIBRARIES = ("libgcc_s.so.1", "ossl-modules/legacy.so")
#: What of the libraries on PyPI the code in the machine imports: pydantic with what it is made of, and PyYAML.
_PACKAGES = (
    *("pydantic", "pydantic_core", "annotated_types", "typing_extensions", "typing_inspection", "annotated_doc"),
    "yaml",
)
#: Parts of Python and of the packages that nothing here imports.
_LEFT_OUT = re.compile(
    r"(^|/)(__pycache__|test|tests|idlelib|tkinter|turtledemo|lib2to3|ensurepip|distutils|site-packages|dist-packages|"
    r"pydoc_data|config-[^/]*|sqlite3|curses|dbm|wsgiref|xmlrpc|venv|unittest|v1|pip|setuptools|asyncio|"
    r"_(test|ctypes_test|xx|tkinter|sqlite3|curses|dbm|gdbm|codecs_)[^/]*|(xx|readline|nis|ossaudiodev)[^/]*\.so)(/|$)"
)
#: Folders of drivers, below a kernel's ``kernel``, and single ones.
_DRIVERS = re.compile(
    r"^kernel/((arch/[^/]+/)?crypto|arch/[^/]+/lib|lib|fs|drivers/(md|virtio))/|^kernel/drivers/(block/(loop|virtio_blk)|"
    r"char/(virtio_console|hw_random/virtio-rng))\.ko"
)
#: Filesystems over a network, and other things with which a machine without one has nothing to do.
_NO_DRIVERS = re.compile(r"^kernel/fs/(nfs|nfsd|nfs_common|lockd|smb|cifs|ceph|afs|9p|ocfs2|dlm|gfs2|coda|orangefs)/")
_MODULE_LIMIT = 256 * 1024**2
_INIT = f"""\
#!{{python}} -ISB
import sys
sys.path[:0] = [{LIBRARIES!r}, {COLLECTIONS!r}]
from {_SERVICE} import main
main()
"""
_FOLDERS = ("dev", "proc", "sys", "run", "tmp", "etc/lvm", "var/lib")


@dataclasses.dataclass(frozen=True)
class Parts:
    """The files of a machine, by where they are in it."""

    copies: dict[str, pathlib.Path]
    """From files of the worker as they are."""
    links: dict[str, str]
    sources: dict[str, pathlib.Path]
    """Python's files, which are compiled; named by where their code goes."""
    drivers: dict[str, pathlib.Path]
    """Kernel modules, perhaps compressed, by their place below the folder of modules."""
    kernel: KernelFiles

    def used(self) -> list[pathlib.Path]:
        """All files of the worker that the machine is made of."""
        indexes = [self.kernel.modules / name for name in _indexes(self.kernel)]
        kept = [*self.copies.values(), *self.sources.values(), *self.drivers.values()]
        return sorted({self.kernel.image, *indexes, *kept})


def collect(kernel: KernelFiles) -> Parts:
    """Find everything that goes into the machine.

    Raises:
        JobError: class ``environment``, something indispensable is not installed.
    """
    tree = _Tree()
    for name, path in tools().items():
        tree.add_program(path, name)
    tree.add_program(str(pathlib.Path(sys.executable).resolve()))
    sources = _standard_library(tree) | _packages(tree) | own_code()
    tree.add_libraries()
    drivers = {
        str(path.relative_to(kernel.modules)): path
        for path in (kernel.modules / "kernel").rglob("*.ko*")
        if _DRIVERS.match(str(path.relative_to(kernel.modules)))
        and not _NO_DRIVERS.match(str(path.relative_to(kernel.modules)))
    }
    return Parts(tree.copies, tree.links, sources, drivers, kernel)


def tools() -> dict[str, str]:
    """Return the programs that go into the machine, by name.

    Raises:
        JobError: class ``environment``, an indispensable one is not installed.
    """
    found = {name: find_program(name) for name in NEEDED}
    return found | {name: path for name in _TOOLS if (path := shutil.which(name)) is not None}


def archive(parts: Parts) -> bytes:
    """Return the machine's files as an initramfs.

    Raises:
        JobError: class ``environment``, a file of the worker is damaged.
    """
    files = {path: (source.read_bytes(), 0o755) for path, source in parts.copies.items()}
    files["/init"] = (_INIT.format(python=pathlib.Path(sys.executable).resolve()).encode(), 0o755)
    with tempfile.TemporaryDirectory(prefix="hyper2kvm-microvm-") as folder:
        scratch = pathlib.Path(folder)
        files |= {path: (data, 0o644) for path, data in _compiled(parts.sources, scratch).items()}
        files |= {path: (data, 0o644) for path, data in _modules(parts, scratch).items()}
    return cpio.write_archive(_entries(files, parts.links))


def _entries(files: dict[str, tuple[bytes, int]], links: dict[str, str]) -> t.Iterator[cpio.Entry]:
    folders = {parent.lstrip("/") for path in (*files, *links) for parent in map(str, pathlib.PurePath(path).parents)}
    folders |= {
        str(parent) for name in _FOLDERS for parent in (pathlib.PurePath(name), *pathlib.PurePath(name).parents)
    }
    for name in sorted(folders - {"", "."}):
        yield cpio.directory(name)
    for path, target in sorted(links.items()):
        yield cpio.symlink(path.lstrip("/"), target)
    for path, (data, mode) in sorted(files.items()):
        yield cpio.file(path.lstrip("/"), data, mode)


class _Tree:
    """Files at the worker's own places, so that whatever a program expects of them holds."""

    def __init__(self) -> None:
        self.copies: dict[str, pathlib.Path] = {}
        self.links: dict[str, str] = {}
        self._loaded: set[pathlib.Path] = set()
        for name in ("bin", "sbin", "lib", "lib64"):
            path = pathlib.Path("/", name)
            if path.is_symlink():
                self.links[str(path)] = str(path.readlink())

    def add(self, path: pathlib.Path) -> None:
        """Add a file, and the name by which it was found where that is a link."""
        real = path.resolve()
        named = path.parent.resolve() / path.name
        self.copies[str(real)] = real
        if named != real:
            self.links[str(named)] = str(real)

    def add_loaded(self, path: pathlib.Path) -> None:
        """Add a program or library, and later what it needs."""
        self.add(path)
        self._loaded.add(path.resolve())

    def add_program(self, path: str, name: str = "") -> None:
        """Add a program, so that it is found by ``name``."""
        self.add_loaded(pathlib.Path(path))
        if name:
            self.links.setdefault(f"/usr/sbin/{name}", str(pathlib.Path(path).resolve()))
            if f"/usr/sbin/{name}" in self.copies:
                del self.links[f"/usr/sbin/{name}"]

    def add_libraries(self) -> None:
        """Add what everything that was added is linked against, as the worker's own loader finds it."""
        done = subprocess.run(
            [find_program("ldd"), *map(str, sorted(self._loaded))],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=clean_environment(),
            timeout=60,
            check=False,
        )
        for found in re.finditer(r"^\s+(?:\S+ => )?(/\S+) \(0x", done.stdout.decode(errors="replace"), re.MULTILINE):
            self.add(pathlib.Path(found[1]))
        folders = {pathlib.Path(path).parent for path in self.copies if re.search(r"/lib(c|crypto)\.so", path)}
        for folder in folders:
            for name in _LATE_LIBRARIES:
                if (folder / name).is_file():
                    self.add(folder / name)


def _standard_library(tree: _Tree) -> dict[str, pathlib.Path]:
    folder = pathlib.Path(sysconfig.get_path("stdlib")).resolve()
    return _python_files(tree, folder, str(folder))


def _packages(tree: _Tree) -> dict[str, pathlib.Path]:
    found: dict[str, pathlib.Path] = {}
    for name in _PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            continue
        origin = pathlib.Path(spec.origin)
        if spec.submodule_search_locations is None:
            found[f"{LIBRARIES}/{origin.name}c"] = origin
        else:
            found |= _python_files(tree, origin.parent, f"{LIBRARIES}/{name}")
    return found


def own_code() -> dict[str, pathlib.Path]:
    """Return this collection's own code, by its place in the machine.

    Raises:
        JobError: class ``environment``, it is in a module's bundle, which has only a part of it.
    """
    folder = pathlib.Path(__file__).parents[2]
    if not folder.is_dir():
        raise environment(
            "NoMicroVmHere",
            "A micro-VM takes the installed collection, and this is a module of its own.",
            "Do it as a job, which a worker carries out.",
        )
    return {
        f"{_CORE}/{path.relative_to(folder)}c": path
        for path in folder.rglob("*.py")
        if path.relative_to(folder).parts[0] in ("disks", "guests", "protocol", "definitions", "__init__.py")
    }


def _python_files(tree: _Tree, folder: pathlib.Path, place: str) -> dict[str, pathlib.Path]:
    """Return a folder's modules by the place of their code; libraries among them go into ``tree``."""
    found = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if _LEFT_OUT.search(name):
            continue
        if path.suffix == ".py":
            found[f"{place}/{name}c"] = path
        elif path.suffix == ".so":
            tree.add_loaded(path)
            if place != str(folder):
                tree.links[f"{place}/{name}"] = str(path.resolve())
    return found


def _compiled(sources: dict[str, pathlib.Path], scratch: pathlib.Path) -> dict[str, bytes]:
    """Return the code of Python's files: compiled where processors are real, and the same each time."""
    found = {}
    target = scratch / "code"
    for place, source in sources.items():
        try:
            py_compile.compile(
                str(source),
                str(target),
                dfile=place.removesuffix("c"),
                doraise=True,
                invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
            )
        except py_compile.PyCompileError:
            continue  # a template, or what another version of Python reads
        found[place] = target.read_bytes()
    return found


def _indexes(kernel: KernelFiles) -> list[str]:
    names = ("modules.builtin", "modules.builtin.modinfo", "modules.order")
    return [name for name in names if (kernel.modules / name).is_file()]


def _modules(parts: Parts, scratch: pathlib.Path) -> dict[str, bytes]:
    """Return the drivers, inflated, with indexes of their own."""
    place = f"lib/modules/{parts.kernel.version}"
    root = scratch / "drivers"
    for name in _indexes(parts.kernel):
        target = root / place / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((parts.kernel.modules / name).read_bytes())
    for name, path in parts.drivers.items():
        data = path.read_bytes()
        compression = detect(data[:16])
        if compression is not None and not data.startswith(b"\x7fELF"):
            data = decompress(data, compression, _MODULE_LIMIT)
        target = root / place / re.sub(r"\.ko\.\w+$", ".ko", name)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    done = subprocess.run(
        [find_program("depmod"), "-b", str(root), parts.kernel.version],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=clean_environment(),
        timeout=120,
        check=False,
    )
    if done.returncode != 0:
        what = done.stderr.decode(errors="replace").strip()[-300:]
        raise environment(
            "MicroVmDrivers",
            f"The kernel's modules for a micro-VM cannot be indexed: {what}.",
            "Give --microvm-kernel a folder with boot/ and lib/modules/ of one kernel, whole.",
        )
    library = "/usr/lib" if pathlib.Path("/lib").is_symlink() else "/lib"
    return {
        f"{library}/modules/{path.relative_to(root / 'lib/modules')}": path.read_bytes()
        for path in root.rglob("*")
        if path.is_file()
    }
