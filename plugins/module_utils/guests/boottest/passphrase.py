# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Typing the passphrases of a guest's encrypted disks where it asks for one, as a person would on its console.

The guest is converted as it is: nothing unlocks it but what its owner types. The boot test is given the job's keys for
that; they go to the guest's own prompt and to no file.
"""

from __future__ import annotations

import re
import typing as t

#: cryptsetup-initramfs: "Please unlock disk cryptroot: "; systemd: "Please enter passphrase for disk … :"; dracut:
#: "Password (/dev/vda3): "; cryptsetup and GRUB: "Enter passphrase for …: ". At the console's very end: it waits.
_PROMPT = re.compile(
    r"(?i)(?:please unlock disk [^\n:]+|enter passphrase for [^\n]+?|password \([^\n)]+\)):+ ?(?:\([^)\n]*\) ?)?\Z"
)
#: How often a passphrase is typed, for each that there is: what nobody accepts is not typed for ever.
_TRIES = 3
#: How much of the console's end tells one prompt from the next. Characters.
_WINDOW = 4096


def asks_for_passphrase(console: str) -> bool:
    """Whether a guest waits for the passphrase of a disk at the end of its console."""
    return _PROMPT.search(console) is not None


class Typist:
    """Knows the passphrases, and what was typed already."""

    def __init__(self, secrets: t.Iterable[bytes]) -> None:
        """Take those that can be typed: one line of text."""
        lines = [secret.removesuffix(b"\n") for secret in secrets]
        self._lines = [line for line in lines if line and _is_text(line)]
        self._typed = 0
        self._answered: set[str] = set()
        self._seen = ""

    def answer(self, console: str) -> bytes:
        """Return what to type now, given the end of what the console shows; empty: nothing."""
        shown = _PROMPT.search(console)
        if shown is None:
            self._seen = ""
            return b""
        # The same prompt is answered once; the next one is behind other text.
        if self._seen == console[-_WINDOW:] or self._typed >= _TRIES * len(self._lines):
            return b""
        self._seen = console[-_WINDOW:]
        self._answered.add(shown[0])
        line = self._lines[self._typed % len(self._lines)]
        self._typed += 1
        return line + b"\n"

    def unanswered(self, console: str) -> str:
        """Return ``console`` without the prompts that were answered: the guest works on them, it does not wait.

        A guest asks again, in the same words, for what it did not accept; where nothing is left to be typed, it waits.
        """
        if self._typed < _TRIES * len(self._lines) or _PROMPT.search(console) is None:
            for prompt in self._answered:
                console = console.replace(prompt, "")
        return console

    def hide(self, text: str) -> str:
        """Return ``text`` without any passphrase that a guest may have echoed."""
        for line in self._lines:
            text = text.replace(line.decode(), "********")
        return text


def _is_text(line: bytes) -> bool:
    try:
        return line.decode().isprintable()
    except UnicodeDecodeError:
        return False
