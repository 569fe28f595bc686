# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Any order of what users, workers and the control plane may do: only legal steps, one holder, gapless events."""

from __future__ import annotations

import contextlib
import json
import pathlib
import shutil
import tempfile
import time

from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.base import Conflict, Fenced, Hold
from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.local import LocalBackend
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol import lifecycle, models, status
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.errors import environment, transient
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.lifecycle import Phase
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.unit.plugins.module_utils.backends.samples import job, result, stage, worker

NAMES = st.sampled_from(["a", "b"])
WORKERS = st.sampled_from(["w1", "w2"])
#: In memory: durability is not what is tested here.
FAST = pathlib.Path("/dev/shm")
SELDOM = st.sampled_from([False, False, False, False, True])
LEGAL = {(step.source, step.target) for step in lifecycle.TRANSITIONS}


class QueueMachine(RuleBasedStateMachine):
    """A queue, two workers, and every hold that was ever given, valid or not."""

    @initialize()
    def begin(self) -> None:
        self.backoff, status.BACKOFF_SECONDS = status.BACKOFF_SECONDS, 0.0
        self.folder = pathlib.Path(tempfile.mkdtemp(dir=FAST if FAST.is_dir() else None))
        self.queue = LocalBackend(self.folder)
        self.holds: list[Hold] = []
        for name in ("w1", "w2"):
            self.queue.register(worker(name), "", 3600.0)

    def teardown(self) -> None:
        if hasattr(self, "queue"):
            status.BACKOFF_SECONDS = self.backoff
            self.queue.close()
            shutil.rmtree(self.folder)

    def _valid(self, hold: Hold) -> bool:
        held = {(one.metadata.uid, one.status.epoch) for one in self.queue.list() if one.status.claim is not None}
        return (hold.uid, hold.epoch) in held

    @rule(name=NAMES, path=st.sampled_from(["x.ova", "x.ova", "y.ova"]), suspend=SELDOM, cancel=SELDOM)
    def submit(self, name: str, path: str, suspend: bool, cancel: bool) -> None:
        with contextlib.suppress(Conflict):
            self.queue.submit(
                job(name, source=models.SourceSpec(path=path), suspend=suspend, cancel=cancel, backoff_limit=1)
            )

    @rule(name=NAMES, act=st.sampled_from(["cancel", "suspend", "resume", "resume", "priority", "delete"]))
    def steer(self, name: str, act: str) -> None:
        if name not in {one.metadata.name for one in self.queue.list()}:
            return
        if act == "cancel":
            self.queue.cancel(name)
        elif act == "priority":
            self.queue.set_priority(name, 1)
        elif act == "delete":
            with contextlib.suppress(Conflict):
                self.queue.delete(name)
        else:
            self.queue.suspend(name, act == "suspend")

    @rule(name=WORKERS)
    def claim(self, name: str) -> None:
        taken = self.queue.claim(name)
        if taken is not None:
            assert not taken.spec.suspend
            self.holds.append(Hold(taken.metadata.uid or "", taken.status.epoch))

    @rule(
        data=st.data(),
        act=st.sampled_from(
            ["start", "progress", "end", "complete", "retry", "fail", "cancelled", "release", "release", "lose"]
        ),
    )
    def work(self, data: st.DataObject, act: str) -> None:
        if not self.holds:
            return
        hold = data.draw(st.sampled_from(self.holds))
        valid = self._valid(hold)
        running = self.queue.phase(hold.uid) is not Phase.ASSIGNED
        try:
            if act == "start":
                self.queue.stage_started(hold, "inspect")
            elif act == "progress" and running:
                self.queue.progress(hold, models.Progress(stage="inspect"))
            elif act == "end":
                self.queue.stage_ended(hold, stage("inspect"))
            elif act == "complete":
                self.queue.complete(hold, result(job()))
            elif act == "retry":
                self.queue.fail(hold, transient("Hiccup", "the disk hiccupped"))
            elif act == "fail":
                self.queue.fail(hold, environment("NoSpace", "the disk is full"))
            elif act == "cancelled":
                self.queue.cancelled(hold)
            elif act == "release":
                self.queue.release(hold, "handed back")
            elif act == "lose":
                self._lose(hold)
                return
            else:
                return
        except Fenced:
            assert not valid, "a hold that was valid was refused"
        else:
            assert valid, "a late write went through"

    def _lose(self, hold: Hold) -> None:
        """Let the leases of both workers end, take one job over, and renew the rest."""
        held = {one.metadata.uid: one.status.epoch for one in self.queue.list() if one.status.claim is not None}
        for name in ("w1", "w2"):
            self.queue.register(worker(name), "", 0.001)
            self._beat(name, {uid or "": epoch for uid, epoch in held.items()})
        time.sleep(0.002)
        for lost in self.queue.lost():
            if lost.hold == hold:
                self.queue.reclaim(lost, dead=True)
        for name in ("w1", "w2"):
            self.queue.register(worker(name), "", 3600.0)
            self._beat(name, {uid or "": epoch for uid, epoch in held.items()})

    def _beat(self, name: str, running: dict[str, int]) -> None:
        self.queue.heartbeat(
            models.Heartbeat(
                worker=name,
                time="2026-01-01T00:00:00Z",
                running=running,
                free_scratch_bytes=0,
                free_output_bytes=0,
            )
        )

    @invariant()
    def every_step_was_legal_and_told(self) -> None:
        if not hasattr(self, "queue"):
            return
        for one in self.queue.list():
            name = one.metadata.name
            events = self.queue.events(name)
            assert [event.sequence for event in events] == list(range(1, len(events) + 1))
            lines = (self.folder / "events" / f"{name}.jsonl").read_text().splitlines()
            assert [json.loads(line) for line in lines][-len(events) :] == [event.to_document() for event in events]
            steps = [event.data for event in events if event.type.endswith(".phase")]
            assert all((Phase(step["from"]), Phase(step["to"])) in LEGAL for step in steps if "from" in step)
            assert steps[-1]["to"] == one.status.phase.value
            assert (one.status.claim is not None) == (one.status.phase in lifecycle.HELD)
            assert not (one.spec.cancel and one.status.phase is Phase.QUEUED)


QueueMachine.TestCase.settings = settings(
    max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
TestQueueMachine = QueueMachine.TestCase
