# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Changed inputs for every reader of attackers' data: ``python -m tests.hostile.fuzz --inputs 100000``.

Each target runs in a process of its own, with bounds on the time of an input and on memory. An input that is neither
taken nor refused as documented is made smaller, printed, and kept in ``cases/``, where later test runs try it again.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import os
import pathlib
import random
import re
import resource
import signal
import sys
import time
import traceback
import types
import typing as t

import hypothesis
from hypothesis import strategies as st

from tests.hostile.targets import TARGETS, Target, case_folder, close_scratch

#: What reading one small input may take of the processor; far more than the slowest takes. Seconds.
_INPUT_SECONDS = 10.0
#: What a target's process may take of memory beyond what it has at its start. Bytes.
_MEMORY = 512 * 1024**2
_BOUNDARIES = (
    0,
    1,
    2,
    7,
    8,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    (1 << 63) - 1,
    1 << 63,
)
_WORDS = re.compile(rb"[A-Za-z0-9_./=:-]{2,}|[^A-Za-z0-9\s]")
_PIECES = (
    *(
        b"\0",
        b"\n",
        b"\r",
        b"\x1b]0;x\x07",
        b"\xff\xfe",
        b"\xed\xa0\x80",
        b"../../../etc/passwd",
        b"/etc/passwd",
        b"%s",
        b"\\",
    ),
    *(
        b"json:{}",
        b"nbd://h/x",
        b"9" * 40,
        b"-1",
        b"1e999",
        b"<!DOCTYPE x>",
        b"&x;",
        b"\xe2\x80\xae",
        b"\\000",
        b"'",
        b'"',
    ),
    *(b"*", b"[", b"{", b"]", b"}", b"$x", b"!!int ''", b"&a [*a]", b"a" * 300, b" " * 300),
)


class TooSlow(BaseException):
    """An input took more of the processor than it may; no handler of the program may swallow this."""


class Outcome(t.NamedTuple):
    """What a campaign on one target saw."""

    inputs: int
    failure: str
    """A traceback; empty: none."""
    case: bytes | None
    """The shrunk input that failed."""


def inputs(seeds: t.Sequence[bytes]) -> st.SearchStrategy[Input]:
    """Inputs near ``seeds``: hypothesis draws which and how, one number each, as it takes a millisecond a draw."""
    words = sorted({word for seed in seeds if len(seed) < 65536 for word in _WORDS.findall(seed[:8192])})
    pieces = [*_PIECES, *words]

    def make(seed: bytes, number: int) -> Input:
        chance = random.Random(number)
        return Input(seed, tuple(_edit(chance, pieces) for dummy in range(chance.randrange(7))))

    return st.builds(make, st.sampled_from([*seeds, b""]), st.integers(0, (1 << 64) - 1))


@dataclasses.dataclass(frozen=True)
class Edit:
    """One change of an input."""

    kind: t.Literal["over", "insert", "cut", "repeat", "end"]
    place: float
    near: bool
    """Whether ``place`` is within the first 4 KiB, where headers and tables are, or anywhere."""
    piece: bytes
    size: int


@dataclasses.dataclass(frozen=True)
class Input:
    """A seed and what is changed in it."""

    seed: bytes
    edits: tuple[Edit, ...]

    def bytes(self) -> bytes:
        """The input itself."""
        data = self.seed
        for edit in self.edits:
            at = int(edit.place * (min(len(data), 4096) if edit.near else len(data)))
            if edit.kind == "over":
                data = data[:at] + edit.piece + data[at + len(edit.piece) :]
            elif edit.kind == "insert":
                data = data[:at] + edit.piece + data[at:]
            elif edit.kind == "cut":
                data = data[:at] + data[at + edit.size :]
            elif edit.kind == "repeat":
                data = data[:at] + data[at : at + edit.size] * 9 + data[at:]
            else:
                data = data[:at]
        return data

    def smaller(self) -> t.Iterator[Input]:
        """The same with one change less."""
        for index in range(len(self.edits)):
            yield dataclasses.replace(self, edits=self.edits[:index] + self.edits[index + 1 :])


def _edit(chance: random.Random, pieces: list[bytes]) -> Edit:
    kinds: list[t.Any] = ["over", "over", "over", "insert", "insert", "cut", "repeat", "end"]
    way = chance.randrange(3)
    if way == 0:
        piece = chance.choice(pieces)
    elif way == 1:
        piece = chance.randbytes(chance.randint(1, 8))
    else:
        size, value = chance.choice((1, 2, 4, 8)), chance.choice((*_BOUNDARIES, chance.getrandbits(64)))
        piece = (value & ((1 << 8 * size) - 1)).to_bytes(size, chance.choice(("little", "big")))
    return Edit(
        chance.choice(kinds), chance.random(), chance.random() < 0.5, piece, chance.choice((1, 8, 64, 512, 4096))
    )


def attack(target: Target, count: int) -> Outcome:
    """Try ``count`` inputs on a target, in this process."""
    seen = 0
    failed: list[Input] = []

    @hypothesis.settings(
        max_examples=count,
        deadline=None,
        database=None,
        print_blob=False,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(inputs(target.seeds()))
    def campaign(found: Input) -> None:
        nonlocal seen
        seen += 1
        if _failure(target, found.bytes()):
            failed.append(found)
            raise AssertionError("an input failed")

    with contextlib.suppress(AssertionError):
        campaign()
    if not failed:
        return Outcome(seen, "", None)
    case = failed[0]
    while smaller := next((one for one in case.smaller() if _failure(target, one.bytes())), None):
        case = smaller
    return Outcome(seen, _failure(target, case.bytes()), case.bytes())


def _failure(target: Target, data: bytes) -> str:
    """The traceback of reading ``data``; empty where it is taken, or refused as documented."""
    try:
        with _bounded_time():
            target.check(data)
    except (Exception, TooSlow):
        return traceback.format_exc()
    return ""


@contextlib.contextmanager
def _bounded_time() -> t.Iterator[None]:
    def late(_number: int, _frame: types.FrameType | None) -> None:
        raise TooSlow

    before = signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, _INPUT_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def bound_memory() -> None:
    """Let this process take no more than ``_MEMORY`` beyond what it has now."""
    for line in pathlib.Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmData:"):
            limit = int(line.split()[1]) * 1024 + _MEMORY
            resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.getrlimit(resource.RLIMIT_DATA)[1]))


def keep(name: str, case: bytes) -> pathlib.Path:
    """Keep an input that failed."""
    folder = case_folder(name)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / hashlib.sha256(case).hexdigest()[:12]
    path.write_bytes(case)
    return path


def _in_child(name: str, count: int) -> tuple[int, int]:
    """Attack one target in a fork; returns inputs and 0, or the status of a child that failed."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 2
        try:
            os.close(reading)
            bound_memory()
            outcome = attack(TARGETS[name], count)
            close_scratch()
            os.write(writing, str(outcome.inputs).encode())
            status = 0
            if outcome.failure:
                status = 1
                kept = keep(name, outcome.case) if outcome.case is not None else None
                print(f"{name}: FAILED; the input is kept as {kept}\n{outcome.failure}", flush=True)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    return int(text or 0), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def main() -> int:
    """Run a campaign over all targets."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--inputs", type=int, default=100_000, help="how many in all")
    parser.add_argument("--target", choices=sorted(TARGETS), action="append", help="only this one")
    options = parser.parse_args()
    names = options.target or list(TARGETS)
    shares = sum(TARGETS[name].share for name in names)
    total = failures = 0
    for name in names:
        began = time.monotonic()
        seen, status = _in_child(name, -(-options.inputs * TARGETS[name].share // shares))
        total += seen
        failures += status != 0
        print(f"{name}: {seen} inputs, {time.monotonic() - began:.0f} s{'' if status == 0 else ', FAILED'}", flush=True)
    print(f"{total} inputs, {failures} of {len(names)} targets failed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
