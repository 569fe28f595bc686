# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Plans and spreadsheets as inventories."""

from __future__ import annotations

import pathlib

import openpyxl
import pytest
from ansible_collections.hyper2kvm.core.plugins.inventory import batch as plugin
from ansible_collections.hyper2kvm.core.plugins.plugin_utils.batch import Batch, read_plan
from ansible_collections.hyper2kvm.core.plugins.plugin_utils.places import Faulty

from tests.tools.inventories import listed, run

#: As RVTools 4 writes its sheet vInfo, cut to a few of its columns.
RVTOOLS = """\
VM,Powerstate,Template,CPUs,Memory,In Use MiB,Network #1,Cluster,Migration wave
web01,poweredOn,False,2,4096,"12,288",VM Network,Vienna A,1
db 01 (old),poweredOn,False,8,32768,512000,Storage,Vienna A,2
Vorlage,poweredOff,True,1,1024,900,VM Network,Vienna B,

mail,poweredOn,False,2,2048,7000,VM Network,Vienna B,1
"""
RVTOOLS_PLAN = """\
plugin: hyper2kvm.core.batch
table:
  path: vinfo.csv
  where: {Powerstate: [poweredOn], Template: "false"}
  columns: {cluster: Cluster, wave: Migration wave}
vars:
  hyper2kvm_source_path: "{{ hyper2kvm_source_name }}/{{ hyper2kvm_source_name }}.ovf"
waves:
  - {name: wave1, vars: {hyper2kvm_target_format: raw}}
  - wave2
hosts:
  mail: {hyper2kvm_priority: 5, groups: [exposed]}
keyed_groups:
  - {key: cluster, prefix: cluster}
"""


@pytest.fixture
def plan(tmp_path: pathlib.Path) -> pathlib.Path:
    """A plan with an export of RVTools beside it."""
    (tmp_path / "vinfo.csv").write_text(RVTOOLS, encoding="utf-8")
    path = tmp_path / "plan.yml"
    path.write_text(RVTOOLS_PLAN, encoding="utf-8")
    return path


def read(path: pathlib.Path, text: str) -> Batch:
    """Read a plan of that text."""
    path.write_text("plugin: hyper2kvm.core.batch\n" + text, encoding="utf-8")
    return read_plan(path)


def test_an_export_of_rvtools_becomes_hosts_waves_and_variables(plan: pathlib.Path) -> None:
    found = listed(plan)
    assert set(found.hosts) == {"web01", "db-01-old", "mail"}, found.errors
    assert found.groups["wave1"] == ["web01", "mail"] and found.groups["wave2"] == ["db-01-old"]
    assert found.groups["exposed"] == ["mail"]
    assert found.groups["cluster_Vienna_A"] == ["web01", "db-01-old"]
    assert found.hosts["web01"]["hyper2kvm_source_used_bytes"] == 12288 * 1024**2
    assert found.hosts["web01"]["hyper2kvm_target_format"] == "raw"
    assert "hyper2kvm_target_format" not in found.hosts["db-01-old"]
    assert found.hosts["db-01-old"]["hyper2kvm_source_name"] == "db 01 (old)"
    assert found.hosts["mail"]["hyper2kvm_priority"] == 5


def test_the_plans_templates_work_and_what_a_vm_is_called_is_none(plan: pathlib.Path) -> None:
    mark = plan.parent / "ran"
    bad = f"{{{{ lookup('pipe', 'touch {mark}') }}}}"
    with (plan.parent / "vinfo.csv").open("a", encoding="utf-8") as table:
        table.write(f'"{bad}",poweredOn,False,1,1,1,x,"{{{{ 7 * 7 }}}}",1\n')
    done = run(
        "ansible",
        "-i",
        plan,
        "-m",
        "ansible.builtin.debug",
        "-a",
        "msg={{ hyper2kvm_source_path }}={{ cluster }}",
        "all",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "db 01 (old)/db 01 (old).ovf=Vienna A" in done.stdout
    assert f"{bad}/{bad}.ovf={{{{ 7 * 7 }}}}" in done.stdout
    assert not mark.exists()


def test_a_workbook_gives_what_its_csv_gives(plan: pathlib.Path) -> None:
    of_csv = read_plan(plan)
    workbook = openpyxl.Workbook()
    workbook.active.title = "vMetaData"
    sheet = workbook.create_sheet("vInfo")
    for line in RVTOOLS.replace('"12,288"', "12288").splitlines():
        cells = line.split(",")
        sheet.append(
            [int(cell) if cell.isdigit() else {"True": True, "False": False}.get(cell, cell) for cell in cells]
        )
    workbook.save(plan.parent / "vinfo.xlsx")
    plan.write_text(RVTOOLS_PLAN.replace("vinfo.csv", "vinfo.xlsx\n  sheet: vInfo"), encoding="utf-8")
    of_workbook = read_plan(plan)
    assert [(m.host, m.wave, m.cells, m.variables) for m in of_workbook.machines.values()] == [
        (m.host, m.wave, m.cells, m.variables) for m in of_csv.machines.values()
    ]
    plan.write_text(RVTOOLS_PLAN.replace("vinfo.csv", "vinfo.xlsx\n  sheet: vinfo"), encoding="utf-8")
    with pytest.raises(Faulty, match=r"vinfo.xlsx has no sheet 'vinfo'; it has 'vMetaData', 'vInfo'"):
        read_plan(plan)


def test_a_broken_workbook_and_a_missing_file_are_told(plan: pathlib.Path) -> None:
    plan.write_text(RVTOOLS_PLAN.replace("vinfo.csv", "vinfo.xlsx"), encoding="utf-8")
    with pytest.raises(Faulty, match=r"vinfo.xlsx cannot be read: No such file"):
        read_plan(plan)
    (plan.parent / "vinfo.xlsx").write_bytes(b"PK\x03\x04 no zip")
    with pytest.raises(Faulty, match=r"vinfo.xlsx is no Excel workbook that can be read: .* Save it anew"):
        read_plan(plan)


def test_a_plan_by_hand_has_hosts_waves_in_order_and_patterns(tmp_path: pathlib.Path) -> None:
    found = read(
        tmp_path / "plan.yml",
        "waves:\n- {name: second, hosts: [db*]}\n- {name: first, hosts: web01}\n"
        "hosts:\n  web01: {hyper2kvm_source_path: a.ova}\n  db01:\n  db02: {wave: second, groups: 'a, b'}\n",
    )
    assert list(found.groups) == ["second", "first", "a", "b"]
    assert {host: machine.wave for host, machine in found.machines.items()} == {
        "web01": "first",
        "db01": "second",
        "db02": "second",
    }


def test_ansible_shows_each_fault_with_file_and_line_and_there_is_no_host(plan: pathlib.Path) -> None:
    plan.write_text(
        RVTOOLS_PLAN.replace("hyper2kvm_source_path:", "hyper2kvm_sourcepath:")
        .replace("hyper2kvm_target_format: raw", "hyper2kvm_target_format: vmdk")
        .replace("hosts:\n", "hosts:\n  'a b': {}\n"),
        encoding="utf-8",
    )
    # As a fault is found in the plan's own text, the table has not been looked at.
    found = listed(plan)
    assert not found.hosts
    for line, text in (
        (7, "There is no variable 'hyper2kvm_sourcepath'. Is hyper2kvm_source_path meant?"),
        (9, "hyper2kvm_target_format is 'vmdk'. It can be qcow2, raw."),
    ):
        assert found.tells(f"{plan}:{line}: {text}"), found.errors


@pytest.mark.parametrize(
    ("text", "line", "fault"),
    [
        ("host: {}\n", 2, "The plan has no key 'host'. Is hosts meant?"),
        ("hosts: [web01]\n", 2, "hosts is no dictionary."),
        ("hosts:\n  web01: a.ova\n", 3, "web01 is no dictionary."),
        ("hosts:\n  a:\n  'b c': {}\n", 4, "'b c' cannot be a host's name"),
        ("hosts:\n  a: {hyper2kvm_waves: [b]}\n", 3, "hyper2kvm_waves shapes the play itself"),
        ("hosts:\n  a:\n    my-own: 1\n", 4, "'my-own' cannot be a variable"),
        ("hosts:\n  a: {wave: conversion_hosts}\n", 3, "'conversion_hosts' is a group with a meaning of its own"),
        ("hosts:\n  a: {wave: 1}\n", 3, "wave is '1' and no text. Put it in quotes."),
        ("hosts:\n  a: {groups: [[]]}\n", 3, "groups is no list of names."),
        ("waves: {a: b}\n", 2, "waves is no list"),
        ("waves:\n- 7\n", 3, "An entry of waves is no dictionary."),
        ("waves:\n- 'wave 1'\n", 3, "'wave 1' cannot be a group"),
        ("waves: [a,\n a]\n", 3, "The wave a comes twice."),
        ("waves:\n- name: a\n  hosts: [x*]\n", 4, "'x*' is no VM of this batch, and matches none."),
        ("waves: [one]\nhosts:\n  a: {wave: onee}\n", 4, "There is no wave 'onee' in the plan. Is one meant?"),
        ("waves:\n- one\n- name: two\n  hosts: [a]\nhosts:\n  a: {wave: one}\n", 5, "a is in the waves one and two."),
        ("table: {sheet: x}\n", 2, "table has no path"),
        ("table:\n  path: t.csv\n  columns:\n    wave: Wafe\n", 5, "The table has no column 'Wafe'. Is Wave meant?"),
        ("table:\n  path: t.csv\n  where:\n    On: x\n", 5, "The table has no column 'On'. It has 'VM', 'Wave'."),
    ],
)
def test_a_fault_of_the_plan_is_told_with_its_line(tmp_path: pathlib.Path, text: str, line: int, fault: str) -> None:
    (tmp_path / "t.csv").write_text("VM,Wave\nweb01,1\n", encoding="utf-8")
    with pytest.raises(Faulty) as error:
        read(tmp_path / "plan.yml", text)
    assert f"plan.yml:{line}: {fault}" in str(error.value)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("- a\n", r"plan.yml: .*\(line 2, column 1\)"),
        ("hosts: &a {}\n", r"plan.yml: anchors and aliases are refused \(line 2, column 8\)"),
        ("hosts: {}\nhosts: {}\n", r"plan.yml: the key 'hosts' comes twice \(line 3, column 1\)"),
        ("hosts: " + "[" * 5000 + "\n", "plan.yml is nested too deeply"),
    ],
)
def test_what_is_no_yaml_is_told_with_its_line(tmp_path: pathlib.Path, text: str, fault: str) -> None:
    with pytest.raises(Faulty, match=fault):
        read(tmp_path / "plan.yml", text)


def test_a_plan_that_is_no_utf_8_is_told_with_its_line(tmp_path: pathlib.Path) -> None:
    (tmp_path / "plan.yml").write_bytes(b"plugin: hyper2kvm.core.batch\n# \xfc\n")
    with pytest.raises(Faulty, match=r"plan.yml:2: this is no UTF-8"):
        read_plan(tmp_path / "plan.yml")


@pytest.mark.parametrize(
    ("table", "line", "fault"),
    [
        ("name\n\n", 1, "The table has no VM, or where leaves none of them."),
        ("", 1, "there is no header"),
        ("host\na\n", 1, "No column is named name or VM. It has 'host'."),
        ("name,wave,name\n", 1, "two columns are named 'name'."),
        ("name,wave\na,1\n,2\n", 3, "The column 'name' is empty, and a VM has a name."),
        ("name,wave\na,1\n???,2\n", 3, "'???' has neither a letter nor a digit."),
        ("name\na b\nA-B\na (b)\n", 4, "'a (b)' would be the host a-b, as line 2 is."),
        ("name,wave\na,1,2\n", 2, "this row has 3 cells, and the header names 2 columns."),
        ('name,note\na,"two\nlines"\nb,"x"y"\n', 4, "this is no row of a CSV file"),
        ('name\na\n"b\nc', 3, "this is no row of a CSV file"),
        ("name,wave\na,wave 1\n", 2, "'wave 1' cannot be a group"),
        ("name,hyper2kvm_target_format\na,vmdk\n", 2, "hyper2kvm_target_format is 'vmdk'."),
        ("name,hyper2kvm_sourcepath\na,b\n", 1, "There is no variable 'hyper2kvm_sourcepath'."),
        ("VM,In Use MiB\na,12.5\n", 2, "In Use MiB is '12.5' and no whole number."),
        ("VM,In Use MiB\na,9999999999999999999\n", 2, "In Use MiB is '9999999999999999999' and no whole number."),
    ],
)
def test_a_fault_of_the_table_is_told_with_its_line(tmp_path: pathlib.Path, table: str, line: int, fault: str) -> None:
    (tmp_path / "t.csv").write_text(table, encoding="utf-8", newline="")
    with pytest.raises(Faulty) as error:
        read(tmp_path / "plan.yml", "table: {path: t.csv}\n")
    assert f"t.csv:{line}: {fault}" in str(error.value)


def test_what_a_terminal_would_obey_gets_into_no_name_and_no_message(tmp_path: pathlib.Path) -> None:
    (tmp_path / "t.csv").write_text("name\n\x1b[31ma\nb\x00\n", encoding="utf-8")
    machines = read(tmp_path / "plan.yml", "table: {path: t.csv}\n").machines
    names = {host: machine.cells["hyper2kvm_source_name"] for host, machine in machines.items()}
    assert names == {"31ma": "?[31ma", "b": "b?"}
    (tmp_path / "t.csv").write_text("name,wave\na,\x1b[2J\n", encoding="utf-8")
    with pytest.raises(Faulty) as error:
        read(tmp_path / "plan.yml", "table: {path: t.csv}\n")
    assert "\x1b" not in str(error.value) and "'?[2J' cannot be a group" in str(error.value)


def test_all_faults_of_a_table_are_told_at_once_and_not_without_end(tmp_path: pathlib.Path) -> None:
    (tmp_path / "t.csv").write_text("name,wave\n" + "".join(f"vm{i},a b\n" for i in range(30)), encoding="utf-8")
    with pytest.raises(Faulty) as error:
        read(tmp_path / "plan.yml", "table: {path: t.csv}\n")
    lines = str(error.value).splitlines()
    assert lines[0].startswith(f"{tmp_path}/t.csv:2: ") and lines[19].startswith(f"{tmp_path}/t.csv:21: ")
    assert lines[20:] == ["… and 10 more"]


def test_the_documented_examples_are_plans(tmp_path: pathlib.Path) -> None:
    workbook = openpyxl.Workbook()
    workbook.active.title = "vInfo"
    workbook.active.append(["VM", "Powerstate", "Template", "Cluster", "Migration wave"])
    workbook.active.append(["web01", "poweredOn", False, "A", 1])
    workbook.save(tmp_path / "RVTools_export_all.xlsx")
    read_hosts = []
    # ansible-lint reads examples as one document, so that the second one is a comment.
    by_hand, of_a_table = plugin.EXAMPLES.split("\n\n")
    for example in (by_hand, of_a_table.replace("\n# ", "\n")):
        (tmp_path / "plan.yml").write_text(example, encoding="utf-8")
        read_hosts.append(sorted(read_plan(tmp_path / "plan.yml").machines))
    assert read_hosts == [["db01", "mail", "web01"], ["web01"]]
