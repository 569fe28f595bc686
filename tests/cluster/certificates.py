# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Who may speak for whom in a cluster: one authority, its certificates, and the files with which clients log in."""

from __future__ import annotations

import base64
import json
import pathlib

from tests.cluster.machine import execute

_DAYS = "3650"
_EC_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
#: Debian's own configuration would make everybody an authority.
_CONFIGURATION = "[req]\ndistinguished_name = nobody\n[nobody]\n"


class Authority:
    """All keys and certificates, in ``folder``. Each is made once."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder
        self._configuration = folder / "openssl.cnf"
        if self.path("sa.pub").exists():
            return
        folder.mkdir(mode=0o700, parents=True)
        self._configuration.write_text(_CONFIGURATION, encoding="ascii")
        self._request("ca", "/CN=hyper2kvm test cluster", "basicConstraints=critical,CA:TRUE", "keyUsage=keyCertSign")
        # Service accounts' tokens are signed by this one.
        private, public = str(self.path("sa.key")), str(self.path("sa.pub"))
        execute(["openssl", "genrsa", "-out", private, "2048"])
        execute(["openssl", "rsa", "-in", private, "-pubout", "-out", public])

    def path(self, name: str) -> pathlib.Path:
        """Where a file is: ``ca.crt``, ``ca.key``, ``sa.key``, ``sa.pub``, ``<certificate>.crt``, ``<it>.key``."""
        return self._folder / name

    def certify(self, name: str, user: str, group: str, *addresses: str) -> None:
        """Make ``<name>.crt`` and ``<name>.key``, for both ends of a connection.

        :param addresses: of a server, as OpenSSL writes them: ``IP:127.0.0.1``, ``DNS:kubernetes``.
        """
        if self.path(f"{name}.crt").exists():
            return
        extensions = ["extendedKeyUsage=serverAuth,clientAuth"]
        if addresses:
            extensions.append(f"subjectAltName={','.join(addresses)}")
        signed = ["-CA", str(self.path("ca.crt")), "-CAkey", str(self.path("ca.key"))]
        self._request(name, f"/O={group}/CN={user}", *extensions, signed=signed)

    def kubeconfig(self, name: str, user: str, group: str, server: str) -> pathlib.Path:
        """The file ``<name>.kubeconfig``, with which a client logs in as ``user`` at ``server`` (host:port)."""
        self.certify(name, user, group)
        path = self.path(f"{name}.kubeconfig")
        cluster = {"server": f"https://{server}", "certificate-authority-data": self._encoded("ca.crt")}
        login = {
            "client-certificate-data": self._encoded(f"{name}.crt"),
            "client-key-data": self._encoded(f"{name}.key"),
        }
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": name, "user": login}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": name}}],
            "current-context": "test",
        }
        path.write_text(json.dumps(document, indent=2) + "\n", encoding="ascii")
        return path

    def _encoded(self, name: str) -> str:
        return base64.b64encode(self.path(name).read_bytes()).decode()

    def _request(self, name: str, subject: str, *extensions: str, signed: list[str] | None = None) -> None:
        added = [word for extension in extensions for word in ("-addext", extension)]
        files = ["-keyout", str(self.path(f"{name}.key")), "-out", str(self.path(f"{name}.crt"))]
        command = ["openssl", "req", "-x509", "-config", str(self._configuration), "-days", _DAYS, "-subj", subject]
        execute([*command, *_EC_KEY, *added, *(signed or []), *files])
