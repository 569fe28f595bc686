# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is released: the same bytes from the same commit, all that users need in it, and nothing of ours."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys
import tarfile

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
#: What people reach for in the installed collection.
WANTED = (
    "Dockerfile",
    "bindep.txt",
    "requirements.txt",
    "awx/project/migrate.yml",
    "dashboards/hyper2kvm.json",
    "dashboards/hyper2kvm.rules.yml",
    "docs/README.md",
    "docs/tutorial.md",
    "ee/execution-environment.yml",
    "helm/hyper2kvm-worker/Chart.yaml",
    "helm/hyper2kvm-worker/templates/worker.yaml",
    "k8s/Makefile",
    "k8s/examples/convert-job.json",
    "meta/runtime.yml",
    "playbooks/migrate.yml",
    "plugins/modules/migration_job.py",
    "roles/migrate/meta/argument_specs.yml",
    "schemas/migration-job.json",
    "scripts/hyper2kvm-worker",
)
#: What only a checkout has.
FOREIGN = (".ansible", ".c*", ".git", ".github", ".hypothesis", ".[mpr]*_cache", ".venv*", "build", "bench", "tests")


def environment(**variables: str) -> dict[str, str]:
    """The environment without what this user has set for Ansible, and without a date."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("ANSIBLE_", "SOURCE_DATE"))}
    return {**kept, **variables}


def release(output: pathlib.Path, umask: int, **variables: str) -> pathlib.Path:
    """Make the files of a release, without a chart; where they are."""
    command = [sys.executable, ROOT / "scripts/make_release.py", output]
    done = subprocess.run(
        command, env=environment(**variables), umask=umask, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return output


@pytest.fixture(scope="module")
def committed() -> int:
    """When the commit that is checked out was made, in seconds since the epoch."""
    return int(subprocess.check_output(["git", "log", "-1", "--format=%ct"], cwd=ROOT))


@pytest.fixture(scope="module")
def released(committed: int, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A release of the commit that is checked out."""
    return release(tmp_path_factory.mktemp("first") / "release", 0o022)


def digests(folder: pathlib.Path) -> dict[str, str]:
    """The files of a folder by name."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_the_same_commit_gives_the_same_bytes_whoever_builds_it(
    released: pathlib.Path, committed: int, tmp_path: pathlib.Path
) -> None:
    again = release(tmp_path / "elsewhere/release", 0o077, TZ="Pacific/Auckland", SOURCE_DATE_EPOCH=str(committed))
    assert len(digests(again)) == 4 and digests(again) == digests(released)


def test_the_digests_are_those_of_the_files(released: pathlib.Path) -> None:
    told = dict(line.split("  ")[::-1] for line in (released / "SHA256SUMS").read_text(encoding="ascii").splitlines())
    assert told == {name: digest for name, digest in digests(released).items() if name != "SHA256SUMS"}


def test_all_times_are_the_commits(released: pathlib.Path, committed: int) -> None:
    (tarball,) = released.glob("*.tar.gz")
    with tarfile.open(tarball) as archive:
        assert {one.mtime for one in archive} == {committed}


def member(tarball: pathlib.Path, name: str) -> bytes:
    """The content of a file in a tarball."""
    with tarfile.open(tarball) as archive:
        found = archive.extractfile(name)
        assert found is not None
        return found.read()


def test_the_libraries_of_the_images_are_told(released: pathlib.Path) -> None:
    (path,) = released.glob("*.cdx.json")
    document = json.loads(path.read_text(encoding="utf-8"))
    assert (document["bomFormat"], document["metadata"]["component"]["name"]) == ("CycloneDX", "hyper2kvm.core")
    locked = (ROOT / "requirements-image.txt").read_text(encoding="utf-8")
    told = {one["purl"].removeprefix("pkg:pypi/").replace("@", "==") for one in document["components"]}
    assert told == {line.split()[0].lower() for line in locked.splitlines() if line[:1].isalpha()}


@pytest.fixture(scope="module")
def installed(released: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The released tarball, installed into an empty folder."""
    folder = tmp_path_factory.mktemp("installed")
    (tarball,) = released.glob("*.tar.gz")
    galaxy = [pathlib.Path(sys.executable).parent / "ansible-galaxy", "collection", "install", "--offline", "--no-deps"]
    # Elsewhere than in the checkout, whose ansible.cfg has a collection of that name.
    command = [*galaxy, "--collections-path", folder, tarball]
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "ansible_collections/hyper2kvm/core"


def test_all_that_users_need_is_installed(installed: pathlib.Path) -> None:
    assert [name for name in WANTED if not (installed / name).is_file()] == []


def test_an_image_can_be_built_from_what_is_installed(installed: pathlib.Path) -> None:
    """Docker and buildah refuse to copy what is not there. One of the files has to say the version."""
    dockerfile = (installed / "Dockerfile").read_text(encoding="utf-8")
    copied = [line.split()[1:-1] for line in dockerfile.splitlines() if re.match(r"COPY (?!--from)", line)]
    found = {source: [*installed.glob(source)] for sources in copied for source in sources}
    assert [source for source, paths in found.items() if not paths] == []
    assert installed / "MANIFEST.json" in [path for paths in found.values() for path in paths]
    # Without it, everything that lies there would be sent to the builder.
    assert (installed / ".dockerignore").is_file()


def test_nothing_of_a_checkout_is_installed(installed: pathlib.Path) -> None:
    assert [one.name for pattern in FOREIGN for one in installed.glob(pattern)] == []
    assert [one for pattern in ("*.pyc", "__pycache__", "*.gz", "*.partial") for one in installed.rglob(pattern)] == []


def test_the_installed_command_runs(installed: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """The programs stay programs, and no module of them is missing."""
    command = [installed / "scripts/hyper2kvm-worker", "status", "--output-root", tmp_path]
    path = f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(command, env=environment(PATH=path), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_archive_says_of_each_file_what_it_is(released: pathlib.Path) -> None:
    """ansible-galaxy verifies by these; they are written anew after it has built the tarball."""
    (tarball,) = released.glob("*.tar.gz")
    listing = member(tarball, "FILES.json")
    manifest = json.loads(member(tarball, "MANIFEST.json"))
    assert manifest["file_manifest_file"]["chksum_sha256"] == hashlib.sha256(listing).hexdigest()
    files = {one["name"]: one["chksum_sha256"] for one in json.loads(listing)["files"] if one["ftype"] == "file"}
    assert "README.md" in files
    wrong = [name for name, digest in files.items() if hashlib.sha256(member(tarball, name)).hexdigest() != digest]
    assert wrong == []
