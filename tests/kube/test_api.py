# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The small face of the API: logins, lists, watches, refusals; and the cache that stands on it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import typing as t

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.kube import api as api_module
from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.kube.api import (
    VARIABLES,
    Absent,
    Api,
    ApiError,
    Changed,
    Exists,
    Expired,
    Held,
    Login,
    Refused,
    own_namespace,
)
from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.kube.cache import Cache, Change
from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.kube.resources import (
    JOBS,
    LEASES,
    Object,
    phase_of,
    spec_patch,
)
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.errors import JobError
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.lifecycle import TERMINAL, Phase

from tests.kube.api_server import ApiServer

_PATIENCE_SECONDS = 60.0


@pytest.fixture(autouse=True)
def _no_login_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in (*VARIABLES.values(), "KUBECONFIG", "HYPER2KVM_NAMESPACE"):
        monkeypatch.delenv(variable, raising=False)


def document(name: str) -> Object:
    """A job."""
    return {
        "apiVersion": JOBS.api_version,
        "kind": JOBS.kind,
        "metadata": {"name": name, "labels": {"wave": name[-1]}},
        "spec": {"source": {"path": "web01.ova"}},
    }


async def names(login: Login, namespace: str) -> list[str]:
    """The names of the jobs in a namespace."""
    async with Api.connect(login) as api:
        return [found["metadata"]["name"] for found in await api.all(JOBS, namespace)]


class TestLogins:
    """Who may come in, and how."""

    def test_by_options_file_content_or_variables(
        self, api_server: ApiServer, namespace: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = api_server.kubeconfig()
        content = json.loads(path.read_text(encoding="ascii"))
        for login in (
            api_server.login(),
            Login(kubeconfig=str(path)),
            Login(kubeconfig=content),
            Login(kubeconfig=str(path), context="test"),
            Login(kubeconfig=str(path), validate_certs=False),
        ):
            assert asyncio.run(names(login, namespace)) == []
        login = api_server.login()
        for option in ("host", "api_key", "ca_cert"):
            monkeypatch.setenv(VARIABLES[option], str(getattr(login, option)))
        assert asyncio.run(names(Login(), namespace)) == []
        # What is given counts more than what is set.
        with pytest.raises(Refused, match="does not take this login"):
            asyncio.run(names(Login(api_key="wrong"), namespace))

    @pytest.mark.parametrize(
        ("login", "words"),
        [
            (Login(kubeconfig="/nowhere/config"), "There is nothing to log in to Kubernetes with"),
            (Login(kubeconfig={"clusters": []}), "There is nothing to log in to Kubernetes with"),
            (Login(host="https://127.0.0.1:1"), "The API server cannot be reached"),
        ],
    )
    def test_what_cannot_be_used_is_told(self, login: Login, words: str) -> None:
        with pytest.raises(JobError, match=words) as caught:
            asyncio.run(names(login, "default"))
        assert caught.value.suggestion

    def test_a_wrong_context_is_told(self, api_server: ApiServer) -> None:
        login = Login(kubeconfig=str(api_server.kubeconfig()), context="prod")
        with pytest.raises(JobError, match="prod"):
            asyncio.run(names(login, "default"))

    def test_a_certificate_of_nobody_is_refused(self, api_server: ApiServer) -> None:
        with pytest.raises(ApiError, match=r"certificate"):
            asyncio.run(names(Login(host=api_server.url, api_key="x"), "default"))

    def test_the_librarys_absence_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(api_module, "HAS_KUBERNETES", False)
        with pytest.raises(JobError, match="Install the package kubernetes"):
            asyncio.run(names(Login(), "default"))

    def test_the_releases_namespace(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(JobError, match="Set HYPER2KVM_NAMESPACE"):
            own_namespace()
        monkeypatch.setenv("HYPER2KVM_NAMESPACE", "there")
        assert own_namespace() == "there"


def test_refusals_are_told_apart(api_server: ApiServer, namespace: str) -> None:
    async def run() -> None:
        async with Api.connect(api_server.login()) as api, Api.connect(api_server.login("user")) as stranger:
            made = await api.create(JOBS, document("job-1"), namespace, dry_run=True)
            assert made["metadata"]["uid"]
            assert await api.all(JOBS, namespace) == []
            await api.create(JOBS, document("job-1"), namespace)
            with pytest.raises(Exists):
                await api.create(JOBS, document("job-1"), namespace)
            with pytest.raises(Absent):
                await api.get(JOBS, "job-2", namespace)
            with pytest.raises(Refused, match=r"cannot get resource .migrationjobs") as caught:
                await stranger.get(JOBS, "job-1", namespace)
            assert caught.value.code == 403
            stale = [{"op": "replace", "path": "/metadata/resourceVersion", "value": "1"}]
            failed = [{"op": "test", "path": "/spec/priority", "value": 7}]
            for patch in (stale, failed):
                with pytest.raises(Changed):
                    await api.patch(JOBS, "job-1", patch, namespace)
            with pytest.raises(Changed):
                await api.delete(JOBS, "job-1", namespace, uid="another")
            await api.delete(JOBS, "job-1", namespace)

    asyncio.run(run())


def test_lists_come_in_pages_and_by_selector(api_server: ApiServer, namespace: str) -> None:
    async def run() -> None:
        async with Api.connect(api_server.login()) as api:
            for number in range(5):
                await api.create(JOBS, document(f"job-{number}"), namespace)
            pages = [page async for page in api.pages(JOBS, namespace, limit=2)]
            assert [len(page.objects) for page in pages] == [2, 2, 1]
            assert len({page.resource_version for page in pages}) == 1
            (found,) = await api.all(JOBS, namespace, labels="wave=3")
            assert found["metadata"]["name"] == "job-3"
            assert len(await api.all(JOBS, namespace, fields="metadata.name!=job-1")) == 4

    asyncio.run(run())


def test_a_lease_is_made_and_renewed(api_server: ApiServer, namespace: str) -> None:
    async def run() -> None:
        async with Api.connect(api_server.login()) as api:
            renewed = []
            for dummy in range(2):
                await api.hold_lease(namespace, "hyper2kvm-a", "me", 60)
                spec = (await api.get(LEASES, "hyper2kvm-a", namespace))["spec"]
                assert (spec["holderIdentity"], spec["leaseDurationSeconds"]) == ("me", 60)
                renewed.append(spec["renewTime"])
            assert renewed[0] < renewed[1]

    asyncio.run(run())


def test_a_lease_has_one_holder(api_server: ApiServer, namespace: str) -> None:
    async def run() -> None:
        async with Api.connect(api_server.login()) as api:
            await api.hold_lease(namespace, "hyper2kvm-a", "me", 60)
            with pytest.raises(Held, match="held by me"):
                await api.hold_lease(namespace, "hyper2kvm-a", "other", 60)
            with pytest.raises(Changed):
                await api.release_lease(namespace, "hyper2kvm-a", "other")
            await api.release_lease(namespace, "hyper2kvm-a", "me")
            await api.hold_lease(namespace, "hyper2kvm-a", "other", 60)
            spec = (await api.get(LEASES, "hyper2kvm-a", namespace))["spec"]
            assert (spec["holderIdentity"], spec["leaseDurationSeconds"]) == ("other", 60)
            # As if it had been renewed long ago, or before the clock was set back.
            for renewed in ("2026-01-01T00:00:00.000000Z", "2999-01-01T00:00:00.000000Z"):
                await api.patch(LEASES, "hyper2kvm-a", {"spec": {"renewTime": renewed}}, namespace)
                await api.hold_lease(namespace, "hyper2kvm-a", "me", 60)
                assert (await api.get(LEASES, "hyper2kvm-a", namespace))["spec"]["holderIdentity"] == "me"
                await api.release_lease(namespace, "hyper2kvm-a", "me")
                await api.hold_lease(namespace, "hyper2kvm-a", "other", 60)

    asyncio.run(run())


def test_a_version_that_is_too_old_is_told(api_server: ApiServer, namespace: str) -> None:
    async def run() -> None:
        async with Api.connect(api_server.login()) as api:
            await api.create(JOBS, document("job-1"), namespace)
            with pytest.raises(Expired):
                async for dummy in api.watch(JOBS, "1", namespace):
                    pass

    asyncio.run(run())


class Watched:
    """A cache of the open jobs of a namespace, and what it told."""

    def __init__(self, api: Api, namespace: str) -> None:
        self.changes: list[Change[str]] = []
        self._told = asyncio.Event()
        self.cache: Cache[str] = Cache(
            api,
            JOBS,
            lambda found: None if phase_of(found) in TERMINAL else phase_of(found).value,
            self._changed,
            namespace=namespace,
            list_fields=",".join(f"status.phase!={phase.value}" for phase in TERMINAL),
        )

    def _changed(self, change: Change[str]) -> None:
        self.changes.append(change)
        self._told.set()

    @contextlib.asynccontextmanager
    async def running(self) -> t.AsyncIterator[Watched]:
        """Kept up to date as long as the context lasts."""
        task = asyncio.create_task(self.cache.run())
        try:
            await self.cache.synced.wait()
            yield self
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def until(self, *objects: str) -> None:
        """Wait until it holds these objects (names) and no others."""
        async with asyncio.timeout(_PATIENCE_SECONDS):
            while {key.partition("/")[2] for key in self.cache.objects} != set(objects):
                self._told.clear()
                await self._told.wait()


async def _set_phase(api: Api, namespace: str, name: str, phase: Phase) -> Object:
    patch = {"status": {"phase": phase.value}}
    return await api.patch(JOBS, name, patch, namespace, subresource="status")


def test_a_cache_follows_and_tells_the_last_word(api_server: ApiServer, namespace: str) -> None:
    async def run() -> None:
        async with Api.connect(api_server.login()) as api:
            for number in range(3):
                await api.create(JOBS, document(f"job-{number}"), namespace)
            await _set_phase(api, namespace, "job-0", Phase.CANCELLED)
            async with Watched(api, namespace).running() as watched:
                await watched.until("job-1", "job-2")
                await api.create(JOBS, document("job-3"), namespace)
                await _set_phase(api, namespace, "job-1", Phase.CANCELLED)
                await api.delete(JOBS, "job-2", namespace)
                await watched.until("job-3")
                last = {change.key.partition("/")[2]: change for change in watched.changes}
                # What is over is told with the object, what is gone without.
                cancelled = last["job-1"].found
                assert cancelled is not None and phase_of(cancelled) is Phase.CANCELLED
                assert (last["job-1"].after, last["job-2"].after, last["job-2"].found) == (None, None, None)
                assert "job-0" not in last

    asyncio.run(run())


def test_a_cache_lists_anew_where_it_came_too_late(api_server: ApiServer, namespace: str) -> None:
    async def run() -> None:
        async with Api.connect(api_server.login()) as api:
            for name in ("job-1", "job-2"):
                await api.create(JOBS, document(name), namespace)
            watched = Watched(api, namespace)
            async with watched.running():
                await watched.until("job-1", "job-2")
            await api.delete(JOBS, "job-1", namespace)
            await api.create(JOBS, document("job-3"), namespace)
            # As after a watch that was dead for longer than the API server remembers.
            watched.cache._version = "1"
            async with watched.running():
                await watched.until("job-2", "job-3")

    asyncio.run(run())


def test_what_a_write_returned_counts_before_the_watch_tells_it(api_server: ApiServer, namespace: str) -> None:
    async def run() -> None:
        async with Api.connect(api_server.login()) as api:
            await api.create(JOBS, document("job-1"), namespace)
            old = await api.get(JOBS, "job-1", namespace)
            async with Watched(api, namespace).running() as watched:
                await watched.until("job-1")
                new = await _set_phase(api, namespace, "job-1", Phase.QUEUED)
                watched.cache.fold(new)
                watched.cache.fold(old)
                assert list(watched.cache.objects.values()) == ["QUEUED"]
                await api.patch(JOBS, "job-1", spec_patch({"priority": 1}), namespace)
                await api.delete(JOBS, "job-1", namespace)
                await watched.until()
                watched.cache.fold(new)
                assert watched.cache.objects == {}

    asyncio.run(run())
