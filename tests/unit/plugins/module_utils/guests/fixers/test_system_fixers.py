# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What else a guest needs, or is asked for: network names, tools, identity, keys."""

from __future__ import annotations

import dataclasses
import pathlib

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.model import Nic
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.fixers.base import read_secrets
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.errors import ErrorClass, JobError

from tests.unit.plugins.module_utils.guests.phony import NEW_MAC, OLD_MAC, Phony, debian

LINK = "/etc/systemd/network/05-hyper2kvm-ens192.link"


@pytest.fixture
def guest(tmp_path: pathlib.Path) -> Phony:
    """A server as it ran on VMware."""
    return debian(tmp_path / "guest")


def test_names_are_pinned_by_links(guest: Phony) -> None:
    before = guest.text("/etc/network/interfaces")
    plan = guest.fix("interface-names")
    lines = guest.text(LINK).splitlines()
    assert lines[1:] == ["[Match]", f"MACAddress={NEW_MAC}", "Path=*", "", "[Link]", "Name=ens192"]
    assert guest.text("/etc/network/interfaces") == before
    assert plan.warnings == []


def test_a_second_conversion_to_another_address_follows(guest: Phony) -> None:
    guest.fix("interface-names")
    other = "52:54:00:99:99:99"
    request = dataclasses.replace(
        guest.request(fixers={"only": ["interface-names"]}), nics=(Nic(mac=other),), source_nics=(Nic(mac=NEW_MAC),)
    )
    guest.fix(request=request)
    assert f"MACAddress={other}\n" in guest.text(LINK)
    assert len(list((guest.folder / "etc/systemd/network").iterdir())) == 1


def test_names_are_pinned_by_rules_before_systemd_217(guest: Phony) -> None:
    (guest.folder / "usr/lib/systemd/libsystemd-shared-252.so").rename(
        guest.folder / "usr/lib/systemd/libsystemd-shared-215.so"
    )
    guest.put("/etc/udev/rules.d/70-persistent-net.rules", "# mine")
    guest.fix("interface-names")
    text = guest.text("/etc/udev/rules.d/70-persistent-net.rules")
    assert text.startswith("# mine\n")
    assert f'ATTR{{address}}=="{NEW_MAC}"' in text and text.endswith('NAME="ens192"\n')
    assert not (guest.folder / "etc/systemd/network").exists()


def test_old_rules_follow_the_new_address(guest: Phony) -> None:
    rule = 'SUBSYSTEM=="net", ACTION=="add", ATTR{address}=="%s", NAME="ens192"\n'
    guest.put("/etc/udev/rules.d/70-persistent-net.rules", rule % OLD_MAC)
    plan = guest.fix("interface-names")
    assert guest.text("/etc/udev/rules.d/70-persistent-net.rules") == rule % NEW_MAC
    assert [change.path for change in plan.edits.changes] == ["/etc/udev/rules.d/70-persistent-net.rules"]


def test_configuration_by_old_address_is_mapped(guest: Phony) -> None:
    guest.put("/etc/network/interfaces", "auto lo\niface lo inet loopback\n")
    old = f"[Match]\nMACAddress={OLD_MAC.upper()}\n[Network]\nDHCP=yes\n"
    guest.put("/etc/systemd/network/a.network", old)
    guest.put("/etc/systemd/network/b.txt", OLD_MAC)
    guest.fix("interface-names")
    assert guest.text("/etc/systemd/network/a.network") == old.replace(OLD_MAC.upper(), NEW_MAC.upper())
    assert guest.text("/etc/systemd/network/b.txt") == OLD_MAC


def test_an_address_that_stays_leaves_the_configuration(guest: Phony) -> None:
    guest.put("/etc/systemd/network/a.network", f"[Match]\nMACAddress={OLD_MAC}\n[Network]\nDHCP=yes\n")
    request = dataclasses.replace(guest.request(fixers={"only": ["interface-names"]}), nics=(Nic(mac=OLD_MAC),))
    plan = guest.fix(request=request)
    assert [change.path for change in plan.edits.changes] in ([], [LINK])
    assert OLD_MAC in guest.text("/etc/systemd/network/a.network")


def test_names_are_left_where_asked(guest: Phony) -> None:
    request = guest.request(fixers={"only": ["interface-names"]}, network={"pinNames": False})
    assert guest.fix(request=request).edits.changes == []


def test_addresses_are_followed_where_names_are_left(guest: Phony) -> None:
    guest.put("/etc/systemd/network/a.network", f"[Match]\nMACAddress={OLD_MAC}\n[Network]\nDHCP=yes\n")
    plan = guest.fix(
        request=guest.request(fixers={"only": ["interface-names"]}, network={"pinNames": False}),
    )
    assert [change.path for change in plan.edits.changes] == ["/etc/systemd/network/a.network"]


def test_unknown_cards_are_said(guest: Phony) -> None:
    request = dataclasses.replace(guest.request(fixers={"only": ["interface-names"]}), nics=(Nic(),))
    (warning,) = guest.fix(request=request).warnings
    assert "MAC" in warning


def test_vmware_tools_are_switched_off(guest: Phony) -> None:
    guest.put("/etc/modules", "loop\nvmw_balloon\nvmw-vmci\n")
    guest.link("/etc/modules-load.d/modules.conf", "../modules")
    guest.put("/etc/init.d/vmware-tools", "#!/bin/sh\n")
    guest.link("/etc/rc2.d/S03vmware-tools", "../init.d/vmware-tools")
    guest.link("/etc/rc2.d/S03ssh", "../init.d/ssh")
    guest.fix("hypervisor-tools")
    system = guest.folder / "etc/systemd/system"
    assert list((system / "multi-user.target.wants").iterdir()) == []
    assert str((system / "open-vm-tools.service").readlink()) == "/dev/null"
    assert not (system / "vmtoolsd.service").is_symlink()
    assert guest.text("/etc/modules") == "loop\n# vmw_balloon\n# vmw-vmci\n"
    assert sorted(path.name for path in (guest.folder / "etc/rc2.d").iterdir()) == ["K01vmware-tools", "S03ssh"]
    assert (guest.folder / "usr/lib/systemd/system/open-vm-tools.service").exists()
    assert guest.inspect().tools[0].enabled is False


def test_a_unit_of_the_administrators_own_stays(guest: Phony) -> None:
    own = "[Service]\nExecStart=/opt/x\n"
    guest.put("/etc/systemd/system/vmware-tools.service", own)
    guest.link("/etc/systemd/system/basic.target.wants/vmware-tools.service", "../vmware-tools.service")
    guest.fix("hypervisor-tools")
    assert guest.text("/etc/systemd/system/vmware-tools.service") == own
    assert list((guest.folder / "etc/systemd/system/basic.target.wants").iterdir()) == []


def test_a_host_name(guest: Phony) -> None:
    guest.put("/etc/hosts", guest.text("/etc/hosts") + "127.0.1.1 web01 # web01\n10.0.0.5 web01\n")
    guest.fix(request=guest.request(hostname="new", fixers={"only": ["hostname"]}))
    assert guest.text("/etc/hostname") == "new\n"
    assert guest.text("/etc/hosts") == (
        "127.0.0.1\tlocalhost\n192.168.10.21\tnew.example.com\tnew\n192.168.10.9 web01-backup\n"
        "127.0.1.1 new # web01\n10.0.0.5 web01\n"
    )


def test_a_time_zone(guest: Phony) -> None:
    guest.fix(request=guest.request(timezone="Europe/Berlin", fixers={"only": ["timezone"]}))
    assert str((guest.folder / "etc/localtime").readlink()) == "../usr/share/zoneinfo/Europe/Berlin"
    assert guest.text("/etc/timezone") == "Europe/Berlin\n"
    with pytest.raises(JobError, match="Mars/Base") as caught:
        guest.plan(request=guest.request(timezone="Mars/Base"))
    assert caught.value.error_class is ErrorClass.UNSUPPORTED


KEY = "ssh-ed25519 AAAAC3 me@here"


def keys(user: str, **more: object) -> dict[str, object]:
    """A job's wish for keys, and for nothing else."""
    return {"ssh_keys": [{"user": user, "keys": [KEY], **more}], "fixers": {"only": ["ssh-keys"]}}


def test_ssh_keys_of_a_user(guest: Phony) -> None:
    guest.fix(request=guest.request(**keys("admin")))
    folder = guest.folder / "home/admin/.ssh"
    file = folder / "authorized_keys"
    assert file.read_text() == KEY + "\n"
    assert [(p.stat().st_mode & 0o777, p.stat().st_uid, p.stat().st_gid) for p in (folder, file)] == [
        (0o700, 1000, 1000),
        (0o600, 1000, 1000),
    ]


def test_ssh_keys_that_are_there_stay(guest: Phony) -> None:
    guest.put("/root/.ssh/authorized_keys", "ssh-rsa OLD old@there", 0o640)
    guest.fix(request=guest.request(**keys("root")))
    path = guest.folder / "root/.ssh/authorized_keys"
    assert path.read_text() == f"ssh-rsa OLD old@there\n{KEY}\n"
    assert path.stat().st_mode & 0o777 == 0o640


def test_ssh_keys_by_reference(guest: Phony, tmp_path: pathlib.Path) -> None:
    (tmp_path / "secrets/team").mkdir(parents=True)
    (tmp_path / "secrets/team/keys").write_text("# ours\nssh-ed25519 BBBB you@there\n\n")
    wish = keys("root", keysFrom={"name": "team", "key": "keys"})
    request = guest.request(**wish)
    secrets = read_secrets(request.spec, tmp_path / "secrets")
    guest.fix(request=dataclasses.replace(request, secrets=secrets))
    assert guest.text("/root/.ssh/authorized_keys") == f"{KEY}\nssh-ed25519 BBBB you@there\n"
    for broken in (None, tmp_path):
        with pytest.raises(JobError, match="team/keys"):
            read_secrets(request.spec, broken)


def test_ssh_keys_by_reference_are_not_shown(guest: Phony) -> None:
    wish = keys("root", keysFrom={"name": "team", "key": "keys"})
    request = dataclasses.replace(guest.request(**wish), secrets={"team/keys": "ssh-ed25519 BBBB you@there\n"})
    (change,) = [one for one in guest.fix(request=request).edits.changes if one.path.endswith("authorized_keys")]
    assert "BBBB" not in (change.diff or "") and "withheld" in (change.diff or "")
    private = "-----BEGIN OPENSSH " + "PRIVATE KEY-----\nCCCC\n"
    with pytest.raises(JobError, match=r"team/keys.*a private key") as caught:
        guest.fix(request=dataclasses.replace(request, secrets={"team/keys": private}))
    assert caught.value.reason == "PrivateKey" and "CCCC" not in str(caught.value)


def test_ssh_keys_where_sshd_looks(guest: Phony) -> None:
    guest.put("/etc/ssh/sshd_config", "#AuthorizedKeysFile x\nAuthorizedKeysFile /etc/ssh/keys/%u other\n")
    guest.fix(request=guest.request(**keys("admin")))
    assert guest.text("/etc/ssh/keys/admin") == KEY + "\n"


@pytest.mark.parametrize("place", [".ssh", ".ssh/authorized_keys"])
def test_ssh_keys_do_not_follow_a_users_link(guest: Phony, place: str) -> None:
    guest.put("/etc/cron.d/job", "")
    guest.link(f"/home/admin/{place}", "/etc/cron.d/job" if "auth" in place else "/etc/cron.d")
    with pytest.raises(JobError, match="symbolic link"):
        guest.plan(request=guest.request(**keys("admin")))


@pytest.mark.parametrize(
    ("passwd", "reason"),
    [("root:x:0:0::/root:/bin/sh\n", "NoSuchUser"), ("admin:x:1:1::/nonexistent:/bin/sh\n", "NoHome")],
)
def test_ssh_keys_of_nobody(guest: Phony, passwd: str, reason: str) -> None:
    guest.put("/etc/passwd", passwd)
    with pytest.raises(JobError) as caught:
        guest.plan(request=guest.request(**keys("admin")))
    assert caught.value.reason == reason


def test_identity_stays_unless_asked(guest: Phony) -> None:
    guest.put("/etc/ssh/ssh_host_rsa_key", "private")
    guest.fix("machine-id", "ssh-host-keys", "hostname", "timezone", "ssh-keys")
    assert guest.text("/etc/ssh/ssh_host_rsa_key") == "private"
    assert len(guest.text("/etc/machine-id")) == 33


def test_a_new_machine_id(guest: Phony) -> None:
    guest.put("/var/lib/dbus/machine-id", guest.text("/etc/machine-id"))
    guest.fix(request=guest.request(reset_machine_id=True, fixers={"only": ["machine-id"]}))
    path = guest.folder / "etc/machine-id"
    assert path.read_bytes() == b"" and path.stat().st_mode & 0o777 == 0o444
    assert not (guest.folder / "var/lib/dbus/machine-id").exists()


def test_new_host_keys(guest: Phony) -> None:
    for name in ("rsa_key", "rsa_key.pub", "ed25519_key"):
        guest.put(f"/etc/ssh/ssh_host_{name}", "x")
    plan = guest.fix(request=guest.request(reset_ssh_host_keys=True, fixers={"only": ["ssh-host-keys"]}))
    assert list((guest.folder / "etc/ssh").iterdir()) == []
    unit = guest.text("/etc/systemd/system/hyper2kvm-ssh-host-keys.service")
    assert "ssh-keygen -A" in unit and "Before=ssh.service" in unit
    assert (guest.folder / "etc/systemd/system/multi-user.target.wants/hyper2kvm-ssh-host-keys.service").is_symlink()
    assert "private" not in "".join(change.diff for change in plan.edits.changes)


def test_new_host_keys_where_sshd_makes_them(guest: Phony) -> None:
    guest.put("/etc/ssh/ssh_host_rsa_key", "x")
    guest.put("/usr/lib/systemd/system/sshd-keygen@.service")
    plan = guest.fix(request=guest.request(reset_ssh_host_keys=True, fixers={"only": ["ssh-host-keys"]}))
    assert [change.kind for change in plan.edits.changes] == ["remove"]
