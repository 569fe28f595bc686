# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""YAML text by the core schema of YAML 1.2, without anchors, aliases, tags or keys that come twice."""

from __future__ import annotations

import re
import typing as t

from .errors import environment

# yaml.org/spec/1.2.2, section 10.3.2.
_CORE = {
    "tag:yaml.org,2002:null": (r"^(?:null|Null|NULL|~|)$", ["n", "N", "~", ""]),
    "tag:yaml.org,2002:bool": (r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    "tag:yaml.org,2002:int": (r"^[-+]?[0-9]+$", list("-+0123456789")),
    "tag:yaml.org,2002:float": (
        r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$",
        list("-+.0123456789"),
    ),
}

_MAX_FLOW_DEPTH = 100


def load(text: str) -> t.Any:
    """Return the data of one YAML document.

    Raises:
        ValueError: the text is no such document; the message says where.
        RecursionError: it is nested too deeply.
        JobError: (environment) PyYAML is missing.
    """
    try:
        import yaml
    except ImportError:
        raise environment(
            "MissingLibrary", "The document is YAML, and this Python has no PyYAML.", "Install PyYAML, or write JSON."
        ) from None

    class CoreLoader(yaml.SafeLoader):
        """A loader for documents that strangers write."""

        flow_level: int

        def fetch_flow_collection_start(self, TokenClass: t.Any) -> None:  # noqa: N803 (PyYAML's own name)
            # The scanner looks at every open bracket for each token.
            if self.flow_level >= _MAX_FLOW_DEPTH:
                raise RecursionError("brackets are nested too deeply")
            super().fetch_flow_collection_start(TokenClass)

        def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
            event: t.Any = self.peek_event()  # type: ignore[no-untyped-call]
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                raise yaml.YAMLError(f"anchors and aliases are refused{_where(event.start_mark)}")
            if not isinstance(event, yaml.AliasEvent) and getattr(event, "tag", None):
                raise yaml.YAMLError(f"tags are refused{_where(event.start_mark)}")
            return super().compose_node(parent, index)

    CoreLoader.yaml_implicit_resolvers = {}
    for tag, (regex, first) in _CORE.items():
        CoreLoader.add_implicit_resolver(tag, re.compile(regex), first)

    def mapping(loader: CoreLoader, node: yaml.MappingNode) -> dict[str, t.Any]:
        result: dict[str, t.Any] = {}
        for key_node, value_node in node.value:
            key = loader.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.YAMLError(f"a key that is no text{_where(key_node.start_mark)}")
            if key in result:
                raise yaml.YAMLError(f"the key {key!a} comes twice{_where(key_node.start_mark)}")
            result[key] = loader.construct_object(value_node, deep=True)
        return result

    def number(kind: type[int] | type[float]) -> t.Callable[[CoreLoader, yaml.ScalarNode], float]:
        return lambda loader, node: kind(str(loader.construct_scalar(node)))

    CoreLoader.add_constructor("tag:yaml.org,2002:map", mapping)
    CoreLoader.add_constructor("tag:yaml.org,2002:int", number(int))
    CoreLoader.add_constructor("tag:yaml.org,2002:float", number(float))
    try:
        return yaml.load(text, Loader=CoreLoader)
    except yaml.MarkedYAMLError as error:
        raise ValueError(f"{error.problem or error.context}{_where(error.problem_mark)}") from None
    except yaml.YAMLError as error:
        raise ValueError(str(error).splitlines()[0]) from None


def _where(mark: t.Any) -> str:
    return f" (line {mark.line + 1}, column {mark.column + 1})" if mark is not None else ""
