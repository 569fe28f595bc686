# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""CSV files, whoever wrote them."""

from __future__ import annotations

import csv
import pathlib
import tempfile

import pytest
from ansible_collections.hyper2kvm.core.plugins.plugin_utils.places import Faulty
from ansible_collections.hyper2kvm.core.plugins.plugin_utils.tables import read_table
from hypothesis import given, settings
from hypothesis import strategies as st

#: Without what ends a line to the csv module's writer and not to its reader, and without blanks at the ends.
CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0"), max_size=12).map(str.strip)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.lists(CELLS, min_size=3, max_size=3), max_size=8),
    st.sampled_from(",;\t|"),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    st.sampled_from(["\n", "\r\n"]),
)
def test_what_a_spreadsheet_wrote_is_read_as_it_was(
    rows: list[list[str]], delimiter: str, encoding: str, end: str
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "t.csv")
        with path.open("w", encoding=encoding, newline="") as file:
            writer = csv.writer(file, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL)
            writer.writerows([["name", "wave", "note"], *rows])
        table = read_table(path)
        line_of = {row.place.line: row.cells for row in table.rows}
    line = 2
    for row in rows:
        if any(row):
            cells = dict(zip(("name", "wave", "note"), row, strict=True))
            assert line_of.pop(line) == {name: cell for name, cell in cells.items() if cell}
        line += 1 + sum(cell.count("\n") for cell in row)
    assert not line_of


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=200) | st.text(',;"\n\r\t ab', max_size=60).map(str.encode))
def test_any_bytes_are_a_table_or_a_fault_with_its_line(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "t.csv")
        path.write_bytes(content)
        try:
            table = read_table(path)
        except Faulty as error:
            assert f"{path}:" in str(error)
            return
    assert table.header.cells
    assert all(set(row.cells) <= set(table.header.cells) and row.place.line > 1 for row in table.rows)


def test_an_encoding_is_named_where_it_is_not_utf_8(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes("name;note\nweb01;a\nmüller;b\n".encode("cp1252"))
    with pytest.raises(Faulty, match=r"t.csv:3: this is no utf-8. Export it as UTF-8, or name its encoding"):
        read_table(path)
    assert [row.cells["name"] for row in read_table(path, encoding="cp1252").rows] == ["web01", "müller"]
    with pytest.raises(Faulty, match="There is no encoding 'cp1252x'"):
        read_table(path, encoding="cp1252x")


def test_a_delimiter_is_one_character(tmp_path: pathlib.Path) -> None:
    (tmp_path / "t.csv").write_text("name:note\nweb01:a,b,c\n", encoding="utf-8")
    assert read_table(tmp_path / "t.csv", delimiter=":").rows[0].cells == {"name": "web01", "note": "a,b,c"}
    for wrong in ("::", '"', "\n"):
        with pytest.raises(Faulty, match="cannot separate the cells"):
            read_table(tmp_path / "t.csv", delimiter=wrong)


def test_a_cell_without_end_is_a_fault(tmp_path: pathlib.Path) -> None:
    (tmp_path / "t.csv").write_text('name,note\na,"' + "x" * 200_000 + '"\n', encoding="utf-8")
    with pytest.raises(Faulty, match=r"t.csv:2: this is no row of a CSV file: field larger"):
        read_table(tmp_path / "t.csv")
