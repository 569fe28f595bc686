# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A folder of exports as an inventory."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import tarfile

import pytest
import yaml
from ansible_collections.hyper2kvm.core.plugins.inventory import exports as plugin
from ansible_collections.hyper2kvm.core.plugins.plugin_utils.exports import Found, find_exports
from ansible_collections.hyper2kvm.core.plugins.plugin_utils.places import Faulty

from tests.guests.ova import write_ova
from tests.guests.specs import SPECS
from tests.tools.inventories import listed

VMX = 'config.version = "8"\nvirtualHW.version = "19"\nscsi0.present = "TRUE"\n'


def image(path: pathlib.Path, fmt: str = "qcow2", *options: str) -> pathlib.Path:
    """An empty disk of 1 MiB."""
    path.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["qemu-img", "create", "-q", "-f", fmt, *options, path, "1M"], check=True)
    return path


def vmx(path: pathlib.Path, *disks: str) -> None:
    """A VM of VMware's with these disks."""
    lines = [f'scsi0:{i}.present = "TRUE"\nscsi0:{i}.fileName = "{name}"\n' for i, name in enumerate(disks)]
    path.write_text(VMX + "".join(lines), encoding="utf-8")


def hosts(found: Found) -> dict[str, tuple[str, str]]:
    """Path and kind by host."""
    return {export.host: (export.path, export.kind) for export in found.exports}


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """Exports of each kind."""
    root = tmp_path / "exports"
    image(root / "web01/web01.vmdk", "vmdk", "-o", "subformat=monolithicFlat")
    image(root / "web01/data.vmdk", "vmdk", "-o", "subformat=twoGbMaxExtentSparse")
    vmx(root / "web01/web01.vmx", "web01.vmdk", "data.vmdk")
    image(root / "base.qcow2")
    image(root / "db01.qcow2", "qcow2", "-b", "base.qcow2", "-F", "qcow2")
    image(root / "mail.vhdx", "vhdx")
    image(root / "flat.vmdk", "vmdk", "-o", "subformat=monolithicFlat")
    (root / "notes.txt").write_text("none of them", encoding="utf-8")
    (root / "pom.xml").write_text("<project/>", encoding="utf-8")
    return root


def test_ansible_lists_a_host_for_each_vm_and_none_for_its_parts(folder: pathlib.Path) -> None:
    (folder / "mine.yml").write_text(
        "plugin: hyper2kvm.core.exports\npath: .\nvars: {hyper2kvm_input_root: '{{ inventory_dir }}'}\n"
        "keyed_groups: [{key: hyper2kvm_source_type, prefix: from}]\n",
        encoding="utf-8",
    )
    found = listed(folder / "mine.yml")
    assert {host: (v["hyper2kvm_source_path"], v["hyper2kvm_source_type"]) for host, v in found.hosts.items()} == {
        "web01": ("web01/web01.vmx", "vmx"),
        "db01": ("db01.qcow2", "qcow2"),
        "mail": ("mail.vhdx", "vhdx"),
        "flat": ("flat.vmdk", "vmdk"),
    }, found.errors
    assert found.groups["from_vmx"] == ["web01"]
    assert "WARNING" not in found.errors


def test_an_ova_is_one_host_and_an_ovf_owns_its_disks(tmp_path: pathlib.Path) -> None:
    disk = image(tmp_path / "made/any.vmdk", "vmdk", "-o", "subformat=streamOptimized")
    write_ova(SPECS["debian12"], disk, 1 << 16, tmp_path / "web01.ova")
    shutil.rmtree(tmp_path / "made")
    with tarfile.open(tmp_path / "web01.ova") as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    (ovf,) = (tmp_path / "unpacked").glob("*.ovf")
    assert hosts(find_exports(tmp_path)) == {
        "web01": ("web01.ova", "ova"),
        ovf.stem: (f"unpacked/{ovf.name}", "ovf"),
    }


def test_what_is_excluded_hidden_or_a_link_is_no_vm(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    image(tmp_path / "elsewhere.qcow2")
    (folder / "link.qcow2").symlink_to(tmp_path / "elsewhere.qcow2")
    (folder / "round").symlink_to(folder)
    image(folder / ".trash/old.qcow2")
    found = find_exports(folder, ["*.vhdx", "web01"])
    assert set(hosts(found)) == {"db01", "flat"} and not found.warnings


def test_what_cannot_be_read_is_a_host_with_a_warning_that_says_why(folder: pathlib.Path) -> None:
    (folder / "web01/data.vmdk").unlink()
    (folder / "torn.ova").write_bytes(b"no tar")
    found = find_exports(folder)
    assert hosts(found)["web01"] == ("web01/web01.vmx", "vmx") and "torn" in hosts(found)
    assert not [path for path, dummy in hosts(found).values() if path.startswith("web01/web01") and "vmdk" in path]
    first, *others = sorted(found.warnings)
    assert first.startswith(f"{folder}/torn.ova: ")
    assert any(one.startswith(f"{folder}/web01/web01.vmx: web01.vmx: disk: '") for one in others), others
    assert any("data.vmdk' cannot be opened: No such file or directory" in one for one in others), others


def test_two_files_of_one_name_are_told_apart_by_their_folders(tmp_path: pathlib.Path) -> None:
    image(tmp_path / "vienna/disk0.qcow2")
    image(tmp_path / "graz/disk0.qcow2")
    image(tmp_path / "linz.qcow2")
    assert set(hosts(find_exports(tmp_path))) == {"vienna-disk0", "graz-disk0", "linz"}
    image(tmp_path / "graz-disk0.raw", "raw")
    with pytest.raises(Faulty, match=r"graz.disk0.* and graz.disk0.* would both be the host graz-disk0"):
        find_exports(tmp_path)


def test_hostile_names_are_text(tmp_path: pathlib.Path) -> None:
    image(tmp_path / "{{ 7 * 7 }}; $(touch x).qcow2")
    image(tmp_path / "a\nb.qcow2")
    image(tmp_path / "c\x1b[2J.qcow2")
    image(tmp_path / "???.qcow2").rename(tmp_path / "d.qcow2")
    (tmp_path / os.fsdecode(b"e\xff.qcow2")).write_bytes(b"")
    found = find_exports(tmp_path)
    assert hosts(found) == {"7-7-touch-x": ("{{ 7 * 7 }}; $(touch x).qcow2", "qcow2"), "d": ("d.qcow2", "qcow2")}
    assert len(found.warnings) == 3 and all("is left out: rename it" in warning for warning in found.warnings)
    assert "\x1b" not in "".join(found.warnings)
    image(tmp_path / "???.qcow2")
    with pytest.raises(Faulty, match="has neither a letter nor a digit in its name"):
        find_exports(tmp_path)


def test_a_disk_that_leads_out_of_the_folder_owns_nothing_there(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    image(tmp_path / "secret.qcow2")
    image(folder / "evil.qcow2", "qcow2", "-b", str(tmp_path / "secret.qcow2"), "-F", "qcow2")
    found = find_exports(folder)
    assert "evil" in hosts(found)
    assert [warning for warning in found.warnings if "evil.qcow2" in warning]


def test_a_folder_that_is_none_is_an_error_of_the_source(tmp_path: pathlib.Path) -> None:
    (tmp_path / "mine.yml").write_text("plugin: hyper2kvm.core.exports\npath: nowhere\n", encoding="utf-8")
    found = listed(tmp_path / "mine.yml")
    assert not found.hosts
    assert found.tells(f"{tmp_path}/mine.yml: {tmp_path}/nowhere is no folder that can be read."), found.errors


def test_the_documented_example_has_known_keys() -> None:
    documented = yaml.safe_load(plugin.DOCUMENTATION)["options"]
    assert set(yaml.safe_load(plugin.EXAMPLES)) - set(documented) == {"keyed_groups"}
