# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The definitions as such; what the API server makes of them, tests/kube/test_crds.py tells."""

from __future__ import annotations

import collections.abc as c
import itertools
import typing as t

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol import crd, lifecycle
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.lifecycle import TERMINAL, Phase

#: What the API server does not take in a structural schema.
FORBIDDEN = {"$ref", "const", "allOf", "anyOf", "not", "if", "then", "else", "propertyNames", "uniqueItems"}


def nodes(schema: t.Any) -> c.Iterator[dict[str, t.Any]]:
    """A schema and all schemas in it."""
    yield schema
    inner = [*schema.get("properties", {}).values(), schema.get("items"), schema.get("additionalProperties")]
    yield from itertools.chain.from_iterable(nodes(node) for node in inner if isinstance(node, dict))


@pytest.mark.parametrize("name", crd.DEFINITIONS)
def test_schemas_are_structural(name: str) -> None:
    (version,) = crd.DEFINITIONS[name]()["spec"]["versions"]
    for node in nodes(version["schema"]["openAPIV3Schema"]):
        assert not node.keys() & FORBIDDEN
        assert node["type"]


def test_everything_that_people_write_has_bounds_and_a_message_instead_of_a_pattern() -> None:
    (version,) = crd.job_crd()["spec"]["versions"]
    for node in nodes(version["schema"]["openAPIV3Schema"]["properties"]["spec"]):
        assert "pattern" not in node
        if node["type"] == "array":
            assert "maxItems" in node
        if node["type"] == "string" and "enum" not in node:
            assert "maxLength" in node
        for rule in node.get("x-kubernetes-validations", []):
            assert rule["message"]


def test_every_step_of_the_table_may_be_written() -> None:
    for step in lifecycle.TRANSITIONS:
        assert step.target in crd.successors(step.source)


@pytest.mark.parametrize(
    ("phase", "others"),
    [
        (Phase.CREATED, "VALIDATED QUEUED ASSIGNED FAILED CANCELLED"),
        (Phase.VALIDATED, "QUEUED ASSIGNED FAILED CANCELLED"),
        (Phase.QUEUED, "ASSIGNED FAILED CANCELLED"),
        (Phase.ASSIGNED, "QUEUED RUNNING PROGRESSING COMPLETED FAILED CANCELLED"),
        (Phase.RUNNING, "QUEUED ASSIGNED PROGRESSING COMPLETED FAILED CANCELLED"),
        (Phase.PROGRESSING, "QUEUED ASSIGNED RUNNING COMPLETED FAILED CANCELLED"),
    ],
)
def test_steps_that_follow_at_once_share_a_write(phase: Phase, others: str) -> None:
    assert [other.value for other in crd.successors(phase)] == others.split()


def test_nothing_follows_the_end() -> None:
    assert [crd.successors(phase) for phase in TERMINAL] == [[], [], []]
