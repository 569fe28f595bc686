# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Secrets are taken out wherever they stand, and what helps stays."""

from __future__ import annotations

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.telemetry import redaction
from ansible_collections.hyper2kvm.core.plugins.module_utils.telemetry.redaction import REMOVED

#: Made up, and cut in two where a scanner would take it for a real one.
SECRETS = {
    "url": ("cannot reach https://root:{}@vcenter/sdk", "s3cr3tpw"),
    "assignment": ("password={} was refused", "hunter2hunter2"),
    "json": ('{{"apiKey": "{}"}}', "abcdef0123456789"),
    "yaml": ("vcenter_password: '{}'", "with blank and ' quote".partition(" '")[0]),
    "crypt": ("root:{}:19700:0:99999:7:::", "$6$saltsalt$" + "Ab1./" * 17 + "x"),
    "yescrypt": ("hash {}", "$y$j9T$" + "Fa5uNnVQ" * 6),
    "token": ("Authorization: Bearer {}", "eyJhbGciOiJSUzI1NiJ9." + "eyJzdWIiOiJ4In0." + "c2lnbmF0dXJl"),
    "slack": ("posting to https://{}", "hooks.slack.com/" + "services/T000/B000/XXXXXXXX"),
    "key": ("read {}", "-----BEGIN OPENSSH " + "PRIVATE KEY-----\nb3BlbnNz\nAAAA\n-----END OPENSSH PRIVATE KEY-----"),
    "cut key": ("read {}", "-----BEGIN RSA " + "PRIVATE KEY-----\nb3BlbnNz"),
}


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_goes_from_a_text(name: str) -> None:
    text, secret = SECRETS[name]
    found = redaction.text(text.format(secret))
    assert secret not in found and REMOVED in found
    assert found.startswith(text.format("\0").partition("\0")[0][:4])


@pytest.mark.parametrize("name", SECRETS)
def test_and_from_every_depth_of_a_document(name: str) -> None:
    text, secret = SECRETS[name]
    found = redaction.document({"status": {"lastError": {"message": text.format(secret)}}, "list": [[secret]]})
    assert secret not in str(found["status"])


def test_what_a_guest_is_given_goes_and_where_it_comes_from_stays() -> None:
    spec = {
        "guest": {
            "files": [
                {"path": "/etc/motd", "content": "welcome"},
                {"path": "/a", "contentFrom": {"name": "n", "key": "k"}},
            ],
            "firstboot": [{"name": "join", "script": "join --domain example"}],
            "sshKeys": [{"user": "root", "keys": ["ssh-ed25519 AAAA me"]}],
            "users": [{"name": "ops", "passwordHashFrom": {"name": "hashes", "key": "ops"}}],
        },
        "source": {"path": "web01.ova", "keys": [{"device": "all", "secret": {"name": "luks", "key": "passphrase"}}]},
        "annotations": {"cmdb-token": "0815", "owner": "web team"},
    }
    found = redaction.document(spec)
    assert found["guest"]["files"] == [
        {"path": "/etc/motd", "content": REMOVED},
        {"path": "/a", "contentFrom": {"name": "n", "key": "k"}},
    ]
    assert found["guest"]["firstboot"] == [{"name": "join", "script": REMOVED}]
    assert found["guest"]["sshKeys"] == [{"user": "root", "keys": [REMOVED]}]
    assert found["guest"]["users"] == spec["guest"]["users"]  # type: ignore[index]
    assert found["source"] == spec["source"]
    assert found["annotations"] == {"cmdb-token": REMOVED, "owner": "web team"}


@pytest.mark.parametrize(
    "text",
    [
        "web01-convert: copy 42 % of 1.3 GiB, 120.5 MiB/s",
        "The passphrase of /dev/sda2 is missing: give it by spec.source.keys.",
        "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "cannot reach https://vcenter.example.org/sdk: connection refused",
        "inspect → plan → fix; $HOME and $6 are no hashes",
    ],
)
def test_what_helps_stays(text: str) -> None:
    assert redaction.text(text) == text
