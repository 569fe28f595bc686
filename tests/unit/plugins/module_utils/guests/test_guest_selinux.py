# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""SELinux labels of what is new in a guest, by the guest's own list."""

from __future__ import annotations

import os
import pathlib
import re
import stat

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.selinux import Labels, OddPatternError, matches
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.plugins.module_utils.guests.phony import Phony, debian

CONTEXTS = """\
# comment
/.*	system_u:object_r:default_t:s0
/etc(/.*)?	system_u:object_r:etc_t:s0
/etc/ssh/.*_key	--	system_u:object_r:sshd_key_t:s0
/usr/lib/systemd/system(/.*)?	system_u:object_r:systemd_unit_file_t:s0
/etc/systemd/system(/.*)?	system_u:object_r:systemd_unit_file_t:s0
/etc/shadow.*	--	system_u:object_r:shadow_t:s0
/etc/localtime	-l	system_u:object_r:locale_t:s0
/boot/.*	system_u:object_r:boot_t:s0
/proc/.*	<<none>>
/var/lib(/.*)?	system_u:object_r:var_lib_t:s0
/home/[^/]+/\\.ssh(/.*)?	system_u:object_r:ssh_home_t:s0
/dev/vd[a-z][0-9]{1,2}	-b	system_u:object_r:fixed_disk_device_t:s0
"""
FOLDER = "/etc/selinux/targeted/contexts/files"


@pytest.fixture
def guest(tmp_path: pathlib.Path) -> Phony:
    """A server with SELinux."""
    guest = debian(tmp_path / "guest")
    guest.put("/etc/selinux/config", "SELINUX=enforcing\nSELINUXTYPE=targeted\n")
    guest.put(f"{FOLDER}/file_contexts", CONTEXTS)
    guest.put(f"{FOLDER}/file_contexts.local", "/etc/mine	system_u:object_r:mine_t:s0\n")
    guest.put(f"{FOLDER}/file_contexts.subs_dist", "/run /var/run\n/lib/systemd/system /usr/lib/systemd/system\n")
    return guest


@pytest.mark.parametrize(
    ("path", "mode", "label"),
    [
        ("/etc/fstab", stat.S_IFREG, "etc_t"),
        ("/etc", stat.S_IFDIR, "etc_t"),
        ("/etcetera", stat.S_IFREG, "default_t"),
        ("/etc/shadow-", stat.S_IFREG, "shadow_t"),
        ("/etc/shadow.d", stat.S_IFDIR, "etc_t"),
        ("/etc/localtime", stat.S_IFLNK, "locale_t"),
        ("/etc/localtime", stat.S_IFREG, "etc_t"),
        ("/etc/systemd/system/x.service", stat.S_IFREG, "systemd_unit_file_t"),
        ("/lib/systemd/system/x.service", stat.S_IFREG, "systemd_unit_file_t"),
        ("/etc/mine", stat.S_IFREG, "mine_t"),
        ("/proc/1", stat.S_IFDIR, None),
        ("/home/a/.ssh/authorized_keys", stat.S_IFREG, "ssh_home_t"),
        ("/home/a/b/.ssh", stat.S_IFDIR, "default_t"),
        ("/dev/vda1", stat.S_IFBLK, "fixed_disk_device_t"),
    ],
)
def test_the_list_is_read_as_restorecon_does(guest: Phony, path: str, mode: int, label: str | None) -> None:
    with guest.tree() as tree:
        found = Labels(tree).of(path, mode)
    assert found == (f"system_u:object_r:{label}:s0" if label else None)


def label_of(guest: Phony, path: str) -> str:
    """The type in a file's label."""
    return os.getxattr(guest.folder / path, "security.selinux", follow_symlinks=False).split(b":")[2].decode()


def test_only_what_is_new_is_labelled(guest: Phony) -> None:
    old = b"system_u:object_r:admins_choice_t:s0\0"
    for path in ("etc/fstab", "etc/systemd", "etc"):
        (guest.folder / path).mkdir(exist_ok=True) if path == "etc/systemd" else None
        os.setxattr(guest.folder / path, "security.selinux", old)
    plan = guest.fix("interface-names", "fstab", "hypervisor-tools")
    assert not any("restorecon" in warning for warning in plan.warnings)
    assert label_of(guest, "etc/systemd/network") == "etc_t"
    assert label_of(guest, "etc/systemd/network/05-hyper2kvm-ens192.link") == "etc_t"
    assert label_of(guest, "etc/systemd/system/open-vm-tools.service") == "systemd_unit_file_t"
    assert label_of(guest, "etc/fstab") == "admins_choice_t", "a changed file keeps the label that it has"
    assert label_of(guest, "etc") == "admins_choice_t"
    assert not (guest.folder / ".autorelabel").exists()


def test_all_files_at_boot_where_asked(guest: Phony) -> None:
    spec = {"selinux_relabel": "boot", "selinux_exclude": ["/srv/data"], "fixers": {"only": ["selinux"]}}
    guest.put("/etc/selinux/fixfiles_exclude_dirs", "/backup")
    guest.fix(request=guest.request(**spec))
    assert guest.text("/.autorelabel") == "-F\n"
    assert guest.text("/etc/selinux/fixfiles_exclude_dirs") == "/backup\n/srv/data\n"


def test_a_guest_without_selinux_is_not_relabelled(guest: Phony) -> None:
    guest.put("/etc/selinux/config", "SELINUX=disabled\n")
    plan = guest.fix(request=guest.request(selinux_relabel="boot", fixers={"only": ["selinux"]}))
    assert plan.edits.changes == [] and "no SELinux" in plan.warnings[0]


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("pattern", "fits"),
    [("/(a*)*b", False), ("/(a|aa)+$", True), ("/(.*)*(.*)*(.*)*x", False), ("/((a?){20}){20}", False)],
)
def test_a_pattern_that_would_tire_a_matcher(pattern: str, fits: bool) -> None:
    assert matches(pattern, "/" + "a" * 3000) is fits


@pytest.mark.parametrize("pattern", ["/a(?=b)", "/(a", "/a)", "/[a", r"/(a)\1", "/a{x}", "*", "/" + "a" * 2000])
def test_an_odd_pattern_fits_nothing_and_breaks_nothing(guest: Phony, pattern: str) -> None:
    with pytest.raises(OddPatternError):
        matches(pattern, "/a")
    guest.put(f"{FOLDER}/file_contexts", f"/etc(/.*)?	a:b:c:s0\n{pattern}	x:y:z:s0\n")
    with guest.tree() as tree:
        assert Labels(tree).of("/etc/fstab", stat.S_IFREG) == "a:b:c:s0"


_ATOMS = st.sampled_from(["a", "b", "/", ".", r"\.", "[ab]", "[^/]", "[a-c-]", r"\d"])
_PATTERNS = st.recursive(
    _ATOMS,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        inner.map(lambda p: f"({p})?"),
        inner.map(lambda p: f"({p})*"),
        inner.map(lambda p: f"(?:{p})+"),
        st.tuples(inner, inner).map(lambda two: f"({two[0]}|{two[1]})"),
        inner.map(lambda p: f"({p}){{1,2}}"),
        inner.map(lambda p: f"({p}){{2}}"),
        inner.map(lambda p: f"({p}){{0,1}}"),
        inner.map(lambda p: f"({p}){{2,}}"),
    ),
    max_leaves=6,
)


@given(_PATTERNS, st.text("ab./1-", max_size=8))
def test_patterns_mean_what_they_mean_elsewhere(pattern: str, path: str) -> None:
    assert matches(pattern, path) == (re.fullmatch(pattern, path) is not None)
