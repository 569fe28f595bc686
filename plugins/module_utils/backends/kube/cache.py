# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the API server holds of one kind of objects, kept up to date by a watch."""

from __future__ import annotations

import asyncio
import collections.abc as c
import dataclasses
import logging
import random
import time
import typing as t

from ...protocol.errors import JobError
from .api import Api, Expired
from .resources import Object, Resource

log = logging.getLogger(__name__)

V = t.TypeVar("V")

#: After this time everything is listed anew, in case that a change was missed; each cache a little earlier or later.
RESYNC_SECONDS = 1800.0
#: Waits after failures: the first, and the longest. They double.
_FIRST_WAIT_SECONDS = 0.2
_LONGEST_WAIT_SECONDS = 5.0


@dataclasses.dataclass(frozen=True)
class Change(t.Generic[V]):
    """An object that came, changed or went."""

    key: str
    before: V | None
    """What the cache held; None: nothing."""
    after: V | None
    """What it holds now; None: nothing."""
    found: Object | None
    """The object itself; None: it is gone, or was gone (or not wanted any more) when everything was listed anew."""


class Cache(t.Generic[V]):
    """All objects of one kind that ``read`` wants to keep, as ``read`` keeps them, by ``<namespace>/<name>``.

    The list may be narrower than the watch (``list_fields``): of objects that no longer match, the watch still tells
    the last word, and objects that never matched cost nothing.
    """

    def __init__(
        self,
        api: Api,
        resource: Resource,
        read: c.Callable[[Object], V | None],
        changed: c.Callable[[Change[V]], None],
        *,
        namespace: str | None = None,
        labels: str = "",
        fields: str = "",
        list_fields: str = "",
    ) -> None:
        """Keep what is in ``namespace`` (None: everywhere) and matches the selectors.

        Args:
            read: what to keep of an object; None: do not keep it. Must not raise.
            changed: is called after each change, in the event loop. Must not raise.
            list_fields: a further field selector for lists alone.
        """
        self.objects: dict[str, V] = {}
        self.synced = asyncio.Event()
        self._api = api
        self._resource = resource
        self._read = read
        self._changed = changed
        self._namespace = namespace
        self._labels = labels
        self._fields = fields
        self._list_fields = ",".join(part for part in (fields, list_fields) if part)
        self._version = ""
        self._versions: dict[str, int] = {}

    def fold(self, found: Object) -> None:
        """Take over an object that a write returned, ahead of the watch; one that is not kept stays so."""
        if _key(found) in self.objects:
            self._take(found)

    async def run(self) -> t.NoReturn:
        """Keep the cache up to date, until cancelled; what fails is tried again, ever more slowly."""
        wait = _FIRST_WAIT_SECONDS
        listed = 0.0
        while True:
            try:
                if not self._version or time.monotonic() > listed:
                    await self._list()
                    listed = time.monotonic() + RESYNC_SECONDS * random.uniform(0.8, 1.2)
                    self.synced.set()
                await self._watch()
                wait = _FIRST_WAIT_SECONDS
                continue
            except Expired as error:
                log.info("%s: %s", self._resource.plural, error)
                self._version = ""
            except JobError as error:
                log.warning("%s: %s", self._resource.plural, error)
            await asyncio.sleep(wait * random.uniform(0.5, 1.0))
            wait = min(wait * 2, _LONGEST_WAIT_SECONDS)

    async def _list(self) -> None:
        seen: set[str] = set()
        version = ""
        pages = self._api.pages(self._resource, self._namespace, labels=self._labels, fields=self._list_fields)
        async for page in pages:
            version = version or page.resource_version
            for found in page.objects:
                seen.add(self._take(found))
        for key in self.objects.keys() - seen:
            self._drop(key, None)
        self._version = version

    async def _watch(self) -> None:
        notices = self._api.watch(
            self._resource, self._version, self._namespace, labels=self._labels, fields=self._fields
        )
        async for notice in notices:
            if notice.type == "DELETED":
                self._drop(_key(notice.object), None)
            elif notice.type != "BOOKMARK":
                self._take(notice.object)
            self._version = notice.object["metadata"]["resourceVersion"]

    def _take(self, found: Object) -> str:
        key, version = _key(found), _version(found)
        if version < self._versions.get(key, 0):
            # What a write returned was folded in, and the watch only now comes to what was before.
            return key
        kept = self._read(found)
        if kept is None:
            self._drop(key, found)
            return key
        before = self.objects.get(key)
        self.objects[key] = kept
        self._versions[key] = version
        self._changed(Change(key, before, kept, found))
        return key

    def _drop(self, key: str, found: Object | None) -> None:
        self._versions.pop(key, None)
        before = self.objects.pop(key, None)
        if before is not None:
            self._changed(Change(key, before, None, found))


def _key(found: Object) -> str:
    metadata = found["metadata"]
    return f"{metadata['namespace']}/{metadata['name']}" if "namespace" in metadata else str(metadata["name"])


def _version(found: Object) -> int:
    """Return an object's resource version as a number: Kubernetes says that those of one kind may be compared so."""
    return int(found["metadata"]["resourceVersion"])
