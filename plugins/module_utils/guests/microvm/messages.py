# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a worker and the service in a micro-VM say to each other: one JSON object a line, each of a kind named here.

What comes from the machine is as little to be trusted as the guest that it looks into: it is bounded, checked against
these types, and made harmless for a terminal where it is shown.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import json
import typing as t

from ...disks.luks import Key
from ...disks.model import Nic
from ...protocol import _pydantic as p
from ...protocol import models
from ...protocol.errors import ErrorClass, JobError, transient
from ..fixers.base import FixRequest
from ..session import Examined, Opened, Planned, Probed, UsedBlocks

#: The name of the serial port.
PORT = "org.hyper2kvm.guest"
#: A portrait and a plan with its diffs are some hundred KiB. Bytes.
LINE_LIMIT = 64 * 1024**2


@dataclasses.dataclass(frozen=True)
class Ready:
    """The service waits for requests."""


@dataclasses.dataclass(frozen=True)
class Beat:
    """The service is alive."""


@dataclasses.dataclass(frozen=True)
class Done:
    """What was asked is done."""


@dataclasses.dataclass(frozen=True)
class Instrumented:
    """The guest is prepared for a boot test."""

    reports: bool


@dataclasses.dataclass(frozen=True)
class Failure:
    """A :class:`JobError`, as it is told."""

    error_class: ErrorClass
    reason: str
    message: str
    suggestion: str = ""

    @classmethod
    def of(cls, error: JobError) -> Failure:
        """Tell of ``error``."""
        return cls(error.error_class, error.reason, error.message, error.suggestion)

    def error(self) -> JobError:
        """The error that it tells of."""
        return JobError(self.error_class, self.reason, self.message, self.suggestion)


@dataclasses.dataclass(frozen=True)
class SentKey:
    """A :class:`Key` on its way into the machine."""

    secret: str = dataclasses.field(repr=False)
    """Base64."""
    device: str
    name: str

    @classmethod
    def of(cls, key: Key) -> SentKey:
        """Send ``key``."""
        return cls(base64.b64encode(key.secret).decode(), key.device, key.name)

    def key(self) -> Key:
        """What was sent."""
        return Key(base64.b64decode(self.secret), self.device, self.name)


@dataclasses.dataclass(frozen=True)
class Probe:
    """Attach the disks and see what they hold."""

    disks: tuple[str, ...]
    """Their serial numbers, in the guest's order."""
    writable: bool
    keys: tuple[SentKey, ...] = ()
    """For its LUKS containers."""


@dataclasses.dataclass(frozen=True)
class Mount:
    """Mount the guest."""


@dataclasses.dataclass(frozen=True)
class PlanFixes:
    """Work out what is to be changed. The fields are those of :class:`FixRequest`."""

    spec: models.GuestSpec
    nics: tuple[Nic, ...]
    firmware: t.Literal["bios", "uefi"]
    source_nics: tuple[Nic, ...]
    secrets: dict[str, str]
    secure_boot: bool

    @classmethod
    def of(cls, request: FixRequest) -> PlanFixes:
        """Ask for what ``request`` says."""
        return cls(
            request.spec, request.nics, request.firmware, request.source_nics, request.secrets, request.secure_boot
        )

    def request(self) -> FixRequest:
        """What is asked for."""
        return FixRequest(self.spec, self.nics, self.firmware, self.source_nics, self.secrets, self.secure_boot)


@dataclasses.dataclass(frozen=True)
class Apply:
    """Carry the plan out."""


@dataclasses.dataclass(frozen=True)
class Instrument:
    """Prepare the guest for a boot test."""

    token: str
    emulated: bool


@dataclasses.dataclass(frozen=True)
class MapUsed:
    """Tell which blocks of the disks are in use."""

    sizes: dict[str, int]


@dataclasses.dataclass(frozen=True)
class Examine:
    """Tell how sound the filesystems are."""


@dataclasses.dataclass(frozen=True)
class Close:
    """Let go of the disks; afterwards the machine ends."""


Request = t.Union[Probe, Mount, PlanFixes, Apply, Instrument, MapUsed, Examine, Close]  # noqa: UP007 (at run time)
Answer = t.Union[Probed, Opened, Planned, Done, Instrumented, UsedBlocks, Examined]  # noqa: UP007 (at run time)
Message = t.Union[Request, Answer, Ready, Beat, Failure]  # noqa: UP007 (evaluated at run time)

_KINDS: dict[str, type[Message]] = {
    kind.__name__: kind
    for kind in (
        *(Probe, Mount, PlanFixes, Apply, Instrument, MapUsed, Examine, Close),
        *(Probed, Opened, Planned, Done, Instrumented, UsedBlocks, Examined, Ready, Beat, Failure),
    )
}


def dump(message: Message) -> bytes:
    """Return ``message`` as a line."""
    kind = type(message).__name__
    body = _adapter(kind).dump_python(message, mode="python")
    return json.dumps({"kind": kind, "body": _plain(body)}).encode() + b"\n"


def load(line: bytes) -> Message:
    """Return the message of a line.

    Raises:
        JobError: class ``transient``, it is none.
    """
    try:
        document = json.loads(line)
        message: Message = _adapter(document["kind"]).validate_python(document["body"])
        return message
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        # pydantic's error is a ValueError, and may quote what nobody shall see.
        raise transient("MicroVmTalk", "A micro-VM sent what is no message.", "Try again.") from error


@functools.cache
def _adapter(kind: str) -> t.Any:
    return p.TypeAdapter(_KINDS[kind])


def _plain(value: t.Any) -> t.Any:
    """JSON-able data, with bytes that are no UTF-8 in names of a guest escaped."""
    if isinstance(value, dict):
        return {_plain(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, p.BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, ErrorClass):
        return value.value
    if isinstance(value, str) and not value.isascii():
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return value
