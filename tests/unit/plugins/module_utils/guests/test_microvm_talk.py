# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a micro-VM and its worker say to each other, and what a machine of a hostile guest may say."""

from __future__ import annotations

import json
import pathlib

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.luks import Key
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.model import Filesystem, Nic, Partition, Volume
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.facts import GuestFacts, Mount
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.fixers.base import FixRequest
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.microvm import kernel, messages
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.session import Opened, Planned, Probed, UsedBlocks
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol import models
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.errors import JobError, unsupported

VOLUME = Volume("vg/root", "lvm", "x-y", 4096, ("/dev/vg/root",), ("disk0 partition 2",))
ROOT = Filesystem(Partition("vg/root", 0, 0, 4096), "ext4", uuid="1", volume=VOLUME)
CHANGE = models.FileChange(path="/etc/fstab", kind="write", fixer="fstab", why="w", before=None, after=None, diff="d")
REQUEST = FixRequest(
    models.GuestSpec(hostname="new"), (Nic(mac="52:54:00:00:00:01"),), "uefi", (Nic("lan"),), {"team/keys": "ssh x"}
)


@pytest.mark.parametrize(
    "message",
    [
        messages.Ready(),
        messages.Probe(("disk0",), True, (messages.SentKey.of(Key(b"\xff\n", "u", "team/disk")),)),
        Probed((ROOT,), {"disk0": 4096}, {"disk0": "own"}),
        Opened(
            GuestFacts(root=ROOT, filesystems=(ROOT,), mounts=(Mount("/dev/vg/root", "/", "ext4", "", ROOT),)), ("w",)
        ),
        messages.PlanFixes.of(REQUEST),
        Planned((CHANGE,), ("w",)),
        UsedBlocks({"disk0": [(0, 65536)]}),
        messages.Failure.of(unsupported("Encrypted", "it is encrypted", "give the key")),
    ],
)
def test_what_is_said_is_heard(message: messages.Message) -> None:
    assert messages.load(messages.dump(message).rstrip(b"\n")) == message


def test_a_request_arrives_whole() -> None:
    heard = messages.load(messages.dump(messages.PlanFixes.of(REQUEST)))
    assert isinstance(heard, messages.PlanFixes) and heard.request() == REQUEST


def test_names_that_are_no_text_are_said_all_the_same() -> None:
    facts = GuestFacts(hostname=b"h\xe9".decode("utf-8", "surrogateescape"))
    heard = messages.load(messages.dump(Opened(facts)))
    assert isinstance(heard, Opened) and heard.facts.hostname == "h\\xe9"


def test_a_key_shows_nowhere() -> None:
    sent = messages.SentKey.of(Key(b"secret"))
    assert "secret" not in repr(Key(b"secret")) and sent.secret not in repr(sent)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        b'{"kind": "Eval", "body": {}}',
        b'{"kind": "Probed"}',
        json.dumps({"kind": "Probed", "body": {"filesystems": [1], "sector_bytes": {}}}).encode(),
        json.dumps({"kind": "UsedBlocks", "body": {"ranges": {"disk0": [["a", 1]]}}}).encode(),
    ],
)
def test_what_is_no_message_is_refused(line: bytes) -> None:
    with pytest.raises(JobError) as caught:
        messages.load(line)
    assert caught.value.reason == "MicroVmTalk"


def installed(root: pathlib.Path, version: str, *modules: str) -> None:
    folder = root / "lib/modules" / version
    folder.mkdir(parents=True)
    (root / "boot").mkdir(exist_ok=True)
    (root / "boot" / f"vmlinuz-{version}").write_bytes(b"MZ")
    (folder / "modules.dep").write_text("".join(f"kernel/x/{name}.ko.zst: kernel/x/other.ko\n" for name in modules))


def test_the_newest_kernel_that_can_serve_is_taken(tmp_path: pathlib.Path) -> None:
    needed = ("virtio_pci", "virtio_blk", "virtio_console", "loop")
    with pytest.raises(JobError, match="--microvm-kernel"):
        kernel.find_kernel(tmp_path)
    for version in ("5.9.0-1", "5.10.0-1"):
        installed(tmp_path, version, *needed)
    installed(tmp_path, "6.1.0-1", *needed[:-1])
    found = kernel.find_kernel(tmp_path)
    assert found.version == "5.10.0-1"
    assert kernel.uncompressed(found) is None
