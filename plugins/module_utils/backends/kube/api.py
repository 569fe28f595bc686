# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The Kubernetes API, as small as this collection needs it: JSON in, JSON out, every failure a :class:`JobError`.

The one place that imports the official client. Of that only the configuration, the login and the HTTP connections are
used: its models cost more time than the requests. No request is repeated here; whoever makes it knows whether it may
be.
"""

from __future__ import annotations

import asyncio
import collections.abc as c
import contextlib
import dataclasses
import datetime
import json
import os
import pathlib
import typing as t
import urllib.parse

from ...protocol import fields
from ...protocol.errors import ErrorClass, JobError, environment
from .resources import LEASES, Object, Resource

try:
    import aiohttp
    from kubernetes import aio as client_library

    HAS_KUBERNETES = True
except ImportError:
    HAS_KUBERNETES = False

_REQUEST_SECONDS = 30.0
#: Objects a page of a list.
_PAGE = 500
#: Connections at once; watches hold one each.
_CONNECTIONS = 64
#: A watch is ended by the server after this time, and silence for longer means that it is dead.
_WATCH_SECONDS = 240
_WATCH_GRACE_SECONDS = 15.0
SERVICE_ACCOUNT = pathlib.Path("/var/run/secrets/kubernetes.io/serviceaccount")
NAMESPACE_VARIABLE = "HYPER2KVM_NAMESPACE"


class ApiError(JobError):
    """The API server did not do what was asked."""

    def __init__(self, error_class: ErrorClass, reason: str, message: str, suggestion: str = "", code: int = 0) -> None:
        """Say what was refused; ``code`` is the HTTP status, 0 where there was no answer."""
        super().__init__(error_class, reason, message, suggestion)
        self.code = code


class Absent(ApiError):
    """There is no such object."""


class Exists(ApiError):
    """There is an object of that name already."""


class Changed(ApiError):
    """The object is not (or no longer) as the writer believed; nothing was written."""


class Held(ApiError):
    """The Lease is somebody else's."""


class Expired(ApiError):
    """The resource version is too old to go on from; a new list is needed."""


class Refused(ApiError):
    """The API server will not do it for this account, or with this object."""


@dataclasses.dataclass(frozen=True)
class Login:
    """Where the API server is and who is asking: the options of ``kubernetes.core`` under their names there.

    What is None is taken from the variable of :data:`VARIABLES`, then from the kubeconfig; where there is neither, from
    the pod's service account.
    """

    kubeconfig: str | dict[str, t.Any] | None = None
    """A path, or the file's content."""
    context: str | None = None
    host: str | None = None
    """URL of the API server."""
    api_key: str | None = None
    """A bearer token."""
    validate_certs: bool | None = None
    ca_cert: str | None = None
    """Path of the authority's certificate, as with the two below."""
    client_cert: str | None = None
    client_key: str | None = None
    proxy: str | None = None


#: The environment variables that stand for options, as ``kubernetes.core`` has them.
VARIABLES: dict[str, str] = {
    "kubeconfig": "K8S_AUTH_KUBECONFIG",
    "context": "K8S_AUTH_CONTEXT",
    "host": "K8S_AUTH_HOST",
    "api_key": "K8S_AUTH_API_KEY",
    "validate_certs": "K8S_AUTH_VERIFY_SSL",
    "ca_cert": "K8S_AUTH_SSL_CA_CERT",
    "client_cert": "K8S_AUTH_CERT_FILE",
    "client_key": "K8S_AUTH_KEY_FILE",
    "proxy": "K8S_AUTH_PROXY",
}
_FALSE = frozenset({"0", "false", "no", "off", "n", "f"})


def own_namespace() -> str:
    """Return the namespace of this release: by ``HYPER2KVM_NAMESPACE``, else that of the pod.

    Raises:
        JobError: (environment) neither is there.
    """
    named = os.environ.get(NAMESPACE_VARIABLE, "")
    if named:
        return named
    try:
        return (SERVICE_ACCOUNT / "namespace").read_text(encoding="ascii").strip()
    except OSError:
        raise environment(
            "NamespaceUnknown",
            f"The namespace of this release is not known: {NAMESPACE_VARIABLE} is unset, and this is no pod.",
            f"Set {NAMESPACE_VARIABLE}.",
        ) from None


def namespace_of(login: Login) -> str:
    """Return the namespace that ``login`` is for: that of its context, or of the pod; else ``default``.

    Raises:
        JobError: (environment) as :meth:`Api.connect`.
    """
    login = _completed(login)
    if login.host is not None:
        return "default"
    if _by_pod(login):
        return own_namespace()
    # Of the library's login, nothing has types.
    config: t.Any = client_library.config
    with _reading_login():
        if isinstance(login.kubeconfig, dict):
            contexts, current = login.kubeconfig.get("contexts", []), login.kubeconfig.get("current-context")
        else:
            contexts, active = config.list_kube_config_contexts(_kubeconfig_path(login))
            current = active["name"]
        named = {one["name"]: one["context"].get("namespace") for one in contexts}
    return named.get(login.context or current) or "default"


class Api:
    """A connection to one API server. Made by :meth:`connect`; belongs to one event loop."""

    def __init__(self, client: client_library.client.ApiClient) -> None:
        """Speak through ``client``."""
        self._client = client

    @classmethod
    @contextlib.asynccontextmanager
    async def connect(cls, login: Login | None = None) -> c.AsyncIterator[Api]:
        """Log in, and log out at the end. No request is made yet.

        Raises:
            JobError: (environment) the client's library is missing, or the login's settings cannot be used.
        """
        if not HAS_KUBERNETES:
            raise environment(
                "MissingLibrary",
                "Kubernetes is spoken to through its official Python client, which this Python lacks.",
                "Install the package kubernetes, 37 or later.",
            )
        configuration = await _configuration(login or Login())
        async with client_library.client.ApiClient(configuration) as client:
            yield cls(client)

    async def get(self, resource: Resource, name: str, namespace: str | None = None) -> Object:
        """Return one object.

        Raises:
            Absent: there is none.
            JobError: the API server cannot be reached, or refuses.
        """
        return await self._call("GET", resource.path(namespace, name))

    async def pages(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        labels: str = "",
        fields: str = "",
        limit: int = _PAGE,
    ) -> c.AsyncIterator[Page]:
        """Yield all objects by pages of ``limit``; ``namespace`` None: of all namespaces. Selectors as in kubectl.

        Raises:
            Expired: the list took too long; begin anew.
            JobError: the API server cannot be reached, or refuses.
        """
        query = {"limit": str(limit), **_selectors(labels, fields)}
        while True:
            found = await self._call("GET", resource.path(namespace), query)
            metadata = found["metadata"]
            yield Page(found.get("items") or [], metadata["resourceVersion"])
            if not metadata.get("continue"):
                return
            query["continue"] = metadata["continue"]

    async def all(
        self, resource: Resource, namespace: str | None = None, *, labels: str = "", fields: str = ""
    ) -> list[Object]:
        """Return all objects; see :meth:`pages`."""
        return [
            item
            async for page in self.pages(resource, namespace, labels=labels, fields=fields)
            for item in page.objects
        ]

    async def watch(
        self,
        resource: Resource,
        resource_version: str,
        namespace: str | None = None,
        *,
        labels: str = "",
        fields: str = "",
    ) -> c.AsyncIterator[Notice]:
        """Yield what happens after ``resource_version``, bookmarks included, until the server ends the watch (minutes).

        Raises:
            Expired: that version is too old; list again.
            JobError: the API server cannot be reached, or refuses.
        """
        query = {
            "watch": "true",
            "resourceVersion": resource_version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(_WATCH_SECONDS),
            **_selectors(labels, fields),
        }
        silence = aiohttp.ClientTimeout(total=None, sock_read=_WATCH_SECONDS + _WATCH_GRACE_SECONDS)
        path = resource.path(namespace)
        async with self._response("GET", path, query, None, silence) as response:
            while line := await _line(response, path):
                notice = json.loads(line)
                if notice["type"] == "ERROR":
                    raise _error(notice["object"].get("code", 0), notice["object"], "GET", path)
                yield Notice(notice["type"], notice["object"])

    async def create(
        self, resource: Resource, document: Object, namespace: str | None = None, *, dry_run: bool = False
    ) -> Object:
        """Create an object and return it as it is now; ``dry_run``: only as it would be.

        A field that the API server does not know is an error: it would be dropped in silence.

        Raises:
            Exists: there is one of that name.
            Refused: the account may not, or the object is not valid; the message is the API server's.
            JobError: the API server cannot be reached.
        """
        query = {"fieldValidation": "Strict", **_dry(dry_run)}
        return await self._call("POST", resource.path(namespace), query, document)

    async def patch(
        self,
        resource: Resource,
        name: str,
        patch: list[Object] | Object,
        namespace: str | None = None,
        *,
        subresource: str = "",
        dry_run: bool = False,
    ) -> Object:
        """Change an object by a JSON Patch (a list) or a merge patch (an object), and return it as it is then.

        Raises:
            Absent: there is none.
            Changed: a test of the patch failed, or it named another resource version.
            Refused: the account may not, or the outcome is not valid; the message is the API server's.
            JobError: the API server cannot be reached.
        """
        return await self._call("PATCH", resource.path(namespace, name, subresource), _dry(dry_run), patch)

    async def delete(
        self, resource: Resource, name: str, namespace: str | None = None, *, uid: str = "", dry_run: bool = False
    ) -> None:
        """Delete an object; with ``uid`` only if it is the one of that uid.

        Raises:
            Absent: there is none.
            Changed: it has another uid.
            JobError: the API server cannot be reached, or refuses.
        """
        body: Object = {"preconditions": {"uid": uid}} if uid else {}
        await self._call("DELETE", resource.path(namespace, name), _dry(dry_run), body)

    async def hold_lease(self, namespace: str, name: str, holder: str, seconds: int) -> None:
        """Say, in the Lease of that name, that ``holder`` lives and holds it for ``seconds`` from now. Creates it.

        It is taken over from somebody else who released it, or did not renew it in time by this host's clock.

        Raises:
            Held: it is somebody else's.
            JobError: the API server cannot be reached, or refuses.
        """
        spec = lease_spec(holder, seconds)
        try:
            await self.patch(LEASES, name, [held_by(holder), {"op": "add", "path": "/spec", "value": spec}], namespace)
        except Absent:
            document = {"apiVersion": LEASES.api_version, "kind": LEASES.kind, "metadata": {"name": name}, "spec": spec}
            await self.create(LEASES, document, namespace)
        except Changed:
            found = await self.get(LEASES, name, namespace)
            other = _holder(found, datetime.datetime.now(datetime.timezone.utc))
            if other not in ("", holder):
                raise Held(
                    ErrorClass.TRANSIENT,
                    "LeaseHeld",
                    f"The Lease {name} in {namespace} is held by {other}, another agent of this node.",
                    "End the other one: a second release, or a DaemonSet that an earlier one left behind.",
                ) from None
            version = {"resourceVersion": found["metadata"]["resourceVersion"]}
            await self.patch(LEASES, name, {"metadata": version, "spec": spec}, namespace)

    async def release_lease(self, namespace: str, name: str, holder: str) -> None:
        """Let somebody else take the Lease at once, if it is ``holder``'s.

        Raises:
            Absent, Changed: it is not.
            JobError: the API server cannot be reached, or refuses.
        """
        nobody = {"op": "add", "path": "/spec/holderIdentity", "value": ""}
        await self.patch(LEASES, name, [held_by(holder), nobody], namespace)

    async def _call(
        self, method: str, path: str, query: c.Mapping[str, str] | None = None, body: t.Any = None
    ) -> Object:
        timeout = aiohttp.ClientTimeout(total=_REQUEST_SECONDS)
        async with self._response(method, path, query or {}, body, timeout) as response:
            try:
                return t.cast(Object, json.loads(await response.read()))
            except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:
                raise _unreachable(path, error) from error

    @contextlib.asynccontextmanager
    async def _response(
        self, method: str, path: str, query: c.Mapping[str, str], body: t.Any, timeout: t.Any
    ) -> c.AsyncIterator[aiohttp.ClientResponse]:
        configuration = self._client.configuration
        url = f"{configuration.host}{path}"
        if query:
            url = f"{url}?{urllib.parse.urlencode(query)}"
        headers = {"Accept": "application/json", "User-Agent": "hyper2kvm", "Content-Type": _content_type(method, body)}
        try:
            for setting in (await configuration.auth_settings()).values():
                headers[setting["key"]] = setting["value"]
            request: t.Any = self._client.rest_client.request
            answer = await request(method, url, headers=headers, body=body, _request_timeout=timeout)
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:
            raise _unreachable(path, error) from error
        response: aiohttp.ClientResponse = answer.response
        try:
            if response.status >= 400:
                raise _error(response.status, await _status(response, path), method, path)
            yield response
        finally:
            response.release()


@dataclasses.dataclass(frozen=True)
class Page:
    """A part of a list."""

    objects: list[Object]
    resource_version: str
    """Of the whole list: where a watch goes on."""


class Notice(t.NamedTuple):
    """One event of a watch."""

    type: str
    """``ADDED``, ``MODIFIED``, ``DELETED`` or ``BOOKMARK``."""
    object: Object


def lease_spec(holder: str, seconds: int) -> Object:
    """Return what the ``spec`` of a Lease says that ``holder`` renews now, for ``seconds``."""
    now = datetime.datetime.now(datetime.timezone.utc)
    return {"holderIdentity": holder, "leaseDurationSeconds": seconds, "renewTime": micro_time(now)}


def held_by(holder: str) -> Object:
    """Return the test of a JSON Patch that a Lease is ``holder``'s."""
    return {"op": "test", "path": "/spec/holderIdentity", "value": holder}


def _holder(lease: Object, now: datetime.datetime) -> str:
    """Return who holds a Lease; nobody, if its time is over, or not yet begun, as after a clock was set back."""
    spec = lease.get("spec", {})
    lasts = datetime.timedelta(seconds=spec.get("leaseDurationSeconds") or 0)
    renewed = spec.get("renewTime")
    if not renewed or not datetime.timedelta() <= now - fields.moment(renewed) < lasts:
        return ""
    return str(spec.get("holderIdentity") or "")


def micro_time(moment: datetime.datetime) -> str:
    """Return an aware ``moment`` as Kubernetes' MicroTime, whose fraction has six digits."""
    return moment.astimezone(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _selectors(labels: str, fields: str) -> dict[str, str]:
    chosen = {"labelSelector": labels, "fieldSelector": fields}
    return {key: value for key, value in chosen.items() if value}


def _dry(dry_run: bool) -> dict[str, str]:
    return {"dryRun": "All"} if dry_run else {}


def _content_type(method: str, body: t.Any) -> str:
    if method != "PATCH":
        return "application/json"
    return "application/json-patch+json" if isinstance(body, list) else "application/merge-patch+json"


async def _line(response: aiohttp.ClientResponse, path: str) -> bytes:
    try:
        return await response.content.readline()
    except (aiohttp.ClientError, asyncio.TimeoutError, OSError, ValueError) as error:
        # ValueError: an object longer than the reader's buffer.
        raise _unreachable(path, error) from error


async def _status(response: aiohttp.ClientResponse, path: str) -> Object:
    """Return the Status object of a refusal; something before the API server may answer with anything."""
    try:
        raw = await response.read()
    except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:
        raise _unreachable(path, error) from error
    try:
        found = json.loads(raw)
    except ValueError:
        found = None
    if isinstance(found, dict):
        return found
    return {"message": raw.decode("utf-8", "replace").strip()[:200] or response.reason or ""}


def _error(code: int, status: Object, method: str, path: str) -> ApiError:
    reason, message = status.get("reason") or "", status.get("message") or f"HTTP status {code}"
    causes = (status.get("details") or {}).get("causes")
    if code == 401:
        return Refused(
            ErrorClass.ENVIRONMENT,
            "NotLoggedIn",
            f"The API server does not take this login: {message}.",
            "See kubeconfig, context and api_key; a token may have expired.",
            code,
        )
    if code == 403:
        return Refused(ErrorClass.ENVIRONMENT, "Forbidden", f"{message}.", "Ask for the rights, or use a login.", code)
    if code == 404 and reason != "NotFound":
        # No object of ours: the API server knows no such kind at all.
        return ApiError(
            ErrorClass.ENVIRONMENT,
            "UnknownResource",
            f"The API server does not know {path}: {message}.",
            "Install hyper2kvm on the cluster (helm/README.md), or see whether this is the right cluster.",
            code,
        )
    if code == 404:
        return Absent(ErrorClass.INVALID, "NotFound", f"{message}.", "", code)
    if code == 409 and reason == "AlreadyExists":
        return Exists(ErrorClass.INVALID, "AlreadyExists", f"{message}.", "", code)
    # A JSON Patch whose test fails is answered by 422 and no cause; one whose outcome is not valid has some.
    if code == 409 or (code == 422 and method == "PATCH" and not causes):
        return Changed(ErrorClass.TRANSIENT, "Changed", f"The object was changed meanwhile: {message}.", "", code)
    if code == 410:
        return Expired(ErrorClass.TRANSIENT, "Expired", f"{message}.", "", code)
    if code == 429 or code >= 500:
        return ApiError(
            ErrorClass.TRANSIENT,
            "ApiUnavailable",
            f"The API server cannot do {method} {path} now: {message}.",
            "It is tried again where that may help; see the API server's log.",
            code,
        )
    return Refused(ErrorClass.INVALID, "Refused", f"The API server refused it: {message}", "", code)


def _unreachable(path: str, error: Exception) -> ApiError:
    words = str(error) or type(error).__name__
    return ApiError(
        ErrorClass.TRANSIENT,
        "ApiUnreachable",
        f"The API server cannot be reached for {path}: {words}.",
        "See whether it runs and whether kubeconfig, context and host are right.",
    )


async def _configuration(login: Login) -> client_library.client.Configuration:
    """Return the client's configuration for ``login``, completed from environment, kubeconfig and pod.

    Raises:
        JobError: (environment) there is nothing to log in with, or it cannot be read.
    """
    login = _completed(login)
    configuration = client_library.client.Configuration()
    if login.host is None:
        await _load(configuration, login)
    attributes = {
        "host": "host",
        "ca_cert": "ssl_ca_cert",
        "client_cert": "cert_file",
        "client_key": "key_file",
        "proxy": "proxy",
        "validate_certs": "verify_ssl",
    }
    for option, attribute in attributes.items():
        if getattr(login, option) is not None:
            setattr(configuration, attribute, getattr(login, option))
    if login.api_key is not None:
        configuration.api_key["BearerToken"] = f"Bearer {login.api_key}"
        configuration.refresh_api_key_hook = None
    configuration.host = configuration.host.rstrip("/")
    configuration.connection_pool_maxsize = _CONNECTIONS
    return configuration


def _completed(login: Login) -> Login:
    """Return ``login`` with the environment's variables for what it leaves open."""
    said: dict[str, t.Any] = {
        option: os.environ[variable]
        for option, variable in VARIABLES.items()
        if getattr(login, option) is None and os.environ.get(variable)
    }
    if "validate_certs" in said:
        said["validate_certs"] = said["validate_certs"].lower() not in _FALSE
    return dataclasses.replace(login, **said)


def _by_pod(login: Login) -> bool:
    """Whether the pod's service account logs in: nothing else is named, and this is a pod."""
    return login.kubeconfig is None and login.context is None and "KUBERNETES_SERVICE_HOST" in os.environ


def _kubeconfig_path(login: Login) -> str:
    # The library itself looks at KUBECONFIG, once, when it is imported.
    return os.path.expanduser(str(login.kubeconfig or os.environ.get("KUBECONFIG") or "~/.kube/config"))


async def _load(configuration: client_library.client.Configuration, login: Login) -> None:
    """Fill ``configuration`` from a kubeconfig, or from the pod where none is named and this is one."""
    # As above: nothing has types.
    config: t.Any = client_library.config
    with _reading_login():
        if isinstance(login.kubeconfig, dict):
            await config.load_kube_config_from_dict(login.kubeconfig, login.context, configuration)
        elif _by_pod(login):
            config.load_incluster_config(configuration)
        else:
            await config.load_kube_config(
                _kubeconfig_path(login), login.context, client_configuration=configuration, persist_config=False
            )


@contextlib.contextmanager
def _reading_login() -> c.Iterator[None]:
    try:
        yield
    except (client_library.config.ConfigException, OSError, ValueError, KeyError, TypeError) as error:
        raise environment(
            "NoLogin",
            f"There is nothing to log in to Kubernetes with: {error}.",
            "Give kubeconfig (and context), or host and api_key.",
        ) from None
