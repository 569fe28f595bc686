# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What all documents of the protocol share: their two kinds, and the types of names, digests, paths and instants."""

from __future__ import annotations

import datetime
import functools
import typing as t

from . import _pydantic as p

API_VERSION = "hyper2kvm.io/v1"
PROTOCOL_VERSION = "1.0"

_HOST_LABEL = r"[a-zA-Z0-9]([-a-zA-Z0-9]{0,61}[a-zA-Z0-9])?"


class TextType(t.NamedTuple):
    """A kind of text that documents hold."""

    name: str
    meaning: str
    """For a person; it completes "must be …"."""


#: The kinds of text, by the pattern that they obey.
TEXT_TYPES: dict[str, TextType] = {}


def _text(name: str, regex: str, meaning: str) -> str:
    TEXT_TYPES[regex] = TextType(name, meaning)
    return regex


# RFC 1123 label, as Kubernetes takes for names.
_NAME = _text(
    "name",
    r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$",
    "a DNS label: at most 63 of a-z, 0-9 and -, with a letter or digit at both ends",
)
_DIGEST = _text("digest", r"^sha256:[0-9a-f]{64}$", "sha256: and 64 hexadecimal digits in lower case")
# The lowest bit of the first octet marks a group address (IEEE 802, section 8.2), which no card may have.
_MAC = _text(
    "MAC address",
    r"^[0-9a-fA-F][02468aceACE](:[0-9a-fA-F]{2}){5}$",
    "the MAC address of one card: six pairs of hexadecimal digits with colons between them, in quotes",
)
_DEVICE = _text("device", r"^/[^\x00-\x1f\x7f]+$", "a device's absolute path without control characters")
_PATH = _text("path", r"^[^\x00-\x1f\x7f]+$", "a path without control characters")
_INSTANT_TEXT = (
    r"[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"
    r"T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,9})?(Z|\+00:00)"
)
_INSTANT = _text("instant", f"^{_INSTANT_TEXT}$", "an RFC 3339 instant in UTC")
_INSTANT_OR_EMPTY = _text("instant or empty", f"^({_INSTANT_TEXT})?$", "an RFC 3339 instant in UTC, or empty")
_LUKS_UUID = _text(
    "LUKS UUID",
    r"^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$",
    "the UUID of a LUKS container, as cryptsetup luksUUID tells it",
)
_KEY = _text("secret key", r"^[-._a-zA-Z0-9]{1,253}$", "a file name of letters, digits and -._")
_FIXER = _text(
    "fixer name",
    r"^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$",
    "a fixer's name: at most 63 of a-z, 0-9 and -, a letter first",
)
_CAPABILITY = _text(
    "capability",
    r"^[a-z]([-._a-z0-9]{0,61}[a-z0-9])?$",
    "a capability's name: at most 63 of a-z, 0-9 and -._, a letter first",
)
_REASON = _text(
    "reason",
    r"^[A-Z][A-Za-z0-9]{0,59}$",
    "the reason of an error: a CamelCase word of at most 60 letters and digits",
)
_HOSTNAME = _text("host name", rf"^{_HOST_LABEL}(\.{_HOST_LABEL})*$", "a host name, with or without its domain")
_TIMEZONE = _text("time zone", r"^[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*$", "a time zone's name like Europe/Vienna")
_USER = _text("user name", r"^[a-z_][a-z0-9_-]{0,31}$", "a user's login name")
_GUEST_PATH = _text("guest path", r"^/[^\x00-\x1f\x7f]+$", "an absolute path in the guest without control characters")
_MODE = _text("file mode", r"^0?[0-7]{3,4}$", "permission bits in octal, in quotes, like 0644")
# Kubernetes' rules for labels, so that a document may go there unchanged.
_LABEL_KEY = _text(
    "label key",
    r"^([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-_.A-Za-z0-9]{0,61}[A-Za-z0-9])?$",
    "a label's key as in Kubernetes: at most 63 of letters, digits and -_., perhaps a DNS name and / before it",
)
_LABEL_VALUE = _text(
    "label value",
    r"^([A-Za-z0-9]([-_.A-Za-z0-9]{0,61}[A-Za-z0-9])?)?$",
    "a label's value as in Kubernetes: at most 63 of letters, digits and -_.",
)
# What VMware, Hyper-V and others let people write.
_SOURCE_NETWORK = _text(
    "source network",
    r"^[^\x00-\x1f\x7f]{1,255}$",
    "the network's name in the source, at most 255 characters without control characters",
)
_NETWORK = _text("libvirt network", r"^[-_.:+@A-Za-z0-9]{1,128}$", "a libvirt network's name")
# IFNAMSIZ in linux/if.h.
_BRIDGE = _text("bridge", r"^[-_.A-Za-z0-9]{1,15}$", "a bridge's name, at most 15 of letters, digits and -_.")
_ATTACHMENT = _text(
    "network attachment",
    r"^([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?/)?[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$",
    "a NetworkAttachmentDefinition's name, perhaps its namespace and / before it",
)
_VERSION = _text("protocol version", r"^[1-9][0-9]{0,3}\.(0|[1-9][0-9]{0,3})$", "a version of the protocol, like 1.0")
_EVENT_TYPE = _text("event type", r"^io\.hyper2kvm\.job\.[a-z]+$", "io.hyper2kvm.job. and a kind of event")


def _mac(value: t.Any) -> t.Any:
    if isinstance(value, int) and not isinstance(value, bool):
        raise ValueError("must be in quotes: YAML 1.1 reads digits with colons between them as one number")
    return value.lower() if isinstance(value, str) else value


Name = t.Annotated[str, p.Field(pattern=_NAME)]
Digest = t.Annotated[str, p.Field(pattern=_DIGEST)]
# The order matters: the other way round, the pattern would not reach the JSON Schema.
Mac = t.Annotated[str, p.Field(pattern=_MAC), p.BeforeValidator(_mac)]
PathText = t.Annotated[str, p.Field(pattern=_PATH, max_length=4096)]
DevicePath = t.Annotated[str, p.Field(pattern=_DEVICE, max_length=4096)]
Instant = t.Annotated[str, p.Field(pattern=_INSTANT)]
InstantOrEmpty = t.Annotated[str, p.Field(pattern=_INSTANT_OR_EMPTY)]
SourceNetwork = t.Annotated[str, p.Field(pattern=_SOURCE_NETWORK)]
LibvirtNetwork = t.Annotated[str, p.Field(pattern=_NETWORK)]
BridgeName = t.Annotated[str, p.Field(pattern=_BRIDGE)]
AttachmentName = t.Annotated[str, p.Field(pattern=_ATTACHMENT)]
ProtocolVersion = t.Annotated[str, p.Field(pattern=_VERSION)]
EventType = t.Annotated[str, p.Field(pattern=_EVENT_TYPE)]
LuksUuid = t.Annotated[str, p.Field(pattern=_LUKS_UUID)]
SecretKey = t.Annotated[str, p.Field(pattern=_KEY)]
FixerName = t.Annotated[str, p.Field(pattern=_FIXER)]
CapabilityName = t.Annotated[str, p.Field(pattern=_CAPABILITY)]
ReasonName = t.Annotated[str, p.Field(pattern=_REASON)]
# Linux takes no longer host name (HOST_NAME_MAX in limits.h).
HostName = t.Annotated[str, p.Field(pattern=_HOSTNAME, max_length=64)]
TimeZone = t.Annotated[str, p.Field(pattern=_TIMEZONE, max_length=64)]
GuestPath = t.Annotated[str, p.Field(pattern=_GUEST_PATH, max_length=1024)]
FileMode = t.Annotated[str, p.Field(pattern=_MODE)]
UserName = t.Annotated[str, p.Field(pattern=_USER)]
LabelKey = t.Annotated[str, p.Field(pattern=_LABEL_KEY)]
LabelValue = t.Annotated[str, p.Field(pattern=_LABEL_VALUE)]
Labels = dict[LabelKey, LabelValue]
Count = t.Annotated[int, p.Field(ge=0)]
Amount = t.Annotated[float, p.Field(ge=0)]


class Document(p.BaseModel):
    """What somebody wants. Unknown fields are refused, because one that is silently ignored is a broken promise."""

    # Each task of a playbook is a new process, which reads one or two of these documents: the others need not be built.
    model_config = p.ConfigDict(
        alias_generator=p.to_camel,
        populate_by_name=True,
        extra="forbid",
        use_attribute_docstrings=True,
        defer_build=True,
    )

    def to_document(self) -> dict[str, t.Any]:
        """Return the camelCase document as JSON-able data, without fields that are unset (None)."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class Report(Document):
    """What a worker or a control plane tells. Unknown fields are skipped: a newer side may tell more.

    Text that has no UTF-8 form (a guest's file name, say) is taken with the bytes in question escaped.
    """

    model_config = p.ConfigDict(extra="ignore")

    @p.model_validator(mode="before")
    @classmethod
    def _as_utf8(cls, data: t.Any) -> t.Any:
        return _utf8(data)


def _utf8(value: t.Any) -> t.Any:
    """Return ``value`` with each text in it in a form that JSON readers take: no lone surrogate."""
    if isinstance(value, dict):
        return {_utf8(key): _utf8(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_utf8(item) for item in value]
    if not isinstance(value, str) or value.isascii():
        return value
    try:
        value.encode()
        return value
    except UnicodeEncodeError:
        pass
    try:
        raw = value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raw = value.encode("utf-8", "surrogatepass")
    return raw.decode("utf-8", "backslashreplace")


@functools.cache
def defaults(model: type[p.BaseModel]) -> dict[str, t.Any]:
    """Return the defaults of a model's fields, by their names; nobody may change them. Of a required one it is no value
    that a field could have.

    Kept, because pydantic examines a default's factory anew each time that it is asked.
    """
    return {name: field.get_default(call_default_factory=True) for name, field in model.model_fields.items()}


def duplicates(values: t.Iterable[str]) -> list[str]:
    """Return the values that come more than once, each once, in the order of their second coming."""
    seen: set[str] = set()
    again: dict[str, None] = {}
    for value in values:
        if value in seen:
            again[value] = None
        seen.add(value)
    return list(again)


def refuse_duplicates(values: t.Iterable[str], what: str) -> None:
    """Raise ValueError where a value comes more than once; ``what`` names it ("two entries for the card")."""
    again = duplicates(values)
    if again:
        raise ValueError(f"{what} {', '.join(again)}")


def timestamp(moment: datetime.datetime) -> str:
    """Return an aware ``moment`` as an RFC 3339 instant in UTC, to the millisecond."""
    return moment.astimezone(datetime.timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def moment(instant: str) -> datetime.datetime:
    """Return the aware datetime of an RFC 3339 instant in UTC; digits below a microsecond are cut off.

    Raises:
        ValueError: ``instant`` is no such text.
    """
    date, dummy, rest = instant.partition("T")
    clock, dummy, fraction = rest.replace("+00:00", "").rstrip("Z").partition(".")
    return datetime.datetime.fromisoformat(f"{date}T{clock}.{fraction[:6]:0<6}+00:00")
