# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The playbooks and the role from the built tarball, on a real queue and worker; most with an engine that pretends."""

from __future__ import annotations

import concurrent.futures
import hashlib
import os
import pathlib
import re
import time
import typing as t

from tests.e2e.playbooks import Inventory
from tests.guests import build
from tests.tools import terminal

MIGRATE = "hyper2kvm.core.migrate"

#: As docs and the collection's README show it.
OWN_PLAYBOOK = """\
- name: Move VMs to KVM
  hosts: "{{ hyper2kvm_targets | default('all:!conversion_hosts') }}"
  gather_facts: false
  roles: [hyper2kvm.core.migrate]
"""


def test_two_of_ten_fail_and_a_second_run_touches_these_two_only(inventory: Inventory) -> None:
    good = [f"vm{i}" for i in range(8)]
    inventory.add(*good)
    inventory.add("bad0", "bad1", fail="NoRootDevice")

    first = inventory.play(MIGRATE)
    assert first.status == 2, first.output
    assert all("COMPLETED" in first.row(host) for host in good)
    assert all("FAILED" in first.row(host) for host in ("bad0", "bad1"))
    assert "bad0: NoRootDevice: rehearse: The guest did not come up. Look at its console." in first.output
    assert first.recap("bad0")["failed"] == 1
    assert first.recap("vm0")["failed"] == 0 and first.recap("vm0")["changed"] == 1
    assert '"verdict": "boots"' in first.output  # handed on by set_stats
    assert len(inventory.begun()) == 10

    second = inventory.play(MIGRATE)
    assert second.status == 2
    assert inventory.begun()[10:] in (["bad0-convert", "bad1-convert"], ["bad1-convert", "bad0-convert"])
    assert all("unchanged" in second.row(host) and second.recap(host)["changed"] == 0 for host in good)


def test_a_second_run_changes_nothing_and_says_so(inventory: Inventory) -> None:
    inventory.add("web01")
    assert inventory.play(MIGRATE).status == 0
    again = inventory.play(MIGRATE)
    assert again.status == 0 and again.recap("web01")["changed"] == 0 and inventory.begun() == ["web01-convert"]


def test_parallelism_is_the_workers_slots_and_not_forks(inventory: Inventory) -> None:
    inventory.add(*(f"vm{i}" for i in range(8)), held=True)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        playing = pool.submit(inventory.play, MIGRATE, "--forks", "2", hyper2kvm_slots=4, hyper2kvm_progress_interval=1)
        while not re.search(r"^hyper2kvm: 4 running.*4 waiting", inventory.said(), re.MULTILINE):
            assert not playing.done(), inventory.said()
            time.sleep(0.1)
        inventory.release()
        played = playing.result()
    assert played.status == 0, played.output
    assert inventory.most_at_once() == 4
    assert re.search(r"^\[vm\d\] COMPLETED in .*, booted in 14 s$", played.output, re.MULTILINE), played.output


def test_a_terminal_shows_a_bar_for_each_vm_that_is_moved_and_one_for_the_batch(inventory: Inventory) -> None:
    inventory.add(*(f"vm{i}" for i in range(3)), held=True)
    command = inventory.command(MIGRATE, hyper2kvm_slots=2)
    with terminal.running(command, inventory.folder, inventory.environment, (100, 150)) as shown:
        shown.watch(lambda text: bool(re.search(r"^batch +2 running, 1 waiting", text, re.MULTILINE)), 120)
        text = shown.watch(lambda text: len(re.findall(r"^vm\d ", text, re.MULTILINE)) == 2, 120)
        assert "waiting for NoFreeSlot (1)" in text
        inventory.release()
        text = shown.watch(lambda text: "PLAY RECAP" in text, 120)
        # Nothing of the live view is left among what stays.
        assert "batch " not in text and all(
            re.search(rf"^{vm} +COMPLETED", text, re.MULTILINE) for vm in ("vm0", "vm2")
        )


def test_the_playbook_that_users_write_ends_with_a_failure(inventory: Inventory) -> None:
    playbook = inventory.folder / "own.yml"
    playbook.write_text(OWN_PLAYBOOK, encoding="utf-8")
    inventory.add("web01")
    inventory.add("bad01", fail="NoBootloader")
    played = inventory.play(playbook)
    assert played.status == 2
    assert "COMPLETED" in played.row("web01") and "FAILED" in played.row("bad01")
    assert "NoBootloader" in played.output


def test_a_bad_first_batch_of_one_does_not_keep_the_others_from_moving(inventory: Inventory) -> None:
    inventory.add("bad01", fail="NoRootDevice")
    inventory.add("web01", "web02")
    played = inventory.play(MIGRATE, hyper2kvm_serial=1)
    assert played.status == 2
    assert inventory.begun() == ["bad01-convert", "web01-convert", "web02-convert"]
    assert inventory.most_at_once() == 1


def test_a_wave_begins_when_the_one_before_it_has_ended_even_if_that_failed(inventory: Inventory) -> None:
    inventory.add("a1", "a2", group="second")
    inventory.add("b1", "b2", "b3", group="first", fail="NoRootDevice", seconds=0.2)
    inventory.add("c1", group="third")
    played = inventory.play(MIGRATE, "--limit", "!b3", hyper2kvm_waves=["first", "second"])
    assert played.status == 2
    trace = inventory.trace()
    assert sorted(trace[:4]) == ["b1-convert begin", "b1-convert end", "b2-convert begin", "b2-convert end"]
    assert sorted(inventory.begun()) == ["a1-convert", "a2-convert", "b1-convert", "b2-convert"]
    assert "COMPLETED" in played.row("a1")


def test_limit_moves_only_these(inventory: Inventory) -> None:
    inventory.add("web01", "web02", "web03")
    assert inventory.play(MIGRATE, "--limit", "web02").status == 0
    assert inventory.begun() == ["web02-convert"]


def test_each_tag_does_its_part_alone(inventory: Inventory) -> None:
    inventory.add("web01", seconds=0.5)
    inventory.add("bad01", fail="NoRootDevice", seconds=0.5)
    submitted = inventory.play(MIGRATE, "--tags", "submit")
    assert submitted.status == 0 and "COMPLETED" not in submitted.output
    waited = inventory.play(MIGRATE, "--tags", "wait")
    assert waited.status == 2 and waited.recap("web01")["failed"] == 0 and waited.recap("bad01")["failed"] == 1
    assert sorted(line for line in inventory.trace() if line.endswith(" end")) == [
        "bad01-convert end",
        "web01-convert end",
    ]
    reported = inventory.play(MIGRATE, "--tags", "report")
    assert reported.status == 2 and "COMPLETED" in reported.row("web01") and "FAILED" in reported.row("bad01")
    assert "bad01: NoRootDevice: rehearse: The guest did not come up." in reported.output
    assert '"verdict": "boots"' in reported.output  # handed on by set_stats
    assert inventory.play(MIGRATE, "--tags", "report", "--limit", "web01").status == 0
    assert sorted(inventory.begun()) == ["bad01-convert", "web01-convert"]


def test_a_report_on_a_vm_without_a_job(inventory: Inventory) -> None:
    inventory.add("web01")
    reported = inventory.play(MIGRATE, "--tags", "report")
    assert reported.status == 0 and "no job" in reported.row("web01")
    waited = inventory.play(MIGRATE, "--tags", "wait")
    assert waited.status == 2 and "There is no job web01-convert" in waited.output


def test_a_report_in_files_holds_all_batches_and_is_the_same_again(inventory: Inventory) -> None:
    inventory.add("web01", "web02")
    inventory.add("bad01", fail="NoRootDevice")
    folder = inventory.folder / "reports"
    folder.mkdir()
    files = {form: folder / f"night.{form}" for form in ("html", "csv", "xml")}
    asked = {
        "hyper2kvm_report_path": str(files["html"]),
        "hyper2kvm_report_csv": str(files["csv"]),
        "hyper2kvm_report_junit": str(files["xml"]),
        "hyper2kvm_report_title": "Night of the three",
        "hyper2kvm_serial": 1,
    }
    assert "PLAY [Report the batch]" in inventory.play(MIGRATE, "--check", **asked).output
    assert list(folder.iterdir()) == []
    played = inventory.play(MIGRATE, **asked)
    assert played.status == 2, played.output
    page = files["html"].read_text()
    assert "<title>Night of the three</title>" in page and "Look at its console." in page
    assert len(files["csv"].read_text().splitlines()) == 1 + 3
    assert files["xml"].read_text().count("<testcase") == 3
    # Each batch has printed its own.
    assert len(re.findall("^VM +result", played.output, re.MULTILINE)) == 3

    written = {path: path.stat().st_mtime_ns for path in files.values()}
    reported = inventory.play(MIGRATE, "--tags", "report", **asked)
    assert reported.status == 2 and reported.recap("web01")["changed"] == 0, reported.output
    assert {path: path.stat().st_mtime_ns for path in files.values()} == written


def test_check_mode_hands_nothing_in(inventory: Inventory) -> None:
    inventory.add("web01")
    played = inventory.play("hyper2kvm.core.inspect", "--check")
    assert played.status == 0 and played.recap("web01")["changed"] == 1
    assert not inventory.output.exists()


def test_a_rehearsal_gives_each_vm_a_verdict(inventory: Inventory) -> None:
    inventory.add("web01")
    inventory.add("bad01", fail="NoRootDevice")
    played = inventory.play("hyper2kvm.core.rehearse")
    assert played.status == 2
    assert re.search(r"^web01 +boots +booted in 14 s", played.output, re.MULTILINE)
    assert re.search(
        r"^bad01 +will not boot +NoRootDevice: The guest did not come up\. +Look at its console\.$",
        played.output,
        re.MULTILINE,
    )
    # The conversion is another job, in the same folder.
    assert inventory.play(MIGRATE, "--limit", "web01").status == 0
    assert {path.name for path in (inventory.output / "web01").iterdir()} >= {"rehearse.json", "result.json"}


def test_hosts_whose_names_collide_are_an_error(inventory: Inventory) -> None:
    inventory.add("web_01", "web-01", "db01")
    played = inventory.play(MIGRATE)
    assert played.status == 2
    assert "would both have jobs and targets named web-01" in played.output
    assert inventory.begun() == ["db01-convert"]


def test_a_surveys_blank_answers_and_texts_do_no_harm(inventory: Inventory) -> None:
    inventory.add("web01")
    survey = {
        "hyper2kvm_target_format": "raw",
        "hyper2kvm_verify_boot": "false",
        "hyper2kvm_priority": "7",
        "hyper2kvm_guest_fixers_skip": "fstab,hostname",
        "hyper2kvm_guest_ssh_keys": "ssh-ed25519 AAAA a@b\n\nssh-ed25519 BBBB c@d\n",
        **dict.fromkeys(
            (
                "hyper2kvm_conversion_host",
                "hyper2kvm_operation",
                "hyper2kvm_guest_hostname",
                "hyper2kvm_verify_timeout_seconds",
                "hyper2kvm_wait_timeout",
                "hyper2kvm_waves",
                "hyper2kvm_targets",
                "hyper2kvm_serial",
                "hyper2kvm_spec",
            ),
            "",
        ),
    }
    played = inventory.play(MIGRATE, "--diff", **survey)
    assert played.status == 0, played.output
    for said in ('"format": "raw"', '"boot": false', '"ssh-ed25519 BBBB c@d"', '"hostname"\n', '"priority": 7'):
        assert said in played.output, said


def test_a_raw_dictionary_is_merged_last(inventory: Inventory) -> None:
    spec = {"target": {"format": "raw"}, "limits": {"bandwidthBytesPerSecond": 1048576}}
    inventory.add("web01", hyper2kvm_target_format="qcow2", hyper2kvm_spec=spec)
    played = inventory.play(MIGRATE, "--diff")
    assert played.status == 0
    assert '"format": "raw"' in played.output and '"bandwidthBytesPerSecond": 1048576' in played.output


def test_rollback_takes_back_what_nobody_touched(inventory: Inventory) -> None:
    inventory.add("web01", "web02")
    assert inventory.play(MIGRATE).status == 0
    (inventory.output / "web02/web02.libvirt.xml").write_text("<changed/>", encoding="utf-8")
    seen = inventory.play("hyper2kvm.core.rollback", "--check", "--limit", "web01")
    assert seen.recap("web01")["changed"] == 1 and (inventory.output / "web01/result.json").exists()
    played = inventory.play("hyper2kvm.core.rollback")
    assert played.status == 2 and "was changed since it was published" in played.output
    assert not (inventory.output / "web01").exists() and (inventory.output / "web02/result.json").exists()
    assert inventory.play("hyper2kvm.core.rollback", "--limit", "web01").recap("web01")["changed"] == 0


def snapshot(*folders: pathlib.Path) -> dict[str, tuple[int, str]]:
    """Every file's modification time and content."""
    paths = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest()) for path in paths}


def test_check_and_diff_show_each_file_of_a_real_guest_and_alter_nothing(inventory: Inventory) -> None:
    inventory.add("web01", hyper2kvm_source_type="ova")
    source = inventory.folder / "input/web01.raw"
    source.unlink()
    os.link(build("debian12") / "debian12.ova", source)
    before = snapshot(inventory.folder)

    played = inventory.play(MIGRATE, "--check", "--diff")

    assert played.status == 0, played.output
    changed = set(re.findall(r"^(?:write|append|symlink|remove|mkdir) (/\S+):", played.output, re.MULTILINE))
    assert {"/etc/fstab", "/boot/grub/grub.cfg"} <= changed
    assert any(path.startswith("/boot/initrd.img-") for path in changed)
    assert re.search(r"^-/dev/sda1 / ext4.*\n(?:[ -].*\n)*\+UUID=\S+ / ext4", played.output, re.MULTILINE)
    after: dict[str, t.Any] = snapshot(inventory.folder)
    ours = {str(inventory.folder / name) for name in ("inventory.json", "ansible.log")}
    assert {path for path in after if before.get(path) != after[path]} == ours
    assert set(before) <= set(after)
