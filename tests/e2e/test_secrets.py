# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Secrets are fed through every input that takes one, and looked for in everything that comes out."""

from __future__ import annotations

import collections.abc as c
import contextlib
import json
import os
import pathlib
import subprocess
import sys
import threading
import typing as t

import pytest

from tests.e2e.migration import REPOSITORY, ConversionHost, job
from tests.e2e.playbooks import Inventory
from tests.guests import build
from tests.tools.machine import text

#: In every secret, and nowhere else.
MARK = "CANARY"
_KEY = f"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA{MARK} ops@example"
SECRETS = {
    "hash": f"$6$salt{MARK}$0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789abcdefghijklmn",
    "keys": _KEY,
    "config": f"password = {MARK}\n",
    "script": f"#!/bin/sh\necho {MARK} | some-agent --login\n",
    "disk": f"passphrase {MARK}\n",
}


def _reference(key: str) -> dict[str, str]:
    return {"name": "vm", "key": key}


#: What a guest is to get of them, in a module's options.
GUEST = {
    "users": [{"name": "ops", "password_hash_from": _reference("hash")}],
    "ssh_keys": [{"user": "root", "keys_from": _reference("keys")}],
    "files": [{"path": "/etc/agent.conf", "content_from": _reference("config"), "mode": "0600"}],
    "firstboot": [{"name": "agent", "script_from": _reference("script")}],
}


@pytest.fixture
def secrets(tmp_path: pathlib.Path) -> pathlib.Path:
    """A secrets root with everything that the guest is to get."""
    root = tmp_path / "secrets"
    (root / "vm").mkdir(parents=True)
    for key, value in SECRETS.items():
        (root / "vm" / key).write_text(value, encoding="utf-8")
    return root


@contextlib.contextmanager
def _seen_processes() -> c.Iterator[set[str]]:
    """Collect the command lines and environments of all processes."""
    seen: set[str] = set()
    over = threading.Event()

    def look() -> None:
        # Often enough for a program of a few milliseconds to be seen in one of its many runs.
        while not over.wait(0.02):
            for process in pathlib.Path("/proc").glob("[0-9]*"):
                seen.update((text(process / "cmdline"), text(process / "environ")))

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield seen
    finally:
        over.set()
        watcher.join()


def _told(folder: pathlib.Path) -> dict[pathlib.Path, bytes]:
    """Every file of a run but the guest's own disks and the secrets themselves."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    apart = {folder / "secrets", folder / "input"}
    return {
        path: path.read_bytes()
        for path in files
        if not apart & set(path.parents) and path.suffix not in (".qcow2", ".raw")
    }


def test_a_playbook_tells_no_secret(tmp_path: pathlib.Path, installed: pathlib.Path, secrets: pathlib.Path) -> None:
    inventory = Inventory(tmp_path, installed)
    inventory.add_export(
        "web", build("debian12") / "debian12.ova", **{f"hyper2kvm_guest_{k}": v for k, v in GUEST.items()}
    )
    reports = {name: str(tmp_path / f"report.{name}") for name in ("html", "csv", "xml")}
    with _seen_processes() as seen:
        played = inventory.play(
            "hyper2kvm.core.migrate",
            "-vvv",
            "--diff",
            hyper2kvm_secrets_root=str(secrets),
            hyper2kvm_verify_boot=False,
            hyper2kvm_verify_rehearse="never",
            hyper2kvm_report_path=reports["html"],
            hyper2kvm_report_csv=reports["csv"],
            hyper2kvm_report_junit=reports["xml"],
        )
    assert played.status == 0, played.output
    told = _told(tmp_path)
    assert {pathlib.Path(path) for path in reports.values()} <= set(told)
    assert any(path.name == "queue.db" for path in told) and any(path.suffix == ".jsonl" for path in told)
    assert not [str(path) for path, content in told.items() if MARK.encode() in content]
    assert any("hyper2kvm-worker" in line for line in seen)
    assert not [line for line in seen if MARK in line]
    # It did arrive where it was to go, or nothing of this would say anything.
    (disk,) = (tmp_path / "output").rglob("*.qcow2")
    flat = tmp_path / "flat"
    subprocess.run(["qemu-img", "convert", "-O", "raw", disk, flat], check=True)
    content = flat.read_bytes()
    flat.unlink()
    assert all(value.strip().encode() in content for key, value in SECRETS.items() if key != "disk")


def camel(guest: dict[str, t.Any]) -> dict[str, t.Any]:
    """The same, as a job document has it."""
    names = {"password_hash_from": "passwordHashFrom", "keys_from": "keysFrom", "content_from": "contentFrom"}
    names |= {"script_from": "scriptFrom", "ssh_keys": "sshKeys"}
    return t.cast("dict[str, t.Any]", json.loads(_renamed(json.dumps(guest), names)))


def _renamed(document: str, names: dict[str, str]) -> str:
    for old, new in names.items():
        document = document.replace(f'"{old}"', f'"{new}"')
    return document


@pytest.mark.parametrize("broken", ["hash", "keys", "config", "script"])
def test_an_error_about_a_secret_does_not_show_it(
    broken: str, host: ConversionHost, tmp_path: pathlib.Path, secrets: pathlib.Path
) -> None:
    """Secrets that are not what they should be; with the logs that containers have, and with metrics."""
    content = {
        "hash": f"plain text {MARK}",
        "keys": f"-----BEGIN OPENSSH PRIVATE KEY-----\n{MARK}\n",
        "config": f"{MARK}\0\xff",
        "script": f"{MARK}\udcff",
    }[broken]
    (secrets / "vm" / broken).write_text(content, encoding="utf-8", errors="surrogateescape")
    host.add(build("tiny") / "tiny.ova", "vm.ova")
    source = {"type": "ova", "path": "vm.ova", "keys": [{"secret": _reference("disk")}]}
    document = job("vm", "", verify={"boot": False, "rehearse": "never"}, guest=camel(GUEST))
    document["spec"]["source"] = source
    (tmp_path / "vm.json").write_text(json.dumps(document), encoding="utf-8")
    host.command("submit", tmp_path / "vm.json")
    metrics = tmp_path / "worker.prom"
    roots = {
        "HYPER2KVM_INPUT_ROOT": str(host.input),
        "HYPER2KVM_OUTPUT_ROOT": str(host.output),
        "HYPER2KVM_SECRETS_ROOT": str(secrets),
    }
    command = [sys.executable, REPOSITORY / "scripts/hyper2kvm-worker", "run", "--once", "--log-format", "json"]
    with (tmp_path / "worker.log").open("wb") as log, _seen_processes() as seen:
        subprocess.run(
            [*command, "--metrics-textfile", metrics], env={**os.environ, **roots}, stdout=log, stderr=log, check=False
        )
    for name in ("status", "events", "explain"):
        (tmp_path / f"{name}.txt").write_text(
            host.command(name, "vm", ok=False) if name != "events" else host.command(name)
        )
    assert '"job": "vm"' in text(tmp_path / "worker.log")
    assert not [str(path) for path, found in _told(tmp_path).items() if MARK.encode() in found]
    assert not [line for line in seen if MARK in line]


@pytest.mark.parametrize(
    "spec",
    [
        {"guest": {"users": [{"name": "ops", "passwordHashFrom": f"$6${MARK}"}]}},
        {"guest": {"users": [{"name": "ops", "passwordHash": f"$6${MARK}"}]}},
        {"guest": {"users": [{"name": "ops", "passwordHashFrom": {"name": "vm", "key": f"../{MARK}"}}]}},
        {"guest": {"users": [{"name": "ops", "passwordHashFrom": {"name": "vm", "key": "hash", "value": MARK}}]}},
        {"source": {"path": "vm.ova", "keys": [MARK]}},
        {"source": {"path": "vm.ova", "keys": [{"secret": MARK}]}},
        {"source": {"path": "vm.ova", "keys": [{"secret": {"name": "vm", "key": "disk"}, "passphrase": MARK}]}},
        {"guest": {"files": [{"path": "/etc/a", "contentFrom": [MARK]}]}},
        {"guest": {"firstboot": [{"name": "a", "scriptFrom": f"echo {MARK}"}]}},
    ],
)
def test_a_secret_where_its_name_should_be_is_not_shown(
    spec: dict[str, t.Any], host: ConversionHost, tmp_path: pathlib.Path
) -> None:
    document = job("vm", "vm.ova", **{key: value for key, value in spec.items() if key != "source"})
    document["spec"] |= spec
    (tmp_path / "vm.json").write_text(json.dumps(document), encoding="utf-8")
    command = [sys.executable, REPOSITORY / "scripts/hyper2kvm-worker", "submit", tmp_path / "vm.json"]
    roots = {"HYPER2KVM_INPUT_ROOT": str(host.input), "HYPER2KVM_OUTPUT_ROOT": str(host.output)}
    done = subprocess.run(command, env={**os.environ, **roots}, capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "spec." in done.stderr
    assert MARK not in done.stdout + done.stderr
