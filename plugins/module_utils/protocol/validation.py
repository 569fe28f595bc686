# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Reading job documents: text to data, data to a checked :class:`models.MigrationJob`, and how two jobs differ."""

from __future__ import annotations

import difflib
import hashlib
import json
import types
import typing as t

from . import _pydantic as p
from . import fields, models
from .errors import JobError, environment, invalid

#: Job documents are written by people; anything longer is a mistake or an attack. Bytes.
MAX_DOCUMENT_BYTES = 1024 * 1024

#: The minor version of the protocol that brought a field of the spec, by its path (``spec.source.disks[].path``), for
#: those that 1.0 does not have. Whoever adds a field adds it here, so that no older worker is given it.
FIELDS_SINCE: dict[str, str] = {}

_SUGGESTION = "Correct the document; schemas/migration-job.json and docs/worker/PROTOCOL_SPEC.md list every field."
_SHOWN = 60
_MAX_PROBLEMS = 20
#: Fields that differ between two documents without asking for another result: ``force`` is a permission.
_NOT_COMPARED = frozenset({"spec.target.force", *(f"spec.{name}" for name in models.MUTABLE_SPEC_FIELDS)})


class Problem(t.NamedTuple):
    """One thing that is wrong with a document."""

    field: str
    """Where: ``spec.target.format``, ``spec.source.disks[1].path``; empty for the document itself."""
    message: str
    """What, for a person, without the field's name."""

    def __str__(self) -> str:
        return f"{self.field}: {self.message}" if self.field else self.message


def parse_job(document: t.Mapping[str, t.Any] | bytes | str) -> models.MigrationJob:
    """Return the job that a document describes: data, or JSON or YAML text. Fields may be camelCase or snake_case.

    Raises:
        JobError: (invalid, ``InvalidDocument``) every problem with its field's path; (environment) YAML text where
            PyYAML is missing, or pydantic is.
    """
    if not p.HAS_PYDANTIC:
        raise environment(
            "MissingLibrary", "Job documents are checked with pydantic, which this Python lacks.", "Install pydantic 2."
        )
    data = load_document(document) if isinstance(document, (bytes, str)) else document
    if not isinstance(data, t.Mapping):
        raise _refusal([Problem("", f"a job document is a mapping, not {_kind(data)}")])
    try:
        return models.MigrationJob.model_validate(_to_camel(models.MigrationJob, data))
    except p.ValidationError as error:
        raise _refusal(_problems(models.MigrationJob, error)) from None
    except RecursionError:
        raise _refusal([Problem("", "it is nested too deeply")]) from None


def find_problems(document: t.Mapping[str, t.Any] | bytes | str) -> list[Problem]:
    """Return what is wrong with a job document; empty if nothing is.

    Raises:
        JobError: (environment) as :func:`parse_job`.
    """
    try:
        parse_job(document)
    except JobError as error:
        problems = (error.details or {}).get("problems")
        if problems is None:
            raise
        return [Problem(**problem) for problem in problems]
    return []


def load_document(text: bytes | str) -> t.Any:
    """Return the data of JSON or YAML text.

    YAML is read by the core schema of YAML 1.2 (yaml.org/spec/1.2.2, 10.3), by which neither ``no`` nor an unquoted MAC
    address is something else than text. Anchors and aliases are refused, as is a key that comes twice.

    Raises:
        JobError: (invalid, ``InvalidDocument``) the text is neither; (environment) YAML where PyYAML is missing.
    """
    raw = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    if len(raw) > MAX_DOCUMENT_BYTES:
        raise _refusal([Problem("", f"it is longer than {MAX_DOCUMENT_BYTES} bytes")])
    try:
        decoded = raw.decode("utf-8-sig")
        if decoded.lstrip()[:1] in ("{", "["):
            return json.loads(decoded, object_pairs_hook=_distinct, parse_constant=_no_constant)
        from . import yaml_text

        return yaml_text.load(decoded)
    except UnicodeDecodeError:
        raise _refusal([Problem("", "it is not UTF-8 text")]) from None
    except RecursionError:
        raise _refusal([Problem("", "it is nested too deeply")]) from None
    except ValueError as error:
        raise _refusal([Problem("", f"it can be read neither as JSON nor as YAML: {error}")]) from None


def snake_to_document(options: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """Return a camelCase job document of snake_case ``options``; what is None is left out. Nothing is checked yet."""
    return t.cast("dict[str, t.Any]", _without_none(_to_camel(models.MigrationJob, options)))


def spec_digest(spec: models.JobSpec) -> str:
    """Return the digest of what ``spec`` asks for: equal specs, however written, have equal digests.

    It covers the fields that :func:`differing_fields` compares, as far as they differ from their defaults, so that it
    stays as it is when a later minor version adds fields.
    """
    wanted = _asked_for(spec, "spec")
    canonical = json.dumps(wanted, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return f"sha256:{hashlib.sha256(canonical.encode('ascii')).hexdigest()}"


def protocol_version(spec: models.JobSpec) -> str:
    """Return the oldest version of the protocol (``1.0``) that has every field that ``spec`` makes use of."""
    used = set(_paths(_asked_for(spec, "spec"), "spec"))
    versions = ["1.0", *(version for path, version in FIELDS_SINCE.items() if path in used)]
    return max(versions, key=version_parts)


def version_parts(version: str) -> tuple[int, int]:
    """Return major and minor of a version of the protocol."""
    major, dummy, minor = version.partition(".")
    return int(major), int(minor)


def differing_fields(a: models.JobSpec, b: models.JobSpec) -> list[str]:
    """Return the paths (``spec.target.format``) of the fields in which two specs ask for different things, sorted.

    ``suspend``, ``priority`` and ``cancel`` may change in a job's life, and ``target.force`` is a permission: these are
    not compared.
    """
    return sorted(set(_differences(a.to_document(), b.to_document(), "spec")) - _NOT_COMPARED)


def _differences(a: t.Any, b: t.Any, path: str) -> t.Iterator[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        for key in a.keys() | b.keys():
            yield from _differences(a.get(key), b.get(key), f"{path}.{key}")
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for index, (left, right) in enumerate(zip(a, b, strict=True)):
            yield from _differences(left, right, f"{path}[{index}]")
    elif a != b:
        yield path


def _paths(value: t.Any, path: str) -> t.Iterator[str]:
    yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _paths(inner, f"{path}.{key}")
    elif isinstance(value, list):
        for inner in value:
            yield from _paths(inner, f"{path}[]")


def _asked_for(model: p.BaseModel, path: str) -> dict[str, t.Any]:
    document = t.cast(models.Document, model).to_document()
    wanted: dict[str, t.Any] = {}
    unchanged = fields.defaults(type(model))
    for name, field in type(model).model_fields.items():
        value, alias = getattr(model, name), field.alias or name
        if f"{path}.{alias}" in _NOT_COMPARED:
            continue
        if isinstance(value, p.BaseModel):
            inner = _asked_for(value, f"{path}.{alias}")
            if inner:
                wanted[alias] = inner
        elif value != unchanged[name]:
            wanted[alias] = document[alias]
    return wanted


def _refusal(problems: list[Problem]) -> JobError:
    # Keys and a parser's words come from the document.
    problems = [Problem(_plain(problem.field), _plain(problem.message)) for problem in problems]
    shown = "; ".join(map(str, problems[:_MAX_PROBLEMS]))
    if len(problems) > _MAX_PROBLEMS:
        shown += f"; and {len(problems) - _MAX_PROBLEMS} more"
    error = invalid("InvalidDocument", f"The job document is not valid: {shown}.", _SUGGESTION)
    error.details = {"problems": [problem._asdict() for problem in problems]}
    return error


def _distinct(pairs: list[tuple[str, t.Any]]) -> dict[str, t.Any]:
    again = fields.duplicates(key for key, dummy in pairs)
    if again:
        raise ValueError(f"the key {_show(again[0])} comes twice")
    return dict(pairs)


def _no_constant(name: str) -> t.Any:
    raise ValueError(f"{name} is no JSON")


# -- field names -----------------------------------------------------------------------------------------------------


def _to_camel(annotation: t.Any, value: t.Any) -> t.Any:
    """Return ``value`` with the field names of the models below ``annotation`` in camelCase; the rest as it is."""
    model = _model_of(annotation)
    if model is not None and isinstance(value, t.Mapping):
        known = {name: (_alias(name, field), field.annotation) for name, field in model.model_fields.items()}
        camel: dict[t.Any, t.Any] = {}
        for key, inner in value.items():
            alias, kind = known.get(key) or next((pair for pair in known.values() if pair[0] == key), (key, None))
            # Given in both spellings: the second stays as it is, and is refused as unknown.
            camel[key if alias in camel or (alias != key and alias in value) else alias] = _to_camel(kind, inner)
        return camel
    if isinstance(value, (list, tuple)):
        inner_kind = next(iter(_arguments(annotation, list)), None)
        return [_to_camel(inner_kind, item) for item in value]
    return value


def _without_none(value: t.Any) -> t.Any:
    if isinstance(value, dict):
        return {key: _without_none(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_without_none(inner) for inner in value]
    return value


def _alias(name: str, field: t.Any) -> str:
    return str(field.validation_alias or field.alias or name)


def _choices(annotation: t.Any) -> tuple[t.Any, ...]:
    """Return the members of a union, or the annotation itself."""
    if t.get_origin(annotation) is t.Annotated:
        return _choices(t.get_args(annotation)[0])
    if t.get_origin(annotation) in (t.Union, types.UnionType):
        return tuple(inner for choice in t.get_args(annotation) for inner in _choices(choice))
    return (annotation,)


def _model_of(annotation: t.Any) -> type[p.BaseModel] | None:
    for choice in _choices(annotation):
        if isinstance(choice, type) and issubclass(choice, p.BaseModel):
            return choice
    return None


def _arguments(annotation: t.Any, origin: type) -> tuple[t.Any, ...]:
    for choice in _choices(annotation):
        if t.get_origin(choice) is origin:
            return t.get_args(choice)
    return ()


# -- messages --------------------------------------------------------------------------------------------------------


def _problems(model: type[p.BaseModel], error: p.ValidationError) -> list[Problem]:
    problems = [_problem(model, detail) for detail in error.errors(include_url=False)]
    return sorted(set(problems), key=lambda problem: (problem.field.count("."), problem.field, problem.message))


def _problem(model: type[p.BaseModel], detail: t.Any) -> Problem:
    path, owner = "", model
    annotation: t.Any = model
    for step in detail["loc"]:
        if isinstance(step, int):
            path += f"[{step}]"
            annotation = next(iter(_arguments(annotation, list)), None)
        elif step == "[key]":
            continue
        else:
            path += f".{step}" if path else str(step)
            found = _model_of(annotation)
            owner = found or owner
            annotation = _annotation(found, str(step)) if found else (_arguments(annotation, dict) or (0, None))[1]
    return Problem(path, _message(owner, detail, secret=owner is models.SecretRef or _names_secret(annotation)))


def _names_secret(annotation: t.Any) -> bool:
    """Whether a secret's name belongs here: what somebody wrote instead may be the secret itself."""
    model = _model_of(annotation)
    if model is None or model is models.SecretRef:
        return model is not None
    return any(_model_of(field.annotation) is models.SecretRef for field in model.model_fields.values())


def _annotation(model: type[p.BaseModel], alias: str) -> t.Any:
    return next((f.annotation for name, f in model.model_fields.items() if alias in (name, _alias(name, f))), None)


def _message(owner: type[p.BaseModel], detail: t.Any, *, secret: bool) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    value = "" if secret else f", not {_show(detail['input'])}"
    if kind == "missing":
        return "is missing"
    if kind == "extra_forbidden":
        known = [_alias(name, field) for name, field in owner.model_fields.items()]
        name = str(detail["loc"][-1])
        if name in owner.model_fields:
            return f"is given twice, as {name} and as {_alias(name, owner.model_fields[name])}"
        close = difflib.get_close_matches(name.replace("_", ""), known, 1)
        return "unknown field" + (f"; is {close[0]} meant?" if close else f"; there are {', '.join(sorted(known))}")
    if kind == "value_error":
        return str(context.get("error", detail["msg"]))
    if kind == "string_pattern_mismatch":
        return f"must be {fields.TEXT_TYPES[context['pattern']].meaning}{value}"
    if kind in ("enum", "literal_error"):
        return f"must be {context['expected']}{value}"
    if kind in _TYPE_WORDS:
        return f"must be {_TYPE_WORDS[kind]}{value}"
    text = str(detail["msg"])
    return text.replace("Input should", "must", 1) if text.startswith("Input should") else text[:1].lower() + text[1:]


_TYPE_WORDS = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}


def _kind(value: t.Any) -> str:
    if isinstance(value, (list, tuple)):
        return "a list"
    return "empty" if value is None else f"a {type(value).__name__}"


def _plain(text: str) -> str:
    """Return ``text`` with what a terminal would obey shown as escapes."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _show(value: t.Any) -> str:
    """Return ``value`` for a message: short, without what a terminal would obey."""
    if isinstance(value, (dict, list, tuple)):
        return "a mapping" if isinstance(value, dict) else "a list"
    text = ascii(value) if isinstance(value, str) else json.dumps(value, default=repr)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
