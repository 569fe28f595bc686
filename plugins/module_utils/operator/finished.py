# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Removes the records of jobs whose time to live has ended."""

from __future__ import annotations

import asyncio
import collections.abc as c
import datetime
import heapq
import logging

from ..backends.kube.api import Absent, Api, Changed, Expired
from ..backends.kube.resources import JOBS
from ..protocol.errors import JobError
from ..protocol.lifecycle import TERMINAL
from ..telemetry.logs import JobLog
from .view import Finished, read_finished

log = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0
_RETRY_SECONDS = 10.0


class Remover:
    """A heap of what is to be removed, by the time when it is due; of a job that is kept it holds nothing."""

    def __init__(self, api: Api, now: c.Callable[[], datetime.datetime]) -> None:
        """Remove through ``api`` by the clock ``now``."""
        self._api = api
        self._now = now
        self._due: list[tuple[datetime.datetime, str, str, str]] = []

    def __len__(self) -> int:
        """Return how many jobs wait to be removed."""
        return len(self._due)

    def add(self, job: Finished) -> None:
        """Remember a job that is over; one that has no time to live is forgotten."""
        if job.remove_after is not None:
            heapq.heappush(self._due, (job.remove_after, job.namespace, job.name, job.uid))

    async def run(self) -> None:
        """Remove what is due, for ever."""
        while True:
            while self._due and self._due[0][0] <= self._now():
                due, namespace, name, uid = heapq.heappop(self._due)
                said = JobLog(log, f"{namespace}/{name}")
                try:
                    await self._api.delete(JOBS, name, namespace, uid=uid)
                    said.info("its record was removed, as its ttlSecondsAfterFinished asks")
                except (Absent, Changed):
                    continue
                except JobError as error:
                    said.warning("%s", error)
                    again = self._now() + datetime.timedelta(seconds=_RETRY_SECONDS)
                    heapq.heappush(self._due, (max(due, again), namespace, name, uid))
            await asyncio.sleep(_LOOK_SECONDS)


async def finished_jobs(api: Api) -> c.AsyncIterator[Finished]:
    """Yield all jobs that are over, page by page, so that no more than a page is ever in memory.

    Raises:
        JobError: the API server cannot be reached, or refuses.
    """
    for phase in sorted(TERMINAL):
        again = True
        while again:
            again = False
            try:
                async for page in api.pages(JOBS, fields=f"status.phase={phase.value}"):
                    for found in page.objects:
                        job = read_finished(found)
                        if job is not None:
                            yield job
            except Expired:
                # The pages' snapshot is gone; what comes twice does no harm.
                again = True
