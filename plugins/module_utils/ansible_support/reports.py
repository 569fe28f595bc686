# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the module ``migration_report`` does: from documents to the files of a report."""

from __future__ import annotations

import pathlib
import typing as t

from ..protocol.errors import invalid
from ..telemetry.report.batch import Batch
from ..telemetry.report.documents import read_folder, read_jobs
from ..telemetry.report.evidence import Pictures
from ..telemetry.report.files import Format, write
from . import options

#: The option that names each format's file.
FILES = {"path": Format.HTML, "csv": Format.CSV, "junit": Format.JUNIT}


def migration_report(params: options.Options, *, check_mode: bool) -> dict[str, t.Any]:
    """Return the result of the module ``migration_report``.

    Raises:
        JobError: there is nothing to report, or a file cannot be written.
    """
    folder = params["results"]
    records, unreadable = read_folder(pathlib.Path(folder)) if folder else read_jobs(params["jobs"])
    if not records and not unreadable:
        where = f"Below {folder} lies no result document." if folder else "jobs is empty."
        raise invalid("NothingToReport", where, "Name a folder in which jobs left their results, or give jobs.")
    batch = Batch.of(params["title"], records, unreadable)
    pictures = Pictures(pathlib.Path(folder or params["output_root"]))
    wanted = {form: pathlib.Path(params[option]) for option, form in FILES.items() if params[option]}
    files = write(batch, pictures, wanted, dry_run=check_mode)
    return {
        "changed": any(file.changed for file in files),
        "files": [
            {
                "format": file.format.value,
                "path": str(file.path),
                "size": file.size,
                "changed": file.changed,
                "seconds": round(file.seconds, 3),
            }
            for file in files
        ],
        "outcomes": {outcome.value.label: count for outcome, count in batch.counts.items()},
        # What is in the files is made by a program, and is megabytes.
        "diff": [{"prepared": f"write {file.path}, {file.size} bytes\n"} for file in files if file.changed],
        "warnings": [f"{one.where} is not in the report: {one.why}" for one in unreadable],
    }
