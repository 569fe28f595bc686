# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Typing passphrases where a guest asks for them."""

from __future__ import annotations

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.boottest.diagnosis import find_failure
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.boottest.passphrase import Typist

PROMPTS = (
    "Please unlock disk cryptlvm: ",
    "Please enter passphrase for disk VMware_Virtual_S (luks-1111)::",
    "Please enter passphrase for disk QEMU (root): (press TAB for no echo) ",
    "Enter passphrase for /dev/vda3: ",
    "Enter passphrase for hd0,gpt2 (1111): ",
    "Password (/dev/vda2): ",
)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_each_initramfs_prompt_is_answered_once(prompt: str) -> None:
    typist = Typist([b"secret\n"])
    console = f"[    2.1] sd 0:0:0:0\n{prompt}"
    assert typist.answer(console) == b"secret\n"
    assert typist.answer(console) == b""
    # Asked again: it was refused, and is typed as often as a person would.
    assert typist.answer(f"{console}\nNo key available with this passphrase.\n{prompt}") == b"secret\n"


def test_nothing_is_typed_where_nobody_asks() -> None:
    typist = Typist([b"secret"])
    assert typist.answer("Please unlock disk cryptlvm: \ncryptlvm set up successfully\nweb01 login: ") == b""
    assert Typist([]).answer(PROMPTS[0]) == b""
    # A key file's bytes cannot be typed.
    assert Typist([b"\xff\xfe", b"two\nlines"]).answer(PROMPTS[0]) == b""


def test_keys_take_turns_and_end() -> None:
    typist = Typist([b"one", b"two"])
    typed = [typist.answer(f"{'.' * count}\n{PROMPTS[0]}") for count in range(8)]
    assert typed == [b"one\n", b"two\n"] * 3 + [b"", b""]


def test_a_guest_that_works_on_the_answer_does_not_wait() -> None:
    typist = Typist([b"secret"])
    assert find_failure(typist.unanswered(PROMPTS[0])) is not None
    typist.answer(PROMPTS[0])
    assert find_failure(typist.unanswered(PROMPTS[0])) is None


def test_what_a_guest_echoes_is_hidden() -> None:
    assert "secret" not in Typist([b"secret"]).hide("Please unlock disk x: secret\n")
