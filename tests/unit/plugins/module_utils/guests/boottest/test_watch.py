# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""When a boot test is decided."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.boottest.report import parse
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.boottest.watch import Outcome, Watch

BOOTED = parse("state default\ndefaultTarget multi-user.target\n")
EMERGENCY = parse("state emergency\nfailed data.mount loaded failed failed /data\n")
LOGIN = "Debian GNU/Linux 12 web01 ttyS0\n\nweb01 login: "
PANIC = "[    2.0] Kernel panic - not syncing: x\n"


def _watch(*, marker: str | None = None, expects_report: bool = True, cards: int = 0) -> Watch:
    return Watch(marker=marker, expects_report=expects_report, cards=cards, timeout=600)


def _booted(outcome: Outcome | None) -> Outcome:
    assert outcome is not None and outcome.failure is None
    return outcome


def _failed(outcome: Outcome | None) -> str:
    assert outcome is not None and outcome.failure is not None
    return outcome.failure.reason


def test_the_report_decides_at_once() -> None:
    watch = _watch()
    watch.console("booting", 1)
    assert watch.outcome("booting", 1) is None
    watch.report(BOOTED, 20)
    outcome = _booted(watch.outcome("booting", 20))
    assert outcome.marker == "the guest reported multi-user.target"
    assert outcome.seconds == 20
    assert outcome.warnings == ()


def test_failed_units_are_warnings() -> None:
    watch = _watch()
    watch.report(parse("state default\nfailed open-vm-tools.service loaded failed failed x\n"), 20)
    (warning,) = _booted(watch.outcome("", 20)).warnings
    assert "open-vm-tools.service" in warning


def test_cards_that_the_guest_does_not_see_are_a_warning() -> None:
    card = "interface ens192 00:50:56:00:00:01 virtio_net"
    for lines, seen in (("", 0), (card, 1), (f"{card}\ninterface bond0 00:50:56:00:00:01 ", 1)):
        watch = _watch(cards=2)
        watch.report(parse(f"state default\n{lines}\n"), 20)
        (warning,) = _booted(watch.outcome("", 20)).warnings
        assert f"shows {seen} of its 2 network cards" in warning
    watch = _watch(cards=1)
    watch.report(parse(f"state default\n{card}\n"), 20)
    assert _booted(watch.outcome("", 20)).warnings == ()


def test_a_login_prompt_is_not_enough_where_a_report_is_expected() -> None:
    watch = _watch()
    watch.console(LOGIN, 30)
    assert watch.outcome(LOGIN, 100) is None
    watch.report(BOOTED, 101)
    assert _booted(watch.outcome(LOGIN, 101)).warnings == ()


def test_a_report_that_never_comes_after_a_login_prompt_is_a_warning() -> None:
    watch = _watch()
    watch.console(LOGIN, 30)
    outcome = _booted(watch.outcome(LOGIN, 211))
    assert outcome.seconds == 30
    assert "default target" in outcome.warnings[0]


def test_a_login_prompt_decides_where_no_report_is_expected() -> None:
    watch = _watch(expects_report=False)
    watch.console(LOGIN, 30)
    outcome = _booted(watch.outcome(LOGIN, 30))
    assert outcome.marker == "login prompt 'web01 login:'"
    assert outcome.warnings == ()


def test_a_marker_is_demanded_whatever_else_was_seen() -> None:
    watch = _watch(marker="application ready")
    watch.console(LOGIN, 30)
    watch.report(BOOTED, 31)
    assert watch.outcome(LOGIN, 500) is None
    text = LOGIN + "\napplication ready\n"
    watch.console(text, 501)
    outcome = _booted(watch.outcome(text, 501))
    assert "application ready" in outcome.marker and outcome.seconds == 501
    assert outcome.report is BOOTED

    watch = _watch(marker="application ready")
    watch.console(LOGIN, 30)
    watch.report(BOOTED, 31)
    assert _failed(watch.outcome(LOGIN, 600)) == "MarkerNotSeen"


def test_a_definite_failure_ends_the_test_soon() -> None:
    watch = _watch()
    watch.console(PANIC, 10)
    assert watch.outcome(PANIC, 11) is None
    outcome = watch.outcome(PANIC, 12)
    assert _failed(outcome) == "KernelPanic"
    assert outcome is not None and outcome.seconds == 10


def test_emergency_mode_waits_for_the_report() -> None:
    text = "You are in emergency mode."
    watch = _watch()
    watch.console(text, 10)
    assert watch.outcome(text, 20) is None
    watch.report(EMERGENCY, 21)
    outcome = watch.outcome(text, 21)
    assert _failed(outcome) == "EmergencyMode"
    assert outcome is not None and outcome.failure is not None and "data.mount" in outcome.failure.message

    watch = _watch()
    watch.console(text, 10)
    assert _failed(watch.outcome(text, 40)) == "EmergencyMode"


def test_a_sign_that_was_a_false_alarm_is_forgotten() -> None:
    text = "dracut-initqueue[3]: Warning: dracut-initqueue timeout - starting timeout scripts\n"
    watch = _watch()
    watch.console(text, 10)
    assert watch.outcome(text, 60) is None
    text += "[ 70.0] systemd[1]: Switching root.\n"
    watch.console(text, 65)
    assert watch.outcome(text, 75) is None
    assert _failed(watch.outcome(text, 600)) == "Timeout"


def test_a_sign_seen_again_does_not_begin_anew() -> None:
    watch = _watch()
    watch.console(PANIC, 10)
    watch.console(PANIC + "---[ end Kernel panic ]---", 11.9)
    assert _failed(watch.outcome(PANIC, 12)) == "KernelPanic"


@pytest.mark.parametrize(
    ("events", "reason"),
    [
        ([{"event": "SHUTDOWN", "data": {"guest": True, "reason": "guest-shutdown"}}], "PoweredOff"),
        ([{"event": "RESET", "data": {"guest": True}}] * 4, "RebootLoop"),
        ([{"event": "BLOCK_IO_ERROR", "data": {"nospace": True}}], "LayerFull"),
    ],
)
def test_what_the_machine_tells(events: list[dict[str, t.Any]], reason: str) -> None:
    watch = _watch()
    watch.console("booting", 1)
    for event in events:
        watch.event(event, 5)
    watch.console("still booting", 6)
    assert _failed(watch.outcome("still booting", 7)) == reason


@pytest.mark.parametrize(
    "event",
    [
        {"event": "SHUTDOWN", "data": {"guest": False, "reason": "host-qmp-quit"}},
        {"event": "RESET", "data": {"guest": True}},
        {"event": "BLOCK_IO_ERROR", "data": {"nospace": False}},
        {"event": "RTC_CHANGE", "data": {"offset": 3600}},
    ],
)
def test_what_means_nothing(event: dict[str, t.Any]) -> None:
    watch = _watch()
    watch.event(event, 5)
    assert watch.outcome("", 100) is None


def test_a_guest_that_restarts_without_end_is_stopped_all_the_same() -> None:
    watch = _watch()
    for second in range(10):
        watch.event({"event": "RESET", "data": {"guest": True}}, second)
    assert _failed(watch.outcome("", 9)) == "RebootLoop"


def test_a_silent_guest_times_out() -> None:
    assert _failed(_watch().outcome("", 600)) == "SilentConsole"
