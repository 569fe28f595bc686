# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the stages of a job share."""

from __future__ import annotations

import pathlib
import typing as t

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol import models
from ansible_collections.hyper2kvm.core.plugins.module_utils.worker import job_context
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
