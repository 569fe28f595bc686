# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From a plan of a batch and an exported table of VMs to an inventory's hosts, groups and variables."""

from __future__ import annotations

import collections.abc as c
import dataclasses
import difflib
import fnmatch
import functools
import pathlib
import re
import typing as t

import yaml

from ..module_utils.ansible_support.documents import printable
from .names import slug
from .places import Document, Faults, Place, read_document, shown
from .tables import Row, Table, read_table

_ROLES = pathlib.Path(__file__).absolute().parents[2] / "roles"
_PREFIX = "hyper2kvm_"
#: Which shape a play itself, and are looked for on the command line alone.
_OF_PLAYS = ("hyper2kvm_targets", "hyper2kvm_waves", "hyper2kvm_serial")
SOURCE_NAME = "hyper2kvm_source_name"
USED_BYTES = "hyper2kvm_source_used_bytes"
#: Variables that no role takes: they are told for templates and for the playbook plan.
_TOLD = (SOURCE_NAME, USED_BYTES)
#: Columns by their usual names; RVTools' among them. The first that the table has counts.
_USUAL = {"name": ("name", "VM"), "wave": ("wave", "Wave"), "groups": ("groups", "Groups")}
#: How much of a VM's disks is used, as RVTools says it in its sheet vInfo, and the unit in bytes.
_USED = {"In Use MiB": 1024**2, "In Use MB": 1024**2}
_DIGITS = 16
_WHOLE = re.compile(r"(\d+|\d{1,3}([.,' \u00a0\u202f\u2019]\d{3})+)\Z", re.ASCII)
_VARIABLE = re.compile(r"[A-Za-z_]\w*\Z", re.ASCII)
#: Without what patterns of hosts give a meaning to.
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,252}\Z", re.ASCII)
#: What the plan may have; of these Ansible's own constructed variables and groups are not looked into here.
_KEYS = (
    "plugin",
    "table",
    "vars",
    "waves",
    "hosts",
    "compose",
    "groups",
    "keyed_groups",
    "leading_separator",
    "strict",
)
_TABLE_KEYS = ("path", "sheet", "delimiter", "encoding", "columns", "where")
_WAVE_KEYS = ("name", "hosts", "vars")
#: Groups that have a meaning of their own.
_TAKEN_GROUPS = ("all", "ungrouped", "conversion_hosts")


@dataclasses.dataclass
class Machine:
    """A VM of the batch, which is a host of the inventory."""

    host: str
    place: Place
    wave: str = ""
    groups: list[str] = dataclasses.field(default_factory=list)
    cells: dict[str, str] = dataclasses.field(default_factory=dict)
    """Variables whose values another program wrote: text that is never a template."""
    variables: dict[str, t.Any] = dataclasses.field(default_factory=dict)
    """Variables whose values the plan's author wrote, which may be templates."""


@dataclasses.dataclass
class Batch:
    """What the plan says."""

    machines: dict[str, Machine]
    """By host, in the order of the files."""
    groups: dict[str, dict[str, t.Any]]
    """The variables of each group: waves, in order, before others."""
    variables: dict[str, t.Any]
    """Of all VMs."""


def read_plan(path: pathlib.Path) -> Batch:
    """Read a plan file, and the table that it names.

    Raises:
        Faulty: one of them has faults.
    """
    return _Reader(read_document(path)).batch()


@functools.cache
def role_variables() -> dict[str, tuple[str, ...]]:
    """Return the choices of each variable that a role of the collection takes; none where all is allowed."""
    found: dict[str, tuple[str, ...]] = {}
    for specs in sorted(_ROLES.glob("*/meta/argument_specs.yml")):
        document = yaml.safe_load(specs.read_text(encoding="utf-8"))
        for spec in document["argument_specs"].values():
            for name, option in spec["options"].items():
                found[name] = tuple(str(choice) for choice in option.get("choices", []))
    return found


class _Reader:
    """Reads one plan. What is wrong is collected; what hangs on it is left out."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._faults = Faults()
        self._machines: dict[str, Machine] = {}
        self._groups: dict[str, dict[str, t.Any]] = {}

    def batch(self) -> Batch:
        plan = self._mapping((), "The plan", _KEYS)
        self._faults.check()
        waves = self._waves()
        variables = self._variables(("vars",))
        if "table" in plan:
            self._read_table()
        for host in self._mapping(("hosts",), "hosts"):
            self._read_host(host)
        for name, (index, patterns) in waves.items():
            self._fill_wave(name, ("waves", index, "hosts"), patterns)
        for machine in self._machines.values():
            self._check_groups(machine, waves)
        self._faults.check()
        return Batch(self._machines, self._groups, variables)

    # -- parts of the plan ---------------------------------------------------------------------------------------------

    def _value(self, key: tuple[str | int, ...]) -> t.Any:
        value = self._document.data
        for part in key:
            value = value[part] if isinstance(part, int) else (value or {}).get(part)
        return value

    def _fault(self, key: tuple[str | int, ...], text: str) -> None:
        self._faults.add(self._document.at(*key), text)

    def _mapping(self, key: tuple[str | int, ...], what: str, allowed: c.Sequence[str] = ()) -> dict[str, t.Any]:
        """Return a dictionary of the plan; empty where there is none, or another thing, which is a fault."""
        value = self._value(key)
        if value is None and key:
            return {}
        if not isinstance(value, dict):
            self._fault(key, f"{what} is no dictionary.")
            return {}
        for name in value:
            if allowed and name not in allowed:
                self._fault((*key, name), f"{what} has no key {shown(name)}.{_meant(name, allowed)}")
        return value

    def _text(self, key: tuple[str | int, ...]) -> str:
        value = self._value(key)
        if value is None or isinstance(value, str):
            return value or ""
        self._fault(key, f"{key[-1]} is {shown(value)} and no text. Put it in quotes.")
        return ""

    def _texts(self, key: tuple[str | int, ...]) -> list[str]:
        value = self._value(key)
        found = value if isinstance(value, list) else re.split(r"[,\s]+", value.strip()) if value else []
        if isinstance(value, (str, list, type(None))) and all(isinstance(one, str) for one in found):
            return [one for one in found if one]
        self._fault(key, f"{key[-1]} is no list of names.")
        return []

    def _variables(self, key: tuple[str | int, ...], besides: c.Collection[str] = ()) -> dict[str, t.Any]:
        found = self._mapping(key, str(key[-1]))
        kept = {name: value for name, value in found.items() if name not in besides}
        for name, value in kept.items():
            self._check_variable(self._document.at(*key, name), name, value)
        return kept

    def _check_variable(self, place: Place, name: str, value: t.Any) -> None:
        known = role_variables()
        if not _VARIABLE.match(name):
            self._faults.add(place, f"{shown(name)} cannot be a variable, which is letters, digits and underscores.")
        elif name in _OF_PLAYS:
            self._faults.add(place, f"{name} shapes the play itself. Give it on the command line, with -e.")
        elif name.startswith(_PREFIX) and name not in known and name not in _TOLD:
            self._faults.add(place, f"There is no variable {shown(name)}.{_meant(name, [*known, *_TOLD])}")
        elif isinstance(value, str) and "{{" not in value and known.get(name) and value not in known[name]:
            choices = ", ".join(choice for choice in known[name] if choice)
            self._faults.add(place, f"{name} is {shown(value)}. It can be {choices}.")

    def _waves(self) -> dict[str, tuple[int, list[str]]]:
        """Note the waves; the index of each, and the patterns of its hosts."""
        value = self._value(("waves",)) or []
        if not isinstance(value, list):
            self._fault(
                ("waves",), "waves is no list, whose entries are names, or dictionaries with name, hosts and vars."
            )
            return {}
        found = {}
        for index, entry in enumerate(value):
            key = ("waves", index)
            # A name alone is enough where the table or the hosts say who is in it.
            name = entry if isinstance(entry, str) else ""
            patterns: list[str] = []
            variables: dict[str, t.Any] = {}
            if not name:
                if not self._mapping(key, "An entry of waves", _WAVE_KEYS):
                    continue
                name = self._text((*key, "name"))
                patterns = self._texts((*key, "hosts"))
                variables = self._variables((*key, "vars"))
            if not self._is_group(self._document.at(*key), name):
                continue
            if name in self._groups:
                self._fault(key, f"The wave {name} comes twice.")
            self._groups[name] = variables
            found[name] = (index, patterns)
        return found

    def _is_group(self, place: Place, name: str) -> bool:
        if not _VARIABLE.match(name):
            why = "cannot be a group, which is letters, digits and underscores, a letter first"
        elif name in _TAKEN_GROUPS:
            why = "is a group with a meaning of its own. Give it another name"
        else:
            return True
        self._faults.add(place, f"{shown(name)} {why}.")
        return False

    def _read_host(self, host: str) -> None:
        key = ("hosts", host)
        place = self._document.at(*key)
        if not _HOST.match(host):
            self._faults.add(
                place, f"{shown(host)} cannot be a host's name, which is letters, digits and -_. with no blank."
            )
            return
        machine = self._machines.setdefault(host, Machine(host, place))
        machine.variables |= self._variables(key, besides=("wave", "groups"))
        entry = self._value(key)
        if isinstance(entry, dict):
            machine.wave = self._text((*key, "wave")) or machine.wave
            machine.groups += self._texts((*key, "groups"))

    def _fill_wave(self, name: str, key: tuple[str | int, ...], patterns: list[str]) -> None:
        for pattern in patterns:
            hosts = fnmatch.filter(self._machines, pattern)
            if not hosts:
                self._fault(key, f"{shown(pattern)} is no VM of this batch, and matches none.")
            for host in hosts:
                machine = self._machines[host]
                if machine.wave not in ("", name):
                    self._fault(key, f"{host} is in the waves {machine.wave} and {name}. Take it out of one.")
                machine.wave = name

    def _check_groups(self, machine: Machine, waves: c.Container[str]) -> None:
        for name in filter(None, (machine.wave, *machine.groups)):
            if name in self._groups:
                continue
            if waves and name == machine.wave:
                names = [group for group in self._groups if group in waves]
                self._faults.add(machine.place, f"There is no wave {shown(name)} in the plan.{_meant(name, names)}")
            elif self._is_group(machine.place, name):
                self._groups[name] = {}

    # -- the table -----------------------------------------------------------------------------------------------------

    def _read_table(self) -> None:
        given = self._mapping(("table",), "table", _TABLE_KEYS)
        name = self._text(("table", "path"))
        if not name:
            self._fault(("table",), "table has no path, which is that of a CSV file or an Excel workbook.")
        settings = {key: self._text(("table", key)) for key in ("sheet", "delimiter", "encoding") if key in given}
        columns = self._mapping(("table", "columns"), "columns")
        where = self._mapping(("table", "where"), "where")
        self._faults.check()
        table = read_table(self._document.path.parent / name, **settings)
        self._check_columns(table, columns, where)
        self._faults.check()
        used = {**_usual(table), **columns}
        if "name" not in used:
            self._faults.add(table.header.place, f"No column is named name or VM.{_columns(table)}")
            return
        rows = [row for row in table.rows if self._is_kept(row, where)]
        if not rows:
            self._faults.add(table.header.place, "The table has no VM, or where leaves none of them.")
        for row in rows:
            self._read_row(row, used)

    def _check_columns(self, table: Table, columns: dict[str, t.Any], where: dict[str, t.Any]) -> None:
        for section, names in (("columns", columns.items()), ("where", ((column, column) for column in where))):
            for key, column in names:
                if column not in table.header.cells:
                    self._fault(
                        ("table", section, key), f"The table has no column {shown(column)}.{_columns(table, column)}"
                    )
        for variable in columns:
            if variable not in _USUAL:
                self._check_variable(self._document.at("table", "columns", variable), variable, None)
        for column in table.header.cells:
            if column.startswith(_PREFIX):
                self._check_variable(table.header.place, column, None)

    @staticmethod
    def _is_kept(row: Row, where: dict[str, t.Any]) -> bool:
        for column, wanted in where.items():
            values = wanted if isinstance(wanted, list) else [wanted]
            if row.cells.get(column, "").lower() not in [str("" if one is None else one).lower() for one in values]:
                return False
        return True

    def _read_row(self, row: Row, columns: c.Mapping[str, str]) -> None:
        cells = {key: row.cells[column] for key, column in columns.items() if column in row.cells}
        name = cells.pop("name", "")
        if not name:
            self._faults.add(row.place, f"The column {shown(columns['name'])} is empty, and a VM has a name.")
            return
        host = name if _HOST.match(name) else slug(name)
        if not host:
            self._faults.add(row.place, f"{shown(name)} has neither a letter nor a digit. Rename the VM.")
            return
        if host in self._machines:
            before = self._machines[host].place
            self._faults.add(
                row.place, f"{shown(name)} would be the host {host}, as line {before.line} is. Rename one."
            )
            return
        wave = cells.pop("wave", "")
        groups = re.split(r"[,;\s]+", cells.pop("groups", ""))
        for variable, cell in cells.items():
            self._check_variable(row.place, variable, cell)
        used = self._used(row)
        self._machines[host] = Machine(
            host=host,
            place=row.place,
            # Spreadsheets number their waves.
            wave=f"wave{wave}" if wave.isascii() and wave.isdigit() else wave,
            groups=[group for group in groups if group],
            cells={SOURCE_NAME: printable(name), **cells},
            variables={} if used is None else {USED_BYTES: used},
        )

    def _used(self, row: Row) -> int | None:
        for column, unit in _USED.items():
            text = row.cells.get(column, "")
            # RVTools writes thousands with the separator of whoever ran it.
            if len(text) <= _DIGITS and _WHOLE.match(text):
                return int(re.sub("[^0-9]", "", text)) * unit
            if text:
                self._faults.add(row.place, f"{column} is {shown(text)} and no whole number.")
        return None


def _usual(table: Table) -> dict[str, str]:
    """Return which columns a table has that need no naming."""
    found = {key: next((name for name in names if name in table.header.cells), "") for key, names in _USUAL.items()}
    own = {column: column for column in table.header.cells if column.startswith(_PREFIX)}
    return {**{key: column for key, column in found.items() if column}, **own}


def _columns(table: Table, column: object = "") -> str:
    return _meant(column, list(table.header.cells)) or f" It has {', '.join(map(shown, table.header.cells))}."


def _meant(name: object, names: c.Sequence[str]) -> str:
    close = difflib.get_close_matches(str(name), names, n=1)
    return f" Is {close[0]} meant?" if close else ""
