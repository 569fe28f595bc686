# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the stages of a job share."""

from __future__ import annotations

import pathlib
import typing as t

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol import models
from ansible_collections.hyper2kvm.core.plugins.module_utils.worker import job_context, pipeline
from ansible_collections.hyper2kvm.core.plugins.module_utils.worker.context import Roots
from ansible_collections.hyper2kvm.core.plugins.module_utils.worker.engine import SilentReporter

Make = t.Callable[..., job_context.JobContext]


@pytest.fixture
def make(tmp_path: pathlib.Path) -> Make:
    """Returns a function: an operation and fields of the spec; an attempt at such a job on a bare disk."""
    (tmp_path / "input").mkdir()
    (tmp_path / "input/web01.raw").write_bytes(bytes(1 << 20))
    roots = Roots(tmp_path / "input", tmp_path / "output", tmp_path / "scratch")

    def context(operation: str = "rehearse", firmware: str = "bios", **spec: t.Any) -> job_context.JobContext:
        document = {"operation": operation, "source": {"path": "web01.raw"}, "target": {"path": "web01"}, **spec}
        job = models.MigrationJob(
            metadata=models.Metadata(name=f"web01-{operation}"), spec=models.JobSpec.model_validate(document)
        )
        made = job_context.JobContext(job, roots, SilentReporter(), tmp_path)
        made.result.guest = {"firmware": firmware}
        return made

    return context


def test_a_rehearsal_speaks_for_the_conversion_after_it(make: Make) -> None:
    assert make().rehearsal_key() == make("convert", priority=7).rehearsal_key()


@pytest.mark.parametrize(
    "other",
    [
        {"firmware": "uefi"},
        {"target": {"path": "web01", "name": "web02"}},  # from which the card's address comes
        {"guest": {"network": {"macs": ["52:54:00:00:00:01"]}}},
        {"guest": {"hostname": "web02"}},
        {"verify": {"marker": "ready"}},
    ],
)
def test_a_rehearsal_of_something_else_does_not(make: Make, other: dict[str, t.Any]) -> None:
    assert make().rehearsal_key() != make("convert", **other).rehearsal_key()


def test_a_rehearsal_by_another_version_does_not(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    before = make().rehearsal_key()
    monkeypatch.setattr(job_context, "collection_version", lambda: "0.9.0")
    assert make("convert").rehearsal_key() != before


def test_what_another_host_made_whole_is_not_done_again(make: Make, tmp_path: pathlib.Path) -> None:
    """A worker that is cut off may finish a job within its lease, and tell nobody."""
    document = make("inspect").job.to_document()
    document["metadata"]["uid"] = "11111111-1111-1111-1111-111111111111"
    job = models.MigrationJob.model_validate(document)
    roots = Roots(tmp_path / "input", tmp_path / "output", tmp_path / "scratch")
    did: list[str] = []
    stages = (pipeline.Stage("inspect", lambda context: did.append(context.workdir.name) or "looked"), pipeline.PUBLISH)

    def attempt(host: str) -> models.JobResult:
        (tmp_path / host).mkdir()
        return pipeline.run_stages(stages, job, roots, SilentReporter(), tmp_path / host)

    first, second = attempt("one"), attempt("two")
    assert did == ["one"]
    assert [(one.path, one.kind) for one in second.artifacts] == [("web01/inspect.json", "result")]
    assert second.uid == first.uid and second.completed_at == first.completed_at
    # Of another job of that name it says nothing.
    document["metadata"]["uid"] = "22222222-2222-2222-2222-222222222222"
    job = models.MigrationJob.model_validate(document)
    attempt("three")
    assert did == ["one", "three"]
