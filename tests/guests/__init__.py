# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Guests as they come out of VMware, built once and kept.

``build("debian12")`` gives a folder with ``debian12.ova`` and the raw disk it came from. From a shell:
``python -m tests.guests build debian12``.
"""

from __future__ import annotations

import collections.abc as c
import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import pathlib
import shutil
import time
import typing as t

from tests.guests import trees
from tests.guests.host import REPOSITORY, run_privately
from tests.guests.matrix import ALL
from tests.guests.specs import ServerSpec

#: Where guests are kept unless the caller says otherwise.
DEFAULT_CACHE = pathlib.Path(os.environ.get("HYPER2KVM_TEST_GUESTS", REPOSITORY / ".cache" / "guests"))

#: How long nobody asked for a guest of former code before the next build of its name removes it.
_REST_SECONDS = 3600

#: The modules that decide what a guest is made of; those that only start guests do not make them new.
_MAKERS = ("chroot", "debian", "disk", "grub", "host", "ova", "produce", "vmdk")
_TINY_MAKERS = (*_MAKERS, "tiny")
_SERVER_MAKERS = (*_MAKERS, "servers", "volumes")


def build(name: str, cache: pathlib.Path = DEFAULT_CACHE) -> pathlib.Path:
    """The folder of a guest: ``<name>.ova``, ``disk.raw`` (sparse), ``guest.json`` and, for UEFI, ``nvram.fd``.

    It is built where the cache has none that was made by this very code from this very description. Several processes
    may ask at once: one builds, the others wait. A builder that is killed leaves nothing that anybody would use. The
    files belong to the cache: never write to them.

    :raises KeyError: there is no such guest.
    :raises BuildError: it could not be built.
    """
    spec = ALL[name]
    if isinstance(spec, ServerSpec):
        return _build_server(spec, cache)

    def produce(folder: pathlib.Path) -> None:
        if spec.kind == "nokernel":
            material = build("tiny", cache)
        elif spec.kind == "blank":
            material = folder
        else:
            material = package_tree(trees.DEBIAN, cache) / "tree.tar"
        run_privately("tests.guests.produce", spec.name, str(material), str(folder))

    code = _code(_MAKERS if spec.kind == "debian" else _TINY_MAKERS)
    document = {"spec": dataclasses.asdict(spec), "tree": dataclasses.asdict(trees.DEBIAN), "code": code}
    return _entry(cache, name, _digest(document), produce)


def _build_server(spec: ServerSpec, cache: pathlib.Path) -> pathlib.Path:
    """The folder of a server that comes as bare disks: ``disk0.vmdk``, ``disk1.vmdk`` …, and ``guest.json``."""
    tree = trees.SERVERS[spec.release]

    def produce(folder: pathlib.Path) -> None:
        run_privately("tests.guests.servers", spec.name, str(package_tree(tree, cache) / "tree.tar"), str(folder))

    made_of = {"spec": dataclasses.asdict(spec), "tree": dataclasses.asdict(tree), "code": _code(_SERVER_MAKERS)}
    return _entry(cache, spec.name, _digest(made_of), produce)


def package_tree(tree: trees.Tree, cache: pathlib.Path = DEFAULT_CACHE) -> pathlib.Path:
    """The folder with ``tree.tar``, the tarball of a set of packages; drawn from the archive where it is not kept."""
    key = _digest(dataclasses.asdict(tree))

    def draw(folder: pathlib.Path) -> None:
        run_privately("tests.guests.trees", tree.name, str(folder / "tree.tar"))

    return _entry(cache, f"tree-{tree.name}", key, draw)


def kept(
    name: str, made_of: object, produce: t.Callable[[pathlib.Path], None], cache: pathlib.Path = DEFAULT_CACHE
) -> pathlib.Path:
    """The cache's folder of something else that is made once of what ``made_of`` (JSON-able) says."""
    return _entry(cache, name, _digest(made_of), produce)


def cut_short(ova: pathlib.Path, target: pathlib.Path) -> None:
    """Write the first three quarters of an OVA: a download that broke off, in the middle of its disk."""
    with ova.open("rb") as source, target.open("xb") as out:
        shutil.copyfileobj(source, out)
        out.truncate(ova.stat().st_size * 3 // 4)


def _digest(document: object) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:16]


def _code(makers: c.Iterable[str]) -> dict[str, str]:
    here = pathlib.Path(__file__).parent
    return {name: hashlib.sha256((here / f"{name}.py").read_bytes()).hexdigest() for name in makers}


def _entry(cache: pathlib.Path, name: str, key: str, produce: t.Callable[[pathlib.Path], None]) -> pathlib.Path:
    """The cache's folder ``<name>-<key>``, produced where it is missing; older ones that rest are removed then."""
    entry = cache / f"{name}-{key}"
    if entry.is_dir():
        os.utime(entry)
        return entry
    cache.mkdir(parents=True, exist_ok=True)
    with _locked(cache / f".{name}.lock"):
        if entry.is_dir():
            return entry
        partial = cache / f".{name}.partial"
        if partial.exists():  # of a builder that was killed
            shutil.rmtree(partial)
        partial.mkdir()
        began = time.monotonic()
        try:
            produce(partial)
            (partial / "seconds").write_text(f"{time.monotonic() - began:.1f}\n", encoding="ascii")
            partial.rename(entry)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        for other in cache.glob(f"{name}-{'[0-9a-f]' * 16}"):
            if other != entry and time.time() - other.stat().st_mtime > _REST_SECONDS:
                shutil.rmtree(other)
    return entry


@contextlib.contextmanager
def _locked(path: pathlib.Path) -> t.Iterator[None]:
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
