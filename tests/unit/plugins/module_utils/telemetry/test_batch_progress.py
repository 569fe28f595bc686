# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How far a batch is said to be."""

from __future__ import annotations

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.telemetry.batch_progress import BatchProgress, JobProgress
from hypothesis import given
from hypothesis import strategies as st

from tests.tools.recorded_batch import PATH, estimates, read

NOW = 1_000_000.0
DONE = JobProgress("COMPLETED", NOW - 300, NOW - 200)


def test_a_line_says_how_many_how_fast_how_long_and_why_the_rest_waits() -> None:
    jobs = [
        DONE,
        DONE,
        JobProgress("PROGRESSING", NOW - 40, stage_left=20.0, rate=100 * 2.0**20),
        JobProgress("RUNNING", NOW - 10),
        *[JobProgress("QUEUED", reasons=("NoFreeSlot",))] * 3,
        JobProgress("QUEUED", reasons=("MissingCapability", "NoFreeSlot")),
        JobProgress("QUEUED", reasons=("Suspended",)),
        JobProgress("FAILED"),
    ]
    # 60 s and 90 s are left of those that run, and 100 s each of the four that will run, two side by side.
    assert str(BatchProgress.of(jobs, NOW)) == (
        "2 running, 5 waiting, 2 completed, 1 failed; 100.0 MiB/s; about 4 min 35 s left;"
        " waiting for NoFreeSlot (4), MissingCapability (1), …"
    )


@pytest.mark.parametrize(
    ("jobs", "left"),
    [
        ([], None),
        ([JobProgress("QUEUED")], None),  # nothing was done yet that would tell
        ([JobProgress("RUNNING", NOW)], None),
        ([JobProgress("RUNNING", NOW, stage_left=30.0)], 30.0),
        ([DONE, JobProgress("RUNNING", NOW - 500, stage_left=30.0)], 30.0),  # takes longer than the others did
        ([DONE, JobProgress("QUEUED")], 100.0),
        ([DONE, DONE], 0.0),
        ([DONE, JobProgress("RUNNING", NOW - 10), JobProgress("RUNNING", NOW), JobProgress("QUEUED")], None),
        # It will take as long as the one that took longer than it has by now.
        ([DONE, JobProgress("COMPLETED", NOW - 300, NOW - 100), JobProgress("RUNNING", NOW - 150)], 50.0),
        # The next one may be as long as the one that runs, which needs 300 s by its stage.
        ([DONE, JobProgress("RUNNING", NOW - 200, stage_left=100.0), JobProgress("QUEUED")], 300.0),
    ],
)
def test_nothing_is_made_up(jobs: list[JobProgress], left: float | None) -> None:
    assert BatchProgress.of(jobs, NOW).left == left


@given(st.lists(st.sampled_from([DONE, JobProgress("RUNNING", NOW - 30), JobProgress("QUEUED")]), min_size=1))
def test_what_is_left_and_what_is_done_stay_within_reason(jobs: list[JobProgress]) -> None:
    batch = BatchProgress.of([DONE] * len(jobs) + jobs, NOW)
    assert 0 <= batch.share <= 1 and batch.left is not None
    assert 0 <= batch.left <= 100 * len(jobs)
    assert (batch.left == 0) == all(job is DONE for job in jobs)


def test_a_status_document_says_it() -> None:
    status = {
        "phase": "QUEUED",
        "startedAt": "2026-11-24T02:07:31.204Z",
        "finishedAt": None,
        "progress": {"etaSeconds": 12.0, "ratePerSecond": 5.0},
        "waiting": [{"reason": "NoFreeSlot", "message": ""}],
    }
    found = JobProgress.of(status)
    assert found == JobProgress("QUEUED", 1795486051.204, None, 12.0, 5.0, ("NoFreeSlot",))
    assert JobProgress.of({}) == JobProgress("")


def test_what_a_real_batch_was_told_came_about() -> None:
    """Eight VMs, large and small in turn, recorded by ``python -m bench estimate``; docs/ansible.md has the error."""
    found = estimates(read(PATH))
    # As soon as two of the eight are done.
    assert found[0].passed < 0.35
    errors = sorted(abs(one.error) for one in found)
    assert errors[len(errors) // 2] < 0.05 and errors[-1] < 0.15
