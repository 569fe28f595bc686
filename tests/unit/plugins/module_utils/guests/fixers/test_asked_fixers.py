# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a job may ask for besides: users, files, scripts for the first boot, the guest agent."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import subprocess
import typing as t

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests import firstboot
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.fixers.base import read_secrets
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.planning import Plan
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.errors import JobError

from tests.unit.plugins.module_utils.guests.phony import Phony, debian

HASH = "$6$salt$" + "x" * 20


@pytest.fixture
def guest(tmp_path: pathlib.Path) -> Phony:
    """A server with the files that users are in."""
    guest = debian(tmp_path / "guest")
    guest.put("/etc/group", "root:x:0:\nsudo:x:27:admin\nadmin:x:1000:\n")
    guest.put("/etc/shadow", "root:*:19000:0:99999:7:::\nadmin:!:19000:0:99999:7:::\n", 0o640)
    guest.put("/etc/gshadow", "root:*::\nsudo:*::admin\nadmin:!::\n", 0o640)
    guest.put("/etc/skel/.profile", "umask 022\n")
    guest.put("/usr/bin/bash")
    (guest.folder / "etc/sudoers.d").mkdir()
    return guest


def fix(guest: Phony, tmp_path: pathlib.Path, *only: str, **spec: t.Any) -> Plan:
    """Plan and apply, with a secret at hand."""
    (tmp_path / "secrets/ops").mkdir(parents=True, exist_ok=True)
    (tmp_path / "secrets/ops/hash").write_text(HASH + "\n")
    request = guest.request(fixers={"only": list(only)}, **spec)
    return guest.fix(request=dataclasses.replace(request, secrets=read_secrets(request.spec, tmp_path / "secrets")))


SECRET = {"name": "ops", "key": "hash"}


def test_a_new_user(guest: Phony, tmp_path: pathlib.Path) -> None:
    user = {"name": "ops", "groups": ["sudo"], "password_hash_from": SECRET, "sudo": True}
    keys = [{"user": "ops", "keys": ["ssh-ed25519 AAAAC3 me"]}]
    plan = fix(guest, tmp_path, "users", "ssh-keys", users=[user], ssh_keys=keys)
    assert guest.text("/etc/passwd").endswith("admin:/bin/bash\nops:x:1001:1001::/home/ops:/bin/bash\n")
    assert guest.text("/etc/group") == "root:x:0:\nsudo:x:27:admin,ops\nadmin:x:1000:\nops:x:1001:\n"
    assert guest.text("/etc/shadow").endswith(f"\nops:{HASH}::0:99999:7:::\n")
    assert guest.text("/etc/gshadow") == "root:*::\nsudo:*::admin,ops\nadmin:!::\nops:!::\n"
    assert guest.text("/etc/sudoers.d/90-hyper2kvm-ops") == "ops ALL=(ALL) NOPASSWD:ALL\n"
    home = guest.folder / "home/ops"
    profile, authorized = home / ".profile", home / ".ssh/authorized_keys"
    assert [(path.stat().st_uid, path.stat().st_mode & 0o777) for path in (home, profile, authorized)] == [
        (1001, 0o700),
        (1001, 0o644),
        (1001, 0o600),
    ]
    assert (guest.folder / "etc/sudoers.d/90-hyper2kvm-ops").stat().st_mode & 0o777 == 0o440
    assert not any(HASH in change.diff for change in plan.edits.changes)


def test_a_user_that_exists_keeps_what_it_has(guest: Phony, tmp_path: pathlib.Path) -> None:
    before = guest.text("/etc/passwd")
    fix(guest, tmp_path, "users", users=[{"name": "admin", "password_hash_from": SECRET}, {"name": "root"}])
    assert guest.text("/etc/passwd") == before
    assert guest.text("/etc/shadow") == f"root:*:19000:0:99999:7:::\nadmin:{HASH}:19000:0:99999:7:::\n"
    assert list((guest.folder / "home/admin").iterdir()) == []


@pytest.mark.parametrize(
    ("user", "reason"), [({"groups": ["wheel"]}, "NoSuchGroup"), ({"sudo": True}, "NoSudo"), ({}, "NoPasswordHash")]
)
def test_a_user_that_cannot_be_had(guest: Phony, tmp_path: pathlib.Path, user: dict[str, t.Any], reason: str) -> None:
    (guest.folder / "etc/sudoers.d").rmdir()
    before = guest.snapshot()
    request = guest.request(fixers={"only": ["users"]}, users=[{"name": "ops", "password_hash_from": SECRET, **user}])
    (tmp_path / "secrets/ops").mkdir(parents=True)
    (tmp_path / "secrets/ops/hash").write_text(HASH if user else "hunter2")
    with pytest.raises(JobError) as caught:
        guest.plan(request=dataclasses.replace(request, secrets=read_secrets(request.spec, tmp_path / "secrets")))
    assert caught.value.reason == reason and "hunter2" not in str(caught.value)
    assert guest.snapshot() == before


def test_files(guest: Phony, tmp_path: pathlib.Path) -> None:
    files = [
        {"path": "/etc/motd", "content": "moved\n"},
        {"path": "/opt/app/key", "content_from": SECRET, "mode": "0600", "owner": "admin", "group": "sudo"},
    ]
    plan = fix(guest, tmp_path, "files", files=files)
    assert guest.text("/etc/motd") == "moved\n"
    key = guest.folder / "opt/app/key"
    assert (key.read_text(), key.stat().st_mode & 0o777, key.stat().st_uid, key.stat().st_gid) == (
        HASH + "\n",
        0o600,
        1000,
        27,
    )
    assert not any(HASH in change.diff for change in plan.edits.changes)


def test_a_file_behind_a_link_stays_in_the_guest(guest: Phony, tmp_path: pathlib.Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("host's")
    guest.link("/etc/motd", f"../../../../../../..{outside}")
    fix(guest, tmp_path, "files", files=[{"path": "/etc/motd", "content": "x"}])
    assert outside.read_text() == "host's"
    assert (guest.folder / str(outside).lstrip("/")).read_text() == "x"


def test_a_file_of_nobody(guest: Phony, tmp_path: pathlib.Path) -> None:
    with pytest.raises(JobError, match="no user oracle"):
        fix(guest, tmp_path, "files", files=[{"path": "/etc/a", "content": "x", "owner": "oracle"}])


SCRIPTS = [{"name": "well", "script": "echo well >&2\n"}, {"name": "ill", "script": "echo ill; exit 3\n"}]


def run_in(guest: Phony) -> None:
    """Run the guest's runner as the guest would, with its folders where they are on this host."""
    (guest.folder / "var/log").mkdir(parents=True, exist_ok=True)
    text = guest.text("/usr/lib/hyper2kvm/firstboot")
    for path in (firstboot.FOLDER, firstboot.LOG):
        text = text.replace(path, f"{guest.folder}{path}")
    subprocess.run(["sh", "-c", text], check=True)


def test_scripts_run_once_and_one_that_fails_is_given_up(guest: Phony, tmp_path: pathlib.Path) -> None:
    fix(guest, tmp_path, "firstboot", firstboot=SCRIPTS)
    folder = guest.folder / firstboot.FOLDER.lstrip("/")
    unit = guest.text("/etc/systemd/system/hyper2kvm-firstboot.service")
    assert "ExecStart=/bin/sh /usr/lib/hyper2kvm/firstboot\n" in unit and "Type=oneshot" not in unit
    wanted = guest.folder / "etc/systemd/system/multi-user.target.wants/hyper2kvm-firstboot.service"
    assert str(wanted.readlink()) == "/etc/systemd/system/hyper2kvm-firstboot.service"
    for boot, left in ((1, ["101-ill"]), (2, ["101-ill"]), (3, [])):
        run_in(guest)
        assert [path.name for path in sorted(folder.glob("[0-9]*"))] == left, f"boot {boot}"
    assert (folder / "done/100-well").exists() and (folder / "failed/101-ill").exists()
    log = guest.text(firstboot.LOG).splitlines()
    assert [line.partition(": ")[2] for line in log if "101-ill" in line] == [
        "attempt 1 of 3",
        "attempt 2 of 3",
        "attempt 3 of 3",
        "given up",
    ]
    assert log.count("well") == 1 and log.count("ill") == 3
    assert guest.plan(request=guest.request(fixers={"only": ["firstboot"]}, firstboot=SCRIPTS)).edits.changes == []


def test_scripts_of_openrc_and_of_run_levels(guest: Phony, tmp_path: pathlib.Path) -> None:
    (guest.folder / "usr/lib/systemd/systemd").unlink()
    for level in range(7):
        (guest.folder / f"etc/rc{level}.d").mkdir()
    guest.put("/etc/inittab")
    fix(guest, tmp_path, "firstboot", firstboot=SCRIPTS)
    script = guest.folder / "etc/init.d/hyper2kvm-firstboot"
    assert os.access(script, os.X_OK)
    assert {path.parent.name for path in guest.folder.glob("etc/rc*.d/S99*")} == {f"rc{n}.d" for n in (2, 3, 4, 5)}
    guest.put("/usr/sbin/openrc")
    fix(guest, tmp_path, "firstboot", firstboot=SCRIPTS)
    assert os.access(guest.folder / "etc/local.d/hyper2kvm-firstboot.start", os.X_OK)
    assert str((guest.folder / "etc/runlevels/default/local").readlink()) == "/etc/init.d/local"


def test_a_guest_that_cannot_start_scripts(guest: Phony, tmp_path: pathlib.Path) -> None:
    (guest.folder / "usr/lib/systemd/systemd").unlink()
    with pytest.raises(JobError) as caught:
        fix(guest, tmp_path, "firstboot", firstboot=SCRIPTS)
    assert caught.value.reason == "NoFirstboot"


def test_the_agent_is_installed_at_the_first_boot_where_it_is_missing(guest: Phony, tmp_path: pathlib.Path) -> None:
    plan = fix(guest, tmp_path, "guest-agent", agent="install")
    script = guest.folder / firstboot.FOLDER.lstrip("/") / "050-guest-agent"
    subprocess.run(["sh", "-n", script], check=True)
    assert "apt-get -qy --no-install-recommends install $package" in script.read_text()
    assert {change.fixer for change in plan.edits.changes} == {"guest-agent"}
    guest.put("/usr/sbin/qemu-ga")
    guest.put("/usr/lib/systemd/system/qemu-guest-agent.service", "[Install]\nWantedBy=multi-user.target\n")
    for policy, number in (("leave", 0), ("install", 1)):
        request = guest.request(fixers={"only": ["guest-agent"]}, agent=policy)
        assert len(guest.plan(request=request).edits.changes) == number
