# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The modules' options spell out the protocol's fields, no more and no less; and how they become a document."""

from __future__ import annotations

import enum
import typing as t

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.ansible_support import arguments, options
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol import models
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.errors import JobError
from pydantic import BaseModel

#: What a state of the module says, and no option.
BY_STATE = {"suspend", "cancel"}


def _inner(annotation: t.Any, kind: type) -> t.Any:
    """The first class below an annotation that is a ``kind``."""
    if isinstance(annotation, type) and issubclass(annotation, kind):
        return annotation
    return next((found for arg in t.get_args(annotation) if (found := _inner(arg, kind))), None)


def _compare(model: type[BaseModel], spec: dict[str, t.Any], path: str) -> None:
    fields = {name: field for name, field in model.model_fields.items() if name not in BY_STATE or path != "spec"}
    assert set(spec) == set(fields), path
    for name, field in fields.items():
        option, where = spec[name], f"{path}.{name}"
        below = _inner(field.annotation, BaseModel)
        if below is not None:
            _compare(below, option["options"], where)
            continue
        default = field.get_default(call_default_factory=True) if not field.is_required() else None
        if isinstance(default, enum.Enum):
            default = default.value
        if isinstance(default, list):
            default = [item.value if isinstance(item, enum.Enum) else item for item in default]
        if default not in (None, []) or "default" in option:
            assert option.get("default") == default, where
        choices = _inner(field.annotation, enum.Enum)
        if choices is not None:
            assert option["choices"] == [choice.value for choice in choices], where


def test_options_are_the_documents_fields_with_their_defaults() -> None:
    _compare(models.JobSpec, arguments.SPEC, "spec")


def given(**values: t.Any) -> dict[str, t.Any]:
    """All options of a job, unset but for ``values``."""
    return {**dict.fromkeys([*arguments.JOB, *arguments.ROOTS]), "operation": "convert", **values}


def test_spec_is_merged_last_in_either_spelling() -> None:
    job = options.job(
        given(
            name="web01",
            source={"path": "web01.ova"},
            guest={"hostname": "old", "network": {"pin_names": False}},
            spec={"guest": {"hostname": "new", "resetMachineId": True}, "verify": {"timeout_seconds": 60}},
        )
    )
    assert job.spec.guest.hostname == "new"
    assert job.spec.guest.reset_machine_id
    assert not job.spec.guest.network.pin_names
    assert job.spec.verify.timeout_seconds == 60


def test_the_keys_of_labels_are_the_users_own() -> None:
    job = options.job(
        given(
            name="a", source={"path": "a.ova"}, labels={"cost_center": "7"}, requirements={"labels": {"gpu_kind": ""}}
        )
    )
    assert job.metadata.labels == {"cost_center": "7"}
    assert job.spec.requirements.labels == {"gpu_kind": ""}


def test_a_definition_is_taken_as_it_is() -> None:
    definition = {"metadata": {"name": "db01"}, "spec": {"source": {"path": "db01.vmdk"}, "priority": 7}}
    job = options.job(given(definition=definition))
    assert (job.metadata.name, job.spec.priority) == ("db01", 7)


def test_two_names_are_an_error() -> None:
    with pytest.raises(JobError, match="two names, a and b"):
        options.job(given(name="a", definition={"metadata": {"name": "b"}, "spec": {"source": {"path": "x.ova"}}}))


def test_the_queue_lies_below_the_output_root_unless_told_otherwise() -> None:
    assert str(options.state_dir({"state_dir": None, "output_root": "/data/output"})) == "/data/output/.hyper2kvm"
    assert str(options.state_dir({"state_dir": "/data/state", "output_root": "/data/output"})) == "/data/state"
