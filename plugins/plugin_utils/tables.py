# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Tables that other programs export: CSV files, and sheets of Excel workbooks."""

from __future__ import annotations

import codecs
import collections.abc as c
import csv
import dataclasses
import datetime
import io
import pathlib
import typing as t

from .places import Faulty, Place, shown

#: What separates the cells of a line, most common first; which one it is, the header tells.
_DELIMITERS = ",;\t|"
_WORKBOOKS = (".xlsx", ".xlsm")
_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


@dataclasses.dataclass(frozen=True)
class Row:
    """A row by the names of its columns; cells without content are left out."""

    place: Place
    cells: dict[str, str]


@dataclasses.dataclass(frozen=True)
class Table:
    """A table with a header."""

    header: Row
    """Each column's name by itself."""
    rows: tuple[Row, ...]


def read_table(path: pathlib.Path, *, sheet: str = "", delimiter: str = "", encoding: str = "utf-8") -> Table:
    """Read a CSV file, or a sheet of a workbook where the file's name ends as one's. Empty rows are left out.

    :param sheet: name of the workbook's sheet; its first one by default.
    :param delimiter: of a CSV file; by default the one that its header has most of.
    :param encoding: of a CSV file that does not begin with a byte order mark.

    Raises:
        Faulty: it cannot be read; the text says where and what to do.
    """
    try:
        if path.suffix.lower() in _WORKBOOKS:
            return _table(path, _workbook_rows(path, sheet))
        return _table(path, _csv_rows(path, _text(path, encoding), delimiter))
    except OSError as error:
        raise Faulty(f"{path} cannot be read: {error.strerror or error}.") from None


def _table(path: pathlib.Path, rows: c.Iterator[tuple[int, list[str]]]) -> Table:
    header: list[str] = []
    place = Place(path, 1)
    found: list[Row] = []
    for line, cells in rows:
        here = Place(path, line)
        if not any(cells):
            continue
        if not header:
            header, place = cells, here
            twice = sorted({name for name in header if name and header.count(name) > 1})
            if twice:
                raise Faulty(f"{here}: two columns are named {shown(twice[0])}. Rename one of them.")
            continue
        if any(cells[len(header) :]):
            raise Faulty(
                f"{here}: this row has {len(cells)} cells, and the header names {len(header)} columns. "
                "Look for a delimiter or a quote too much, or give the right delimiter."
            )
        found.append(Row(here, {name: cell for name, cell in zip(header, cells, strict=False) if name and cell}))
    if not header:
        raise Faulty(f"{place}: there is no header, which would be the first row with content.")
    return Table(Row(place, {name: name for name in header if name}), tuple(found))


# -- CSV ---------------------------------------------------------------------------------------------------------------


def _text(path: pathlib.Path, encoding: str) -> str:
    content = path.read_bytes()
    used = next((name for mark, name in _MARKS.items() if content.startswith(mark)), encoding)
    try:
        return content.decode(used)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise Faulty(
            f"{Place(path, line)}: this is no {used}. Export it as UTF-8, or name its encoding, such as cp1252."
        ) from None
    except LookupError:
        raise Faulty(f"There is no encoding {shown(encoding)}, which {path} is said to have.") from None


def _csv_rows(path: pathlib.Path, text: str, delimiter: str) -> c.Iterator[tuple[int, list[str]]]:
    used = delimiter or _delimiter_of(text)
    if len(used) != 1 or used in '"\r\n':
        raise Faulty(f"{shown(used)} cannot separate the cells of {path}. Give one character that is no quote.")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=used, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise Faulty(f"{Place(path, line)}: this is no row of a CSV file: {error}.") from None
        yield line, [cell.strip() for cell in row]


def _delimiter_of(text: str) -> str:
    header = next((line for line in text.splitlines() if line.strip()), "")
    return max(_DELIMITERS, key=header.count)


# -- workbooks ---------------------------------------------------------------------------------------------------------


def _workbook_rows(path: pathlib.Path, sheet: str) -> c.Iterator[tuple[int, list[str]]]:
    try:
        import openpyxl
    except ImportError:
        raise Faulty(
            f"{path} is a workbook, and the Python that runs Ansible has no openpyxl. Run pip install openpyxl there, "
            "or save the sheet as CSV."
        ) from None
    try:
        workbook = openpyxl.load_workbook(path, read_only=True, data_only=True)
    except OSError:
        raise
    except Exception as error:  # of a file that is no workbook, openpyxl raises what its parsers raise
        raise Faulty(f"{path} is no Excel workbook that can be read: {error}. Save it anew, or as CSV.") from None
    try:
        if sheet and sheet not in workbook.sheetnames:
            raise Faulty(f"{path} has no sheet {shown(sheet)}; it has {', '.join(map(shown, workbook.sheetnames))}.")
        found = workbook[sheet] if sheet else workbook.worksheets[0]
        for line, row in enumerate(found.iter_rows(values_only=True), 1):
            yield line, [_plain(cell) for cell in row]
    finally:
        workbook.close()


def _plain(cell: t.Any) -> str:
    """Return a cell as a CSV export has it."""
    if cell is None:
        return ""
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    if isinstance(cell, (datetime.datetime, datetime.date)):
        return cell.isoformat()
    return str(cell).strip()
