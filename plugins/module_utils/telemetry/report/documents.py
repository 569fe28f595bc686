# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From documents to records: job documents as a backend returns them, and result documents in a folder.

A report about 500 jobs must not fail because of one bad document; so what cannot be read is told in the report.
"""

from __future__ import annotations

import collections.abc as c
import json
import os
import pathlib
import typing as t

from ...protocol import models
from ...protocol._pydantic import ValidationError
from ...protocol.errors import invalid
from ...protocol.lifecycle import Phase
from .batch import Record, Unreadable

#: The names of result documents: ``result.json`` where an operation leaves a target, else ``<operation>.json``.
RESULT_NAMES = frozenset({"result.json", *(f"{operation.value}.json" for operation in models.Operation)})
#: A result holds a guest's diffs, which are bounded; what is longer is no result. Bytes.
_MAX_DOCUMENT = 16 << 20

Documents = tuple[list[Record], list[Unreadable]]


def read_jobs(documents: c.Iterable[t.Any]) -> Documents:
    """Return the jobs that ``documents`` tell of, each a job document with its status."""
    records, unreadable = [], []
    for number, document in enumerate(documents, 1):
        try:
            records.append(_job(document))
        except (ValidationError, _NoDocumentError) as error:
            unreadable.append(Unreadable(f"job {number} ({_name(document)})", _short(error)))
    return records, unreadable


def read_folder(folder: pathlib.Path) -> Documents:
    """Return the jobs whose result documents lie in ``folder`` or below; hidden folders are left out.

    Raises:
        JobError: class ``invalid``; ``folder`` is none.
    """
    if not folder.is_dir():
        raise invalid("NoSuchFolder", f"{folder} is no folder.", "Name one that holds result documents.")
    records, unreadable = [], []
    for path in _result_files(folder):
        try:
            records.append(_result(path))
        except (ValidationError, _NoDocumentError, OSError, ValueError) as error:
            unreadable.append(Unreadable(str(path.relative_to(folder)), _short(error)))
    return records, unreadable


class _NoDocumentError(Exception):
    """The data is no document of the kind that is wanted."""


def _result_files(folder: pathlib.Path) -> t.Iterator[pathlib.Path]:
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (pathlib.Path(place, name) for name in sorted(RESULT_NAMES.intersection(files)))


def _job(document: t.Any) -> Record:
    if not isinstance(document, c.Mapping):
        raise _NoDocumentError("it is no job document")
    metadata, spec = _part(document, "metadata"), _part(document, "spec")
    source = _part(spec, "source")
    # A spec of a newer version may hold what this one does not know; only these two are needed.
    operation = str(spec.get("operation") or "convert")
    status = models.JobStatus.model_validate(_part(document, "status"))
    found = status.result or {}
    name, uid = str(metadata.get("name") or found.get("job") or ""), str(metadata.get("uid") or "")
    if not name:
        raise _NoDocumentError("it has no name")
    result = models.JobResult.model_validate({**_nothing(name, uid, operation), **found})
    told = str(source.get("path") or ", ".join(_disk_paths(source)))
    return Record(name, uid, operation, told or _sources(result), status, result)


def _result(path: pathlib.Path) -> Record:
    with path.open("rb") as file:
        text = file.read(_MAX_DOCUMENT + 1)
    if len(text) > _MAX_DOCUMENT:
        raise _NoDocumentError(f"it is longer than {_MAX_DOCUMENT >> 20} MiB")
    document = json.loads(text)
    if not isinstance(document, dict) or document.get("kind") != "MigrationResult":
        raise _NoDocumentError("it is no result document (kind: MigrationResult)")
    result = models.JobResult.model_validate(document)
    # It is written when the job's work is whole.
    status = models.JobStatus(phase=Phase.COMPLETED)
    return Record(result.job, result.uid, result.operation.value, _sources(result), status, result)


def _nothing(name: str, uid: str, operation: str) -> dict[str, t.Any]:
    """Return the fields that a result document must have, for a job that failed before it found anything."""
    return {
        "job": name,
        "uid": uid,
        "operation": operation,
        "verdict": "not-verified",
        "sourceIdentity": "",
        "specDigest": f"sha256:{0:064x}",
        "completedAt": "",
        "seconds": 0,
    }


def _part(document: c.Mapping[str, t.Any], key: str) -> c.Mapping[str, t.Any]:
    part = document.get(key) or {}
    if not isinstance(part, c.Mapping):
        raise _NoDocumentError(f"{key} is no mapping")
    return part


def _disk_paths(source: c.Mapping[str, t.Any]) -> list[str]:
    disks = source.get("disks") or []
    return [str(disk.get("path")) for disk in disks if isinstance(disk, c.Mapping)]


def _sources(result: models.JobResult) -> str:
    return ", ".join(dict.fromkeys(disk.source for disk in result.disks))


def _name(document: t.Any) -> str:
    metadata = document.get("metadata") if isinstance(document, c.Mapping) else None
    return str(metadata.get("name")) if isinstance(metadata, c.Mapping) else "without a name"


def _short(error: Exception) -> str:
    """Return what is wrong in a line."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(error)
