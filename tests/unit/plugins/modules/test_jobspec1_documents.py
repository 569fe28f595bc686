# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The module ``job_validate`` and documents of JobSpec 1.0."""

from __future__ import annotations

import typing as t

from ansible_collections.hyper2kvm.core.plugins.modules import job_validate

if t.TYPE_CHECKING:
    from .conftest import Run

DOCUMENT = {
    "version": "1.0",
    "job_id": "web01",
    "operation": "convert",
    "image": {"path": "web01.raw", "format": "raw"},
    "artifacts": {"output_path": "out"},
    "audit": {"requested_by": "somebody"},
}


def test_it_returns_the_job_that_asks_for_the_same(run: Run) -> None:
    job = run(job_validate, definition=DOCUMENT)["job"]
    assert (job["kind"], job["metadata"]["name"]) == ("MigrationJob", "web01")
    assert job["spec"]["target"]["path"] == "out/web01"
    # Which it takes for what it is.
    assert run(job_validate, definition=job)["job"] == job


def test_what_cannot_be_honoured_fails_with_the_reason(run: Run) -> None:
    refused = run(job_validate, definition={**DOCUMENT, "operation": "fs_repair"})
    assert refused["failed"] and refused["error"]["class"] == "unsupported"
    assert refused["msg"].startswith("The job document of JobSpec 1.0 asks for what cannot be honoured: operation: ")
