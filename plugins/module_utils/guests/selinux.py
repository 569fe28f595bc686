# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which SELinux label a file must have, by the guest's own list: what ``restorecon`` would give it.

Facts: file_contexts(5), selabel_file(5), selinux_config(5). Of lines without any pattern the last that fits counts;
then of those with one. A guest's patterns are not given to a backtracking matcher, which they could keep busy for ever:
they are simulated, in time that grows with pattern times path.
"""

from __future__ import annotations

import dataclasses
import re
import stat as st
import typing as t

from .netconfig import shell_values
from .reading import Reading

_CONFIG = "/etc/selinux/config"
_TYPES = {
    "--": st.S_IFREG,
    "-d": st.S_IFDIR,
    "-l": st.S_IFLNK,
    "-c": st.S_IFCHR,
    "-b": st.S_IFBLK,
    "-p": st.S_IFIFO,
    "-s": st.S_IFSOCK,
}
_META = re.compile(r"[.^$?*+|\[({]")
_STEM = re.compile(r"^(?:[^.^$?*+|\[({\\]|\\.)*")
_NO_LABEL = "<<none>>"
#: The policies of distributions have some 7,000.
_LINES_LIMIT = 20_000
_PATTERN_LIMIT = 1024
_PATH_LIMIT = 4096


class OddPatternError(ValueError):
    """A pattern has what is not known here."""


@dataclasses.dataclass(frozen=True)
class _Line:
    pattern: str
    type: int | None
    label: str


class Labels:
    """The list of one guest."""

    def __init__(self, tree: Reading) -> None:
        """Read the policy that the guest's configuration names; without one there are no labels."""
        policy = shell_values(tree.text(_CONFIG)).get("SELINUXTYPE", "targeted")
        folder = f"/etc/selinux/{policy}/contexts/files"
        names = ("file_contexts", "file_contexts.homedirs", "file_contexts.local")
        lines = [line for name in names for line in tree.text(f"{folder}/{name}").splitlines()]
        if len(lines) > _LINES_LIMIT:
            lines = []
        self._exact: dict[str, list[_Line]] = {}
        self._patterns: list[tuple[str, _Line]] = []
        for line in filter(None, map(_parse, lines)):
            stem = re.sub(r"\\(.)", r"\1", t.cast(re.Match[str], _STEM.match(line.pattern))[0])
            if _META.search(re.sub(r"\\.", "", line.pattern)):
                # A star after a character takes that off the stem.
                self._patterns.append((stem[:-1], line))
            else:
                self._exact.setdefault(stem, []).append(line)
        aliases = [tree.text(f"{folder}/{name}") for name in ("file_contexts.subs_dist", "file_contexts.subs")]
        self._aliases = [words for text in aliases for line in text.splitlines() if len(words := line.split()) == 2]

    def of(self, path: str, mode: int) -> str | None:
        """Return the label of a file by its path and type; None where the list has none for it."""
        for alias, real in self._aliases:
            if path == alias or path.startswith(f"{alias}/"):
                path = real + path[len(alias) :]
                break
        if len(path) > _PATH_LIMIT:
            return None
        for line in reversed(self._exact.get(path, [])):
            if line.type in (None, st.S_IFMT(mode)):
                return None if line.label == _NO_LABEL else line.label
        for stem, line in reversed(self._patterns):
            if path.startswith(stem) and line.type in (None, st.S_IFMT(mode)) and _fits(line.pattern, path):
                return None if line.label == _NO_LABEL else line.label
        return None

    def __bool__(self) -> bool:
        return bool(self._exact or self._patterns)


def _parse(line: str) -> _Line | None:
    words = line.split()
    if not words or words[0].startswith("#") or len(words) not in (2, 3):
        return None
    if len(words) == 3 and words[1] not in _TYPES:
        return None
    return _Line(words[0], _TYPES[words[1]] if len(words) == 3 else None, words[-1])


def _fits(pattern: str, path: str) -> bool:
    try:
        return matches(pattern, path)
    except OddPatternError:
        return False


# -- patterns ----------------------------------------------------------------------------------------------------------

# A pattern is a program: what to do at each place, and where to go on (Thompson's construction).
_Test = t.Callable[[str], bool]


@dataclasses.dataclass
class _State:
    test: _Test | None = None
    """None: goes on without a character."""
    to: list[int] = dataclasses.field(default_factory=list)


class _Compiler:
    """Pattern to states. Knows characters, classes, groups, alternatives, and how often; no references, no looking."""

    def __init__(self, pattern: str) -> None:
        if len(pattern) > _PATTERN_LIMIT:
            raise OddPatternError(pattern)
        self._text = pattern
        self._at = 0
        self.states: list[_State] = []

    def compile(self) -> tuple[int, int]:
        begin, end = self._alternatives()
        if self._at < len(self._text):
            raise OddPatternError(self._text)
        return begin, end

    def _new(self, test: _Test | None = None) -> int:
        if len(self.states) > 8 * _PATTERN_LIMIT:
            raise OddPatternError(self._text)
        self.states.append(_State(test))
        return len(self.states) - 1

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _take(self) -> str:
        self._at += 1
        return self._text[self._at - 1 : self._at]

    def _alternatives(self) -> tuple[int, int]:
        begin, end = self._new(), self._new()
        while True:
            first, last = self._sequence()
            self.states[begin].to.append(first)
            self.states[last].to.append(end)
            if self._peek() != "|":
                return begin, end
            self._take()

    def _sequence(self) -> tuple[int, int]:
        begin = end = self._new()
        while self._peek() not in ("", "|", ")"):
            where = self._at
            first, last = self._atom()
            text = self._text[where : self._at]
            first, last = self._repeated(first, last, text)
            self.states[end].to.append(first)
            end = last
        return begin, end

    def _repeated(self, first: int, last: int, text: str) -> tuple[int, int]:
        mark = self._peek()
        if mark not in ("?", "*", "+", "{"):
            return first, last
        least, most = {"?": (0, 1), "*": (0, None), "+": (1, None)}.get(mark, (0, None))
        if mark == "{":
            bounds = re.match(r"\{(\d{1,2})(?:(,)(\d{0,2}))?\}", self._text[self._at :])
            if bounds is None:
                raise OddPatternError(self._text)
            least = int(bounds[1])
            most = least if not bounds[2] else int(bounds[3]) if bounds[3] else None
            self._at += bounds.end()
        else:
            self._take()
        if most == 0:
            raise OddPatternError(self._text)
        if self._peek() in ("?", "+"):
            # Lazy and possessive: the same paths fit as a whole.
            self._take()
        begin = end = self._new()
        for count in range(max(least, 1 if most is None else most, 1)):
            one = (first, last) if count == 0 else self._again(text)
            if count >= least:
                self.states[end].to.append(one[1])
            self.states[end].to.append(one[0])
            end = one[1]
            if most is None and count == max(least, 1) - 1:
                self.states[end].to.append(one[0])
        final = self._new()
        self.states[end].to.append(final)
        if least == 0:
            self.states[begin].to.append(final)
        return begin, final

    def _again(self, text: str) -> tuple[int, int]:
        """A further copy of what ``text`` describes."""
        keep_text, keep_at = self._text, self._at
        self._text, self._at = text, 0
        made = self._atom()
        self._text, self._at = keep_text, keep_at
        return made

    def _atom(self) -> tuple[int, int]:
        char = self._take()
        if char == "(":
            if self._text[self._at : self._at + 2] == "?:":
                self._at += 2
            elif self._peek() == "?":
                raise OddPatternError(self._text)
            found = self._alternatives()
            if self._take() != ")":
                raise OddPatternError(self._text)
            return found
        if char in ("*", "+", "?", "{"):
            raise OddPatternError(self._text)
        if char in ("^", "$"):
            # The whole path must fit anyway.
            only = self._new()
            return only, only
        begin, end = self._new(self._character(char)), self._new()
        self.states[begin].to.append(end)
        return begin, end

    def _character(self, char: str) -> _Test:
        if char == ".":
            return lambda c: c != "\n"
        if char == "[":
            return self._class()
        if char == "\\":
            char = self._take()
            known: dict[str, _Test] = {"d": str.isdigit, "w": lambda c: c.isalnum() or c == "_", "s": str.isspace}
            if char.lower() in known:
                test = known[char.lower()]
                return test if char.islower() else lambda c: not test(c)
            if char.isalnum() or not char:
                raise OddPatternError(self._text)
        return lambda c: c == char

    def _class(self) -> _Test:
        end = re.match(r"\^?\]?(?:\[:\w+:\]|\\.|[^\]\\])*\]", self._text[self._at :])
        if end is None:
            raise OddPatternError(self._text)
        body = end[0][:-1]
        self._at += end.end()
        negated = body.startswith("^")
        names = {"alpha": str.isalpha, "digit": str.isdigit, "alnum": str.isalnum, "lower": str.islower}
        tests: list[_Test] = [t.cast(_Test, names[n]) for n in re.findall(r"\[:(\w+):\]", body) if n in names]
        items = re.findall(r"\\?(.)-\\?(.)|\\?(.)", re.sub(r"\[:\w+:\]", "", body[negated:]), re.DOTALL)
        ranges = [(low or one, high or one) for low, high, one in items]
        return lambda c: (any(low <= c <= high for low, high in ranges) or any(test(c) for test in tests)) != negated


def matches(pattern: str, path: str) -> bool:
    """Whether the whole of ``path`` fits a pattern of file_contexts.

    Raises:
        OddPatternError: the pattern has what is not known here.
    """
    compiler = _Compiler(pattern)
    begin, end = compiler.compile()
    states = compiler.states
    now = _closure(states, {begin})
    for char in path:
        step = {
            to for index in now if (test := states[index].test) is not None and test(char) for to in states[index].to
        }
        if not step:
            return False
        now = _closure(states, step)
    return end in now


def _closure(states: list[_State], found: set[int]) -> set[int]:
    """Return what can be reached without a character."""
    todo = list(found)
    while todo:
        state = states[todo.pop()]
        if state.test is None:
            fresh = [to for to in state.to if to not in found]
            found.update(fresh)
            todo += fresh
    return found
