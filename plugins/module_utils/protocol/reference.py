# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The generated parts of the specification and of the page of errors: made from models, lifecycle and sources."""

from __future__ import annotations

import ast
import collections.abc as c
import enum
import itertools
import re
import typing as t

from . import errors, lifecycle, models
from .fields import TEXT_TYPES
from .schema import DOCUMENTS, ENUMERATIONS, Schema, member_docs, plain_text, schema_of

_MARKS = re.compile(r"(?P<begin><!-- generated: (?P<name>[-a-z]+) -->\n).*?(?P<end><!-- end generated -->)", re.DOTALL)
#: Enumerations whose members are told in a section of another name.
_TOLD_IN = {"Phase": "lifecycle", "ErrorClass": "errors-and-retries"}
_UNITS = (
    (re.compile(r"BytesPerSecond$|^ratePerSecond$"), "bytes/s"),
    (re.compile(r"Seconds(AfterFinished)?$|^seconds$"), "s"),
    (re.compile(r"Bytes$|^bytes[A-Z]"), "bytes"),
    (re.compile(r"^percent$"), "%"),
)


def fill_in(page: str, sources: c.Iterable[str]) -> str:
    """Return ``page`` with the text between its marks made anew.

    ``sources`` are the texts of the collection's Python files; the reasons of errors are gathered from them.

    Raises:
        KeyError: a mark names a part that there is none of.
    """
    texts = list(sources)
    parts: dict[str, t.Callable[[], str]] = {
        **{f"fields-{name}": lambda name=name: _fields(name) for name in DOCUMENTS},  # type: ignore[misc]
        "text-types": _text_types,
        "enumerations": _enumerations,
        "transitions": _transitions,
        "diagram": _diagram,
        "event-kinds": lambda: _members(models.EventKind, "Kind", "Tells, and its `data`"),
        "error-classes": _error_classes,
        **{f"errors-{kind.value}": lambda kind=kind: _error_reasons(texts, kind.value) for kind in errors.ErrorClass},  # type: ignore[misc]
        "wait-reasons": lambda: _wait_reasons(texts),
    }
    return _MARKS.sub(lambda mark: f"{mark['begin']}\n{parts[mark['name']]()}\n\n{mark['end']}", page)


def _table(head: c.Sequence[str], rows: c.Iterable[c.Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


# -- fields ----------------------------------------------------------------------------------------------------------


def _fields(name: str) -> str:
    schema = schema_of(name)
    shown: set[str] = set()
    return "\n\n".join(_model_tables(schema, schema, "", shown))


def _model_tables(document: Schema, schema: Schema, path: str, shown: set[str]) -> c.Iterator[str]:
    required = schema.get("required", [])
    rows, inner = [], []
    for name, prop in schema["properties"].items():
        part = _part(document, prop)
        if part and "properties" in document["$defs"][part]:
            inner.append((part, f"{path}.{name}".lstrip(".") + ("[]" if "items" in prop else "")))
        default = "**required**" if name in required else _default(prop, part)
        rows.append([f"`{name}`", _type(document, prop), _unit(name, prop), default, prop["description"]])
    if path:
        yield f"#### `{path}`\n\n{schema['description']}"
    yield _table(["Field", "Type", "Unit", "Default", "Meaning"], rows)
    for part, below in inner:
        if part not in shown:
            shown.add(part)
            yield from _model_tables(document, document["$defs"][part], below, shown)


def _part(document: Schema, prop: Schema) -> str:
    """Return the name of the definition that a field, its items or its values are of; empty: of none."""
    for node in (prop, prop.get("items", {}), prop.get("additionalProperties")):
        if isinstance(node, dict) and "$ref" in node:
            return str(node["$ref"]).rpartition("/")[2]
    return ""


def _default(prop: Schema, part: str) -> str:
    if "default" not in prop:
        return "unset"
    if prop["default"] == {} and part and "items" not in prop and "additionalProperties" not in prop:
        return "its fields' defaults"
    value = prop["default"]
    if value in ([], {}, ""):
        return "empty"
    if isinstance(value, list):
        return ", ".join(f"`{item}`" for item in value)
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _type(document: Schema, prop: Schema) -> str:
    if "items" in prop:
        bounds = f", at most {prop['maxItems']}" if "maxItems" in prop else ""
        return f"list of {_type(document, prop['items'])}{bounds}{', none twice' if prop.get('uniqueItems') else ''}"
    if "$ref" in prop:
        name = str(prop["$ref"]).rpartition("/")[2]
        part = document["$defs"][name]
        return f"[{name}](#{_TOLD_IN.get(name, name.lower())})" if "enum" in part else "mapping"
    if prop["type"] == "object":
        values = prop.get("additionalProperties")
        if not isinstance(values, dict):
            return "mapping"
        keys = TEXT_TYPES[prop["propertyNames"]["pattern"]].name if "propertyNames" in prop else "text"
        return f"mapping of {keys} to {_type(document, values)}"
    if "const" in prop:
        return f"`{prop['const']}`"
    if "enum" in prop:
        return ", ".join(f"`{value}`" for value in prop["enum"])
    if prop["type"] == "string":
        kind = TEXT_TYPES[prop["pattern"]].name if "pattern" in prop else "text"
        if "minLength" in prop and "maxLength" in prop:
            return f"{kind} of {prop['minLength']} to {prop['maxLength']} characters"
        return f"{kind} of at most {prop['maxLength']} characters" if "maxLength" in prop else kind
    return {"integer": "whole number", "number": "number", "boolean": "boolean"}[prop["type"]] + _range(prop)


def _range(prop: Schema) -> str:
    if "minimum" in prop and "maximum" in prop:
        return f", {prop['minimum']} to {prop['maximum']}"
    if "exclusiveMinimum" in prop:
        return f", above {prop['exclusiveMinimum']}"
    return f", at least {prop['minimum']}" if "minimum" in prop else ""


def _unit(name: str, prop: Schema) -> str:
    if prop.get("type") not in ("integer", "number") or name in ("pid", "priority"):
        return "-"
    return next((unit for pattern, unit in _UNITS if pattern.search(name)), "count")


def _text_types() -> str:
    rows = [[kind.name, kind.meaning, f"`{regex}`"] for regex, kind in TEXT_TYPES.items()]
    return _table(["Type", "It is", "Pattern"], rows)


def _enumerations() -> str:
    shown = [kind for kind in ENUMERATIONS if kind not in (lifecycle.Phase, errors.ErrorClass, models.EventKind)]
    return "\n\n".join(
        f"#### {kind.__name__}\n\n{plain_text(kind.__doc__ or '')}\n\n{_members(kind, 'Value', 'Meaning')}"
        for kind in shown
    )


def _members(kind: type[enum.Enum], head: str, meaning: str) -> str:
    return _table([head, meaning], ([f"`{value}`", doc] for value, doc in member_docs(kind).items()))


# -- lifecycle -------------------------------------------------------------------------------------------------------


def _transitions() -> str:
    rows = [
        [step.source.value, step.target.value, ", ".join(sorted(actor.value for actor in step.actors)), step.when]
        for step in lifecycle.TRANSITIONS
    ]
    return _table(["From", "To", "Who may", "When"], rows)


def _diagram() -> str:
    begin = [f"    [*] --> {lifecycle.Phase.CREATED.value}"]
    steps = [f"    {step.source.value} --> {step.target.value}" for step in lifecycle.TRANSITIONS]
    end = [f"    {phase.value} --> [*]" for phase in lifecycle.Phase if phase in lifecycle.TERMINAL]
    return "\n".join(["```mermaid", "stateDiagram-v2", *begin, *steps, *end, "```"])


# -- errors ----------------------------------------------------------------------------------------------------------


def _error_classes() -> str:
    docs = member_docs(errors.ErrorClass)
    rows = [
        [f"`{kind.value}`", docs[kind.value], "yes" if errors.RETRYABLE[kind] else "no"] for kind in errors.ErrorClass
    ]
    return _table(["Class", "Meaning", "Tried again by itself"], rows)


def _error_reasons(sources: c.Iterable[str], kind: str) -> str:
    found = sorted({error for source in sources for error in error_reasons(source) if error[1] == kind})
    rows = []
    for reason, group in itertools.groupby(found, key=lambda error: error[0]):
        # Several places may say the same, or nothing.
        texts = [dict.fromkeys(text for text in column if text) for column in zip(*group, strict=True)]
        rows.append([f"`{reason}`", " / ".join(texts[2]), " / ".join(texts[3])])
    return _table(["Reason", "What is said", "What to do"], rows)


def _wait_reasons(sources: c.Iterable[str]) -> str:
    found: dict[str, str] = {}
    for source in sources:
        for call in _calls(source):
            named = {keyword.arg: keyword.value for keyword in call.keywords}
            if _name(call.func) == "Unmet":
                found[_text(call.args[0])] = _text(call.args[1])
            elif _name(call.func) == "WaitReason" and _is_word(named.get("reason")):
                found[_text(named["reason"])] = _text(named["message"])
    return _table(["Reason", "Message"], ([f"`{reason}`", message] for reason, message in sorted(found.items())))


def error_reasons(source: str) -> c.Iterator[tuple[str, str, str, str]]:
    """Yield reason, class, message and suggestion of each error that a ``source`` raises with a reason of its own."""
    makers = {kind.value: kind.value for kind in errors.ErrorClass} | {"Conflict": errors.ErrorClass.INVALID.value}
    # Boot tests tell what they saw; a guest that does not boot is what the job cannot make of it.
    makers |= dict.fromkeys(("Failure", "_sign"), errors.ErrorClass.UNSUPPORTED.value)
    constants = {
        target.id: statement.value
        for statement in ast.parse(source).body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Name)
    }
    for call in _calls(source):
        arguments: list[ast.expr] = list(call.args)
        kind = makers.get(_name(call.func), "")
        if arguments and isinstance(arguments[0], ast.Attribute) and _name(arguments[0].value) == "ErrorClass":
            kind = errors.ErrorClass[arguments[0].attr].value
            arguments = arguments[1:]
        if _name(call.func) == "_sign":
            del arguments[1]  # the pattern that is looked for
        if kind and len(arguments) > 1 and _is_word(arguments[0]):
            named = [keyword.value for keyword in call.keywords if keyword.arg == "suggestion"]
            texts = [_text(constants.get(_name(one), one)) for one in (arguments[1], *(arguments[2:3] or named))]
            message, suggestion = [re.sub(r"\{\d\}", "…", text) for text in [*texts, ""][:2]]
            yield _text(arguments[0]), kind, message, suggestion


def _calls(source: str) -> c.Iterator[ast.Call]:
    return (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))


def _name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _is_word(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value[:1].isupper()


def _text(node: ast.expr) -> str:
    """Return the text of a literal, with … for what is put in when it runs."""
    if isinstance(node, ast.Constant):
        text = str(node.value)
    elif isinstance(node, ast.JoinedStr):
        text = "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
    else:
        text = "…"
    # Neither line breaks nor marks of a guest's text may break the table.
    return " ".join(text.split()).replace("<", "&lt;")
