# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make the files of a release from the commit that is checked out: collection, chart, SBOM, changelog, their digests.

Twice the same commit gives twice the same bytes, with the same tools (requirements-dev.txt, Python, zlib): every time
that is written is ``SOURCE_DATE_EPOCH`` (reproducible-builds.org/specs/source-date-epoch), by default the commit's.
Nothing is published or tagged, and the checkout is left as it is.
"""

from __future__ import annotations

import argparse
import collections.abc as c
import dataclasses
import datetime
import gzip
import hashlib
import io
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import typing as t

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[1]
BIN = pathlib.Path(sys.executable).parent
CHART = pathlib.PurePosixPath("helm/hyper2kvm-worker")
LOCKED = "requirements-image.txt"
CHANGELOG = "CHANGELOG.rst"
SUMS = "SHA256SUMS"


def main() -> None:
    """Make what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "output", type=lambda text: pathlib.Path(text).absolute(), help="the folder for the files; what is in it goes"
    )
    parser.add_argument("--helm", metavar="PROGRAM", help="without it, no chart is made")
    options = parser.parse_args()
    epoch = int(os.environ.get("SOURCE_DATE_EPOCH") or _run("git", "log", "-1", "--format=%ct", cwd=ROOT))
    # The tools that are called know it too.
    os.environ["SOURCE_DATE_EPOCH"] = str(epoch)
    shutil.rmtree(options.output, ignore_errors=True)
    options.output.mkdir(parents=True)
    with tempfile.TemporaryDirectory(prefix="hyper2kvm-release-") as place:
        tree = pathlib.Path(place, "tree")
        _check_out(tree)
        version = yaml.safe_load((tree / "galaxy.yml").read_text(encoding="utf-8"))["version"]
        _write_changelog(tree, version, epoch)
        shutil.copyfile(tree / CHANGELOG, options.output / CHANGELOG)
        _build_collection(tree, options.output, epoch)
        if options.helm:
            _package_chart(tree, options.output, options.helm, epoch)
        _write_sbom(tree, options.output / f"hyper2kvm-core-{version}.cdx.json", version)
    sums = "".join(f"{_sha256(path.read_bytes())}  {path.name}\n" for path in sorted(options.output.iterdir()))
    (options.output / SUMS).write_text(sums, encoding="ascii")
    print(sums, end="")


def _check_out(tree: pathlib.Path) -> None:
    """Lay the commit's files out; what is not committed is in no release."""
    with tarfile.open(fileobj=io.BytesIO(_output("git", "archive", "HEAD", cwd=ROOT))) as archive:
        archive.extractall(tree, filter="data")


def _write_changelog(tree: pathlib.Path, version: str, epoch: int) -> None:
    """Make the changelog, and the release in it where the fragments are still there."""
    done = yaml.safe_load((tree / "changelogs/changelog.yaml").read_text(encoding="utf-8"))["releases"]
    day = datetime.datetime.fromtimestamp(epoch, datetime.timezone.utc).date().isoformat()
    words = ["generate"] if version in done else ["release", "--version", version, "--date", day]
    _run(str(BIN / "antsibull-changelog"), *words, cwd=tree)


def _build_collection(tree: pathlib.Path, output: pathlib.Path, epoch: int) -> None:
    _run(str(BIN / "ansible-galaxy"), "collection", "build", "--output-path", str(output), cwd=tree)
    (tarball,) = output.glob("*.tar.gz")
    members = {one.info.name: one for one in _members(tarball)}
    # ansible-galaxy lists files in the order in which the filesystem gives them.
    files = json.loads(members["FILES.json"].content)
    files["files"].sort(key=lambda one: one["name"])
    members["FILES.json"].content = _json(files)
    manifest = json.loads(members["MANIFEST.json"].content)
    manifest["file_manifest_file"]["chksum_sha256"] = _sha256(members["FILES.json"].content)
    members["MANIFEST.json"].content = _json(manifest)
    # As ansible-galaxy writes them: whoever opens a tarball finds the manifest at its beginning.
    first = ("MANIFEST.json", "FILES.json")
    _pack(tarball, {**{name: members[name] for name in first}, **members}.values(), epoch)


def _package_chart(tree: pathlib.Path, output: pathlib.Path, helm: str, epoch: int) -> None:
    _run(helm, "package", str(tree / CHART), "--destination", str(output))
    (package,) = output.glob(f"{CHART.name}-*.tgz")
    _pack(package, _members(package), epoch)


def _write_sbom(tree: pathlib.Path, path: pathlib.Path, version: str) -> None:
    """Tell in CycloneDX's JSON which libraries the images have; an image's own SBOM has the system's packages."""
    # The tool takes name and version of the whole from such a file.
    whole = tree / "sbom.toml"
    whole.write_text(
        f'[project]\nname = "hyper2kvm.core"\nversion = "{version}"\nlicense = "GPL-3.0-or-later"\n', encoding="utf-8"
    )
    options = ("--output-reproducible", "--of", "JSON", "--mc-type", "application", "--pyproject", whole.name)
    _run(str(BIN / "cyclonedx-py"), "requirements", *options, "-o", str(path), LOCKED, cwd=tree)


@dataclasses.dataclass
class Member:
    """What an archive holds: a file, a folder or a link, and a file's bytes."""

    info: tarfile.TarInfo
    content: bytes


def _members(archive: pathlib.Path) -> list[Member]:
    """Return what is in an archive, in the order of the names."""
    with tarfile.open(archive) as found:
        return [
            Member(one, t.cast(t.IO[bytes], found.extractfile(one)).read() if one.isfile() else b"")
            for one in sorted(found, key=lambda one: one.name)
        ]


def _pack(path: pathlib.Path, members: c.Iterable[Member], epoch: int) -> None:
    """Write an archive in which nothing tells who made it, when, or where."""
    with (
        path.open("wb") as file,
        gzip.GzipFile("", "wb", fileobj=file, mtime=epoch) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for member in members:
            info = tarfile.TarInfo(member.info.name)
            info.type, info.linkname, info.size = member.info.type, member.info.linkname, len(member.content)
            # As git knows modes: what its owner may run, everybody may.
            info.mode = 0o755 if member.info.mode & 0o100 else 0o644
            info.mtime = epoch
            archive.addfile(info, io.BytesIO(member.content))


def _json(document: object) -> bytes:
    """Return a document as ansible-galaxy writes it."""
    return json.dumps(document, indent=1).encode()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _run(*command: str, cwd: pathlib.Path | None = None) -> str:
    return _output(*command, cwd=cwd).decode()


def _output(*command: str, cwd: pathlib.Path | None = None) -> bytes:
    done = subprocess.run(command, cwd=cwd, capture_output=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{command[0]} failed:\n{(done.stdout + done.stderr).decode(errors='replace')}")
    return done.stdout


if __name__ == "__main__":
    main()
