# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A real API server with its etcd, and nothing else of Kubernetes: no controller, no scheduler, no node.

``HYPER2KVM_TEST_KUBERNETES`` names a folder with the programs ``etcd``, ``kube-apiserver`` and ``kubectl``; without it
they are those of the cluster tests, built once.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import secrets
import shutil
import socket
import subprocess
import time
import typing as t

from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.kube.api import Login

from tests.guests.host import REPOSITORY, BuildError, run

CRDS = REPOSITORY / "k8s" / "crds"
#: A loaded machine takes its time.
_PATIENCE_SECONDS = 120.0
#: Users by the groups that they belong to; the first may do everything.
_USERS = {"admin": "system:masters", "user": "hyper2kvm:testers"}


def programs() -> pathlib.Path:
    """The folder of the programs.

    :raises BuildError: they could not be built.
    """
    named = os.environ.get("HYPER2KVM_TEST_KUBERNETES")
    if named:
        return pathlib.Path(named)
    from tests.cluster.programs import kubernetes

    return kubernetes()


class ApiServer:
    """One API server on a loopback port, whose data, keys and logs are in ``folder``. RBAC is on."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder
        self._programs = programs()
        self._etcd_port, self._peer_port, self._port = _free_ports(3)
        self._tokens = {name: secrets.token_urlsafe(24) for name in _USERS}
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        folder.mkdir(parents=True, exist_ok=True)
        lines = [f'{token},{name},{name},"{_USERS[name]}"\n' for name, token in self._tokens.items()]
        tokens = folder / "tokens.csv"
        tokens.touch(mode=0o600)
        tokens.write_text("".join(lines), encoding="ascii")
        run(["openssl", "genrsa", "-out", folder / "sa.key", "2048"])
        run(["openssl", "rsa", "-in", folder / "sa.key", "-pubout", "-out", folder / "sa.pub"])

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"https://127.0.0.1:{self._port}"

    def login(self, user: str = "admin") -> Login:
        """How ``admin`` (may everything) or ``user`` (may what the test allows) logs in."""
        return self.login_with(self._tokens[user])

    def login_with(self, token: str) -> Login:
        """How the owner of a token logs in: a service account's, for example."""
        return Login(host=self.url, api_key=token, ca_cert=str(self._folder / "pki" / "apiserver.crt"))

    def kubeconfig(self, user: str = "admin", namespace: str = "default") -> pathlib.Path:
        """A file with that login; JSON, which is YAML as well."""
        return self._write_kubeconfig(f"{user}-{namespace}", self._tokens[user], namespace)

    def account_kubeconfig(self, namespace: str, account: str) -> pathlib.Path:
        """A file with the login of a service account."""
        name = f"account-{account}"
        path = self._folder / f"{name}.kubeconfig"
        if path.exists():
            return path
        token = self.kubectl("-n", namespace, "create", "token", account, "--duration=24h").strip()
        return self._write_kubeconfig(name, token, namespace)

    def kubectl(self, *words: str, stdin: str = "", user: str = "admin") -> str:
        """Run kubectl and return its output.

        :raises BuildError: it failed; the message holds what it said.
        """
        options = [f"--kubeconfig={self.kubeconfig(user)}", f"--cache-dir={self._folder / 'cache'}"]
        return run([self._programs / "kubectl", *options, *words], stdin=stdin.encode())

    def start(self) -> None:
        """Start what does not run, and wait until requests are answered.

        :raises BuildError: it does not start.
        """
        etcd_url = f"http://127.0.0.1:{self._etcd_port}"
        peer_url = f"http://127.0.0.1:{self._peer_port}"
        self.run_program(
            "etcd",
            f"--data-dir={self._folder / 'etcd'}",
            "--unsafe-no-fsync",
            "--log-level=warn",
            f"--listen-client-urls={etcd_url}",
            f"--advertise-client-urls={etcd_url}",
            f"--listen-peer-urls={peer_url}",
            f"--initial-advertise-peer-urls={peer_url}",
            f"--initial-cluster=default={peer_url}",
        )
        self.run_program(
            "kube-apiserver",
            f"--etcd-servers={etcd_url}",
            "--bind-address=127.0.0.1",
            f"--secure-port={self._port}",
            f"--cert-dir={self._folder / 'pki'}",
            f"--token-auth-file={self._folder / 'tokens.csv'}",
            "--authorization-mode=RBAC",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={self._folder / 'sa.pub'}",
            f"--service-account-signing-key-file={self._folder / 'sa.key'}",
            "--service-cluster-ip-range=10.96.0.0/16",
            # Its own Service has no endpoints: a loopback address cannot be one.
            "--endpoint-reconciler-type=none",
            "--allow-privileged",
        )
        self._wait("/readyz")

    def stop(self) -> None:
        """Kill the API server at once; etcd and its data stay."""
        self._end("kube-apiserver")

    def close(self) -> None:
        """Kill everything, the last that was started first."""
        for name in reversed(list(self._running)):
            self._end(name)

    def run_program(self, name: str, *arguments: str, program: pathlib.Path | None = None) -> None:
        """Start a program, unless it runs; it ends with this server.

        :param program: where it is; None: it is one of Kubernetes' own.
        """
        if name in self._running:
            return
        log = self._folder / f"{name}.log"
        with log.open("ab") as out:
            # The kernel ends it, should this process be killed.
            command = ["setpriv", "--pdeathsig", "KILL", str(program or self._programs / name), *arguments]
            self._running[name] = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)

    def pid(self, name: str) -> int:
        """The process of a program that runs."""
        return self._running[name].pid

    def path(self, name: str) -> pathlib.Path:
        """One of its files: ``sa.key``, ``pki/apiserver.crt``, ``<program>.log``."""
        return self._folder / name

    def install(self, *paths: pathlib.Path) -> None:
        """Create what these folders hold (each has a kustomization), and wait until their CRDs are served."""
        for path in paths:
            self.kubectl("apply", "--server-side", "-k", str(path))
        # kubectl itself cannot wait for one that has no conditions yet.
        end = time.monotonic() + _PATIENCE_SECONDS
        while not all(_established(one) for one in json.loads(self.kubectl("get", "crd", "-o", "json"))["items"]):
            if time.monotonic() > end:
                raise BuildError("the API server does not serve the CRDs")
            time.sleep(0.1)

    def _write_kubeconfig(self, name: str, token: str, namespace: str) -> pathlib.Path:
        path = self._folder / f"{name}.kubeconfig"
        cluster = {"server": self.url, "certificate-authority": str(self._folder / "pki" / "apiserver.crt")}
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": name, "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": name, "namespace": namespace}}],
            "current-context": "test",
        }
        path.touch(mode=0o600)
        path.write_text(json.dumps(document, indent=2), encoding="ascii")
        return path

    def _end(self, program: str) -> None:
        process = self._running.pop(program, None)
        if process is not None:
            process.kill()
            process.wait()

    def _wait(self, path: str) -> None:
        end = time.monotonic() + _PATIENCE_SECONDS
        while True:
            for name, process in self._running.items():
                if process.poll() is not None:
                    raise BuildError(f"{name} ended with {process.returncode}: {self._folder / name}.log says why")
            with contextlib.suppress(BuildError):
                if (self._folder / "pki" / "apiserver.crt").exists() and self.kubectl("get", "--raw", path) == "ok":
                    return
            if time.monotonic() > end:
                raise BuildError(f"the API server does not get ready: see {self._folder}")
            time.sleep(0.2)


@contextlib.contextmanager
def serving(folder: pathlib.Path) -> t.Iterator[ApiServer]:
    """An API server that runs, with our CRDs; nothing of it is left afterwards."""
    with serving_nothing_of_ours(folder) as server:
        server.install(CRDS)
        yield server


@contextlib.contextmanager
def serving_nothing_of_ours(folder: pathlib.Path) -> t.Iterator[ApiServer]:
    """The same without our CRDs. To delete them again would take minutes where they were made a moment ago."""
    server = ApiServer(folder)
    try:
        server.start()
        yield server
    finally:
        server.close()
        shutil.rmtree(folder / "etcd", ignore_errors=True)


def _established(crd: dict[str, t.Any]) -> bool:
    conditions = crd.get("status", {}).get("conditions") or []
    return any(one["type"] == "Established" and one["status"] == "True" for one in conditions)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for dummy in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
