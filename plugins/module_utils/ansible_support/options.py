# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From a module's options to what the engine takes: folders and job documents."""

from __future__ import annotations

import pathlib
import typing as t

from ..protocol import models, validation
from ..protocol.errors import invalid
from ..worker.config import kernel_folder
from ..worker.context import Roots
from .arguments import SPEC

Options = t.Mapping[str, t.Any]


def roots(options: Options) -> Roots:
    """Return the folders that the options of the fragment ``roots`` name. Nothing is created."""
    secrets = pathlib.Path(options["secrets_root"])
    return Roots(
        input=pathlib.Path(options["input_root"]).resolve(),
        output=pathlib.Path(options["output_root"]).resolve(),
        scratch=pathlib.Path(options["scratch_dir"] or state_dir(options) / "scratch").resolve(),
        secrets=secrets.resolve() if secrets.is_dir() else None,
        kernel_root=kernel_folder(),
    )


def state_dir(options: Options) -> pathlib.Path:
    """Return the folder of the queue."""
    return pathlib.Path(options["state_dir"] or pathlib.Path(options["output_root"]) / ".hyper2kvm").resolve()


def describes_job(options: Options) -> bool:
    """Whether the options say more of a job than its name."""
    return any(options[key] for key in ("definition", "spec", "source"))


def job_name(options: Options) -> str:
    """Return the job's name.

    Raises:
        JobError: the options name no job, or two.
    """
    metadata = (options["definition"] or {}).get("metadata") or {}
    named = {str(name) for name in (options["name"], metadata.get("name")) if name}
    if len(named) != 1:
        problem = "no name" if not named else f"two names, {' and '.join(sorted(named))}"
        raise invalid("InvalidDocument", f"metadata.name: the job has {problem}.", "Give the job one name.")
    return named.pop()


def job(options: Options) -> models.MigrationJob:
    """Return the job that the options of the fragment ``job`` describe.

    Raises:
        JobError: class ``invalid``; the message names each field that is wrong.
    """
    return validation.parse_job(document(options))


def document(options: Options) -> dict[str, t.Any]:
    """Return the camelCase document that the options describe, not validated. Options without a value are left out."""
    definition = options["definition"]
    if definition is not None:
        return {**definition, "metadata": {**(definition.get("metadata") or {}), "name": job_name(options)}}
    described = {
        "api_version": models.API_VERSION,
        "kind": "MigrationJob",
        "metadata": {"name": job_name(options), **{key: options[key] for key in ("labels", "annotations")}},
        "spec": {option: options[option] for option in SPEC},
    }
    return merge(validation.snake_to_document(described), validation.snake_to_document({"spec": options["spec"] or {}}))


def merge(lower: t.Mapping[str, t.Any], upper: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """Return ``lower`` with the values of ``upper`` laid over it; dictionaries are merged, all else is replaced."""
    merged = dict(lower)
    for key, value in upper.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged
