# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Images for a cluster's nodes, built without a registry: the product's own, and what holds a pod's namespaces."""

from __future__ import annotations

import hashlib
import pathlib
import tempfile
import typing as t

from tests.cluster import programs
from tests.cluster.plans import PAUSE_IMAGE
from tests.guests import kept
from tests.guests.host import REPOSITORY, run

#: How pods name the product's images, by the Dockerfile's targets.
PRODUCT_IMAGES: t.Mapping[str, str] = {"worker": "hyper2kvm:test", "operator": "hyper2kvm-operator:test"}
#: Both programs are in this one.
PRODUCT_IMAGE = PRODUCT_IMAGES["worker"]

_STORAGE = programs.CACHE / "images"
#: Debian as its own image for containers has it, which a machine without a registry cannot get.
_RELEASE = "bookworm"
#: What stays out of it, and of what is installed in it later. mmdebstrap writes these options into the tree.
_SLIM = (
    *("--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/man/*"),
    "--dpkgopt=path-exclude=/usr/share/locale/*",
    *('--aptopt=Dir::Cache::pkgcache ""', '--aptopt=Dir::Cache::srcpkgcache ""'),
    '--aptopt=APT::Install-Recommends "false"',
)
#: When it was last drawn from the archive: a new value makes the images anew, with newer packages.
_DRAWN = "2026-11"
_BASE_FILE = 'FROM scratch\nADD tree.tar /\nCMD ["/bin/sh"]\n'
_PAUSE_FILE = 'FROM scratch\nCOPY pause /\nENTRYPOINT ["/pause"]\n'
#: Where this machine trusts an authority of its own, what is fetched while an image is built is signed by that.
_TRUST = "/etc/ssl/certs"
#: What these programs mount goes with them, and they go with this process.
_PRIVATELY = (
    *("setpriv", "--pdeathsig", "KILL"),
    *("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc"),
)


def product(target: str = "worker") -> pathlib.Path:
    """The archive with the image that the Dockerfile's ``target`` gives, named as :data:`PRODUCT_IMAGES` says.

    Minutes the first time, seconds where nothing but the product's code has changed since, nothing where not even that.

    :raises BuildError: it could not be built.
    """
    base = _base()

    def produce(folder: pathlib.Path) -> None:
        dockerfile = (REPOSITORY / "Dockerfile").read_text(encoding="utf-8")
        options = ("--target", target, "--build-arg", f"BASE_IMAGE={debian()}")
        _build(REPOSITORY, dockerfile, PRODUCT_IMAGES[target], *options)
        _archive(PRODUCT_IMAGES[target], folder / "image.tar")

    files = {str(path.relative_to(REPOSITORY)): _digest(path) for path in _inputs()}
    made_of = {"target": target, "base": base.name, "files": files}
    return kept(f"image-{target}", made_of, produce, programs.CACHE) / "image.tar"


def debian() -> str:
    """The name of an image with Debian, by which others are built.

    :raises BuildError: it could not be built.
    """
    base = _base()
    name = f"localhost/{base.name}"
    if not _buildah("images", "--quiet", "--filter", f"reference={name}").strip():
        _build(base, _BASE_FILE, name)
    return name


def build(context: pathlib.Path, dockerfile: pathlib.Path, name: str) -> None:
    """Build an image.

    :raises BuildError: it could not be built.
    """
    _build(context, dockerfile.read_text(encoding="utf-8"), name)


def inside(name: str, *command: str) -> str:
    """What a command says that ends well in a container of the image.

    :raises BuildError: it does not.
    """
    container = _buildah("from", name).strip()
    try:
        return _buildah("run", "--isolation", "chroot", container, "--", *command)
    finally:
        _buildah("rm", container)


def pause() -> pathlib.Path:
    """The archive with the image that every pod starts from."""
    built = programs.kubernetes()

    def produce(folder: pathlib.Path) -> None:
        _build(built, _PAUSE_FILE, PAUSE_IMAGE)
        _archive(PAUSE_IMAGE, folder / "image.tar")

    return kept("image-pause", {"file": _PAUSE_FILE, "of": built.name}, produce, programs.CACHE) / "image.tar"


def _base() -> pathlib.Path:
    # A tree that is merged from the start does not need what merges it, nor Perl for that.
    packages = ("--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr", "--include=ca-certificates,usr-is-merged")

    def produce(folder: pathlib.Path) -> None:
        # What mmdebstrap unpacks goes with the folder, also if it is killed.
        place = ("env", f"TMPDIR={folder}", "mmdebstrap", "--mode=root", "--variant=minbase")
        run([*_PRIVATELY, *place, *packages, *_SLIM, _RELEASE, folder / "tree.tar"])

    made_of = {"release": _RELEASE, "packages": packages, "slim": _SLIM, "drawn": _DRAWN}
    return kept("debian", made_of, produce, programs.CACHE)


def _build(context: pathlib.Path, dockerfile: str, name: str, *options: str) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".Dockerfile") as file:
        file.write(dockerfile)
        file.flush()
        trust = ["--volume", f"{_TRUST}:{_TRUST}:ro"]
        # Only Docker's own format has health checks.
        kind = ["--layers", "--format", "docker", "--isolation", "chroot"]
        _buildah("build", *kind, *trust, *options, "--file", file.name, "--tag", name, str(context))


def _archive(name: str, path: pathlib.Path) -> None:
    _buildah("push", name, f"docker-archive:{path}:{name}")


def _buildah(*arguments: str) -> str:
    storage = ["--root", str(_STORAGE / "storage"), "--runroot", str(_STORAGE / "run"), "--storage-driver", "overlay"]
    return run([*_PRIVATELY, "buildah", *storage, *arguments], timeout=1800)


def _inputs() -> list[pathlib.Path]:
    """The files of which the image is made: those that .dockerignore lets through."""
    ignored = REPOSITORY / ".dockerignore"
    lines = ignored.read_text(encoding="utf-8").splitlines()
    found = {REPOSITORY / "Dockerfile", ignored}
    for pattern in (line.removeprefix("!") for line in lines if line.startswith("!")):
        for path in REPOSITORY.glob(pattern):
            found.update(one for one in (path.rglob("*") if path.is_dir() else [path]) if one.is_file())
    return sorted(path for path in found if "__pycache__" not in path.parts)


def _digest(path: pathlib.Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
