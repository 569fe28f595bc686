# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Any document that a model accepts, made up from the model's JSON Schema."""

from __future__ import annotations

import typing as t

from hypothesis import strategies as st

Schema = dict[str, t.Any]

_ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.dictionaries(st.text(), inner, max_size=2)
)


def documents(schema: Schema) -> st.SearchStrategy[t.Any]:
    """Give documents of a schema. Fields that need not be there often are not."""
    definitions = schema.get("$defs", {})

    def of(part: Schema) -> st.SearchStrategy[t.Any]:
        if "$ref" in part:
            return st.deferred(lambda: of(definitions[part["$ref"].rpartition("/")[2]]))
        if "const" in part:
            return st.just(part["const"])
        if "enum" in part:
            return st.sampled_from(part["enum"])
        if "anyOf" in part:
            return st.one_of([of(one) for one in part["anyOf"]])
        return _KINDS.get(part.get("type", ""), lambda part, of: _ANY)(part, of)

    return of(schema)


_Of = t.Callable[[Schema], st.SearchStrategy[t.Any]]


def _object(part: Schema, of: _Of) -> st.SearchStrategy[t.Any]:
    if "properties" not in part:
        return st.dictionaries(st.text(), _ANY, max_size=3)
    required = set(part.get("required", ()))
    fields = {name: of(one) for name, one in part["properties"].items()}
    must = {name: one for name, one in fields.items() if name in required}
    return st.fixed_dictionaries(must, optional={name: one for name, one in fields.items() if name not in required})


def _string(part: Schema, of: _Of) -> st.SearchStrategy[t.Any]:
    if "pattern" in part:
        return st.from_regex(part["pattern"].removesuffix("$") + r"\Z")
    return st.text()


def _number(part: Schema, of: _Of) -> st.SearchStrategy[t.Any]:
    return st.floats(min_value=part.get("minimum"), allow_nan=False, allow_infinity=False)


_KINDS: dict[str, t.Callable[[Schema, _Of], st.SearchStrategy[t.Any]]] = {
    "object": _object,
    "string": _string,
    "number": _number,
    "array": lambda part, of: st.lists(of(part["items"]), max_size=3),
    "integer": lambda part, of: st.integers(min_value=part.get("minimum", part.get("exclusiveMinimum"))),
    "boolean": lambda part, of: st.booleans(),
    "null": lambda part, of: st.none(),
}
