# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The plan as a whole: choosing fixers, room, doing it twice, leaving all else alone."""

from __future__ import annotations

import os
import pathlib
import pkgutil
import re
import subprocess
import typing as t

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.fixers import linux, registry
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.fixers.base import Phase
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.tree import GuestTree
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.errors import ErrorClass, JobError

from tests.unit.plugins.module_utils.guests.phony import NEW_MAC, OLD_MAC, Phony, debian, filesystem


@pytest.fixture
def guest(tmp_path: pathlib.Path) -> Phony:
    """A server as it ran on VMware."""
    return debian(tmp_path / "guest")


def test_a_plan_changes_nothing(guest: Phony) -> None:
    before = guest.snapshot()
    plan = guest.plan(request=guest.request(hostname="new", reset_machine_id=True))
    assert len(plan.edits.changes) > 8
    assert guest.snapshot() == before


def test_only_what_the_plan_says_is_changed(guest: Phony) -> None:
    guest.put("/etc/untouched", "same\n", 0o640)
    before = guest.snapshot()
    plan = guest.fix(request=guest.request())
    after = guest.snapshot()
    said = {change.path.lstrip("/") for change in plan.edits.changes}
    changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    folders = {path for path in changed if path not in before and after[path][0] == "other"}
    assert changed - folders == said
    assert all(any(path.startswith(f"{folder}/") for path in said) for folder in folders)
    assert all(change.fixer and change.why and change.diff for change in plan.edits.changes)


def test_nothing_is_fixed_where_the_job_says_so(guest: Phony) -> None:
    assert guest.plan(request=guest.request(enabled=False)).edits.changes == []


def test_every_file_of_a_fixer_is_registered_and_has_its_place(guest: Phony) -> None:
    found = registry.fixers(guest.inspect())
    files = {name for dummy, name, dummy in pkgutil.iter_modules(linux.__path__)}
    assert {type(fixer).__module__.rpartition(".")[2] for fixer in found} == files
    assert len({fixer.name for fixer in found}) == len(found) == len(files)
    assert [fixer.phase for fixer in found] == sorted(fixer.phase for fixer in found)
    assert [fixer.name for fixer in found if fixer.phase is Phase.INITRAMFS] == [found[-1].name] == ["initramfs"]


def test_only_and_skip(guest: Phony) -> None:
    assert {change.fixer for change in guest.plan("fstab", "grub").edits.changes} == {"fstab", "grub"}
    skipped = guest.plan(request=guest.request(fixers={"skip": ["fstab", "hypervisor-tools"]}))
    found = {change.fixer for change in skipped.edits.changes}
    assert "grub" in found and not found & {"fstab", "hypervisor-tools"}


@pytest.mark.parametrize("selection", [{"only": ["nonsense"]}, {"skip": ["nonsense"]}])
def test_a_fixer_that_does_not_exist(guest: Phony, selection: dict[str, list[str]]) -> None:
    with pytest.raises(JobError, match="nonsense") as caught:
        guest.plan(request=guest.request(fixers=selection))
    assert caught.value.error_class is ErrorClass.UNSUPPORTED
    assert "fstab" in caught.value.suggestion


def test_every_fixer_that_a_field_needs_exists(guest: Phony) -> None:
    wishes: dict[str, t.Any] = {
        "hostname": "a",
        "timezone": "UTC",
        "ssh_keys": [{"keys": ["ssh-rsa A"]}],
        "reset_machine_id": True,
        "reset_ssh_host_keys": True,
        "network": {"pinNames": True},
    }
    needed = set(guest.request(**wishes).spec.wishes.values())
    assert len(needed) == len(wishes) and needed <= {fixer.name for fixer in registry.fixers(guest.inspect())}


@pytest.mark.parametrize("spec", [{"enabled": False}, {"fixers": {"only": ["fstab"]}}])
def test_addresses_that_nothing_rewrites_are_told_of(guest: Phony, spec: dict[str, t.Any]) -> None:
    assert guest.plan(request=guest.request(**spec)).warnings == []
    guest.put("/etc/systemd/network/a.network", f"[Match]\nMACAddress={OLD_MAC}\n[Network]\nDHCP=yes\n")
    (warning,) = guest.plan(request=guest.request(**spec)).warnings
    assert "/etc/systemd/network/a.network" in warning and OLD_MAC in warning and NEW_MAC in warning
    assert not any("becomes" in told for told in guest.plan("interface-names").warnings)


@pytest.mark.parametrize("room", [(1024**2, 10**6), (10**9, 10)])
def test_a_full_filesystem_is_found_before_anything_is_written(
    guest: Phony, monkeypatch: pytest.MonkeyPatch, room: tuple[int, int]
) -> None:
    def free(self: GuestTree, path: str) -> tuple[int, int, int] | None:
        return (*room, 1) if path.startswith("/boot") else (10**9, 10**6, 2)

    monkeypatch.setattr(GuestTree, "free_space", free)
    with pytest.raises(JobError, match="/boot") as caught:
        guest.plan()
    assert caught.value.reason == "GuestFilesystemFull"
    assert str(room[0]) in caught.value.message
    assert re.search(r"so that \d+ (bytes|inodes) are missing", caught.value.message)


@pytest.fixture
def protect(guest: Phony) -> t.Iterator[t.Callable[[str, str], None]]:
    """Set a flag of chattr on a guest's file; taken away afterwards."""
    protected: list[tuple[str, str]] = []

    def flag(path: str, letter: str) -> None:
        protected.append((str(guest.folder / path), letter))
        subprocess.run(["chattr", f"+{letter}", protected[-1][0]], check=True)

    yield flag
    for path, letter in protected:
        subprocess.run(["chattr", f"-{letter}", path], check=True)


@pytest.mark.parametrize(
    ("path", "letter"), [("etc/fstab", "i"), ("etc/default/grub", "a"), ("etc/systemd/system", "i")]
)
def test_protected_files_are_found_before_anything_is_written(
    guest: Phony, protect: t.Callable[[str, str], None], path: str, letter: str
) -> None:
    protect(path, letter)
    before = guest.snapshot()
    with pytest.raises(JobError, match=f"/{path}") as caught:
        guest.plan()
    assert caught.value.reason == "GuestFileProtected" and "chattr" in str(caught.value.suggestion)
    assert guest.snapshot() == before
    assert guest.plan("hostname").edits.changes == []


def test_a_filesystem_that_fell_back_to_read_only_is_found(guest: Phony, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(file: int) -> os.statvfs_result:
        status = list(os.statvfs("/"))
        status[8] |= os.ST_RDONLY
        return os.statvfs_result(status)

    monkeypatch.setattr(os, "fstatvfs", read_only)
    with pytest.raises(JobError, match="read-only") as caught:
        guest.plan("fstab")
    assert caught.value.reason == "GuestFileProtected"


def test_a_hibernated_guest_is_refused(guest: Phony) -> None:
    guest.filesystems[1] = filesystem(2, "swsuspend")
    with pytest.raises(JobError, match="is hibernated") as caught:
        guest.plan("hostname")
    assert caught.value.reason == "Hibernated"
    assert guest.plan(request=guest.request(enabled=False)).edits.changes == []


def test_labels_of_new_files_are_told_of(guest: Phony) -> None:
    guest.put("/etc/selinux/config", "# c\nSELINUX=enforcing\nSELINUXTYPE=targeted\n")
    (warning,) = guest.plan("interface-names").warnings
    assert "05-hyper2kvm-ens192.link" in warning and "restorecon" in warning
    assert guest.plan("fstab").warnings == []


@pytest.mark.timeout(60)
def test_configuration_made_to_tire_a_pattern(guest: Phony) -> None:
    guest.put(
        "/boot/grub/grub.cfg",
        "linux /vmlinuz " + " x" * 300_000 + "\n" + "\n" * 200_000 + "menuentry" + " {" * 100_000,
    )
    guest.put("/etc/default/grub", "GRUB_CMDLINE_LINUX=" + " " * 300_000 + "x\n")
    guest.put("/etc/network/interfaces", "\n" * 200_000 + " " * 200_000)
    guest.put("/etc/fstab", " " * 200_000 + "\n" + "a " * 200_000)
    guest.put("/etc/ssh/sshd_config", "\n" * 200_000)
    guest.plan(
        request=guest.request(ssh_keys=[{"user": "root", "keys": ["ssh-rsa A"]}], fixers={"skip": ["initramfs"]})
    )


def test_a_filesystem_that_makes_inodes_as_needed(guest: Phony, monkeypatch: pytest.MonkeyPatch) -> None:
    free: t.Callable[[GuestTree, str], tuple[int, int, int]] = lambda self, path: (10**9, -1, 1)  # noqa: E731
    monkeypatch.setattr(GuestTree, "free_space", free)
    assert guest.plan().edits.changes


def test_a_hostile_fstab_changes_the_guest_only(guest: Phony, tmp_path: pathlib.Path) -> None:
    canary = tmp_path / "passwd"
    canary.write_text("root:x:0:0\n")
    fstab = guest.folder / "etc/fstab"
    inside = guest.put(str(canary), fstab.read_text())
    fstab.unlink()
    fstab.symlink_to(canary)
    plan = guest.fix("fstab")
    assert [change.path for change in plan.edits.changes] == [str(canary)]
    assert canary.read_text() == "root:x:0:0\n"
    assert "UUID=" in inside.read_text()
