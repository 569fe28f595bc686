# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which of several operators acts: the one that holds a Lease."""

from __future__ import annotations

import asyncio
import collections.abc as c
import logging
import random
import time

from ..backends.kube.api import Absent, Api, Changed, Exists, held_by, lease_spec
from ..backends.kube.resources import LEASES, Object
from ..protocol.errors import JobError

log = logging.getLogger(__name__)

#: No worker's Lease can be called so: theirs begin with another text.
LEASE_NAME = "operator.hyper2kvm.io"
LEASE_SECONDS = 30
_RENEW_SECONDS = 5.0
_RETRY_SECONDS = 2.0
#: A leader that could not renew for so long stops, well before another may begin.
_GIVE_UP_SECONDS = 20.0


class LeadershipLost(Exception):
    """Another operator may act from now on; this process must end."""


class Leadership:
    """A hold on the Lease ``operator.hyper2kvm.io`` of a namespace, for as long as :meth:`keep` runs."""

    def __init__(self, api: Api, namespace: str, identity: str) -> None:
        """Stand for election as ``identity``, which no other process bears."""
        self.held = False
        self._api = api
        self._namespace = namespace
        self._identity = identity
        # What was last seen of the Lease, and when: no clock but our own is believed.
        self._seen = ""
        self._since = time.monotonic()

    async def gain(self) -> None:
        """Wait until the Lease is ours."""
        while True:
            try:
                if await self._try():
                    self.held = True
                    log.info("leading as %s", self._identity)
                    return
            except JobError as error:
                log.warning("election: %s", error)
            await asyncio.sleep(_RETRY_SECONDS * random.uniform(0.8, 1.2))

    async def keep(self) -> None:
        """Renew the Lease, for ever.

        Raises:
            LeadershipLost: it is somebody else's, or could not be renewed for 20 s.
        """
        renewed, pause = time.monotonic(), _RENEW_SECONDS
        while True:
            await asyncio.sleep(pause)
            begun = time.monotonic()
            try:
                await _within(self._write(_mine(self._identity)), renewed + _GIVE_UP_SECONDS - begun)
                renewed, pause = begun, _RENEW_SECONDS
            except (Changed, Absent) as error:
                raise LeadershipLost(f"the Lease {LEASE_NAME} is not ours any more: {error}") from error
            except (JobError, asyncio.TimeoutError) as error:
                log.warning("election: %s", error)
                pause = _RETRY_SECONDS
                if time.monotonic() - renewed >= _GIVE_UP_SECONDS:
                    raise LeadershipLost(f"the Lease {LEASE_NAME} could not be renewed in time") from error

    async def release(self) -> None:
        """Let another operator take over at once."""
        if self.held:
            self.held = False
            await self._write([held_by(self._identity), _replace("holderIdentity", "")])

    async def _try(self) -> bool:
        """Take the Lease if it is free or has not been renewed for as long as it lasts; return whether it is ours."""
        spec = lease_spec(self._identity, LEASE_SECONDS)
        try:
            found = await self._api.get(LEASES, LEASE_NAME, self._namespace)
        except Absent:
            document = {
                "apiVersion": LEASES.api_version,
                "kind": LEASES.kind,
                "metadata": {"name": LEASE_NAME},
                "spec": {**spec, "acquireTime": spec["renewTime"], "leaseTransitions": 0},
            }
            return await _succeeds(self._api.create(LEASES, document, self._namespace))
        version = found["metadata"]["resourceVersion"]
        if version != self._seen:
            self._seen, self._since = version, time.monotonic()
        held = found.get("spec", {})
        holder = held.get("holderIdentity") or ""
        lasts = float(held.get("leaseDurationSeconds") or LEASE_SECONDS)
        if holder not in ("", self._identity) and time.monotonic() - self._since < lasts:
            return False
        spec |= {"acquireTime": spec["renewTime"], "leaseTransitions": int(held.get("leaseTransitions") or 0) + 1}
        patch: Object = {"metadata": {"resourceVersion": version}, "spec": spec}
        return await _succeeds(self._api.patch(LEASES, LEASE_NAME, patch, self._namespace))

    async def _write(self, patch: list[Object]) -> None:
        await self._api.patch(LEASES, LEASE_NAME, patch, self._namespace)


async def _within(write: c.Coroutine[object, object, None], seconds: float) -> None:
    """Await ``write``, for so long at most. Raises: asyncio.TimeoutError.

    ``asyncio.wait_for`` would not do: before Python 3.12 it may swallow that its caller was cancelled.
    """
    task = asyncio.create_task(write)
    try:
        await asyncio.wait({task}, timeout=max(0.1, seconds))
        if not task.done():
            raise asyncio.TimeoutError("no answer in time")
        task.result()
    finally:
        task.cancel()


async def _succeeds(write: c.Awaitable[object]) -> bool:
    try:
        await write
    except (Changed, Exists):
        return False
    return True


def _mine(identity: str) -> list[Object]:
    """Return the JSON Patch that renews the Lease if it is still ours."""
    spec = lease_spec(identity, LEASE_SECONDS)
    return [held_by(identity), _replace("renewTime", spec["renewTime"])]


def _replace(field: str, value: str) -> Object:
    return {"op": "add", "path": f"/spec/{field}", "value": value}
