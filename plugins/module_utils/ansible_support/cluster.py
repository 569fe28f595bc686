# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A Kubernetes cluster as the place where jobs are kept."""

from __future__ import annotations

import contextlib
import typing as t

from ..backends.base import PeopleSide
from ..backends.kube.api import Login
from ..backends.kube.client import KubernetesBackend
from ..protocol import models, validation
from ..protocol.errors import unsupported
from ..protocol.lifecycle import Phase
from . import options
from .arguments import CLUSTER
from .presence import Presence, find

if t.TYPE_CHECKING:
    from .rollback import PublishedTarget


class ClusterPlace:
    """A namespace of a cluster. What its nodes' folders hold cannot be seen from here."""

    def __init__(self, params: options.Options) -> None:
        """Take the module's options."""
        self._login = Login(**{option: params[option] for option in CLUSTER if option != "namespace"})
        metadata = (params.get("definition") or {}).get("metadata") or {}
        self._namespace = params["namespace"] or metadata.get("namespace")

    @contextlib.contextmanager
    def open(self, *, make: bool) -> t.Iterator[PeopleSide | None]:
        """See :meth:`Place.open`. There is nothing to make."""
        with contextlib.closing(KubernetesBackend(self._login, self._namespace)) as backend:
            yield backend

    def present(self, backend: PeopleSide | None, job: models.MigrationJob, *, dry_run: bool) -> Presence:
        """See :meth:`Place.present`.

        The job's record decides, for the target's result document is out of sight: a COMPLETED job with the same
        document is not done again, though its target be gone. Where the record is gone, the job is handed in, and its
        worker finds the target.
        """
        if backend is None:
            raise AssertionError("backend is not None")
        name = job.metadata.name
        existing = find(backend, name)
        done = existing is not None and existing.status.phase is Phase.COMPLETED
        if existing is not None and done and not validation.differing_fields(existing.spec, job.spec):
            return Presence(existing, False, existing)
        submission = backend.submit(job, force=job.spec.target.force, dry_run=dry_run)
        return Presence(submission.job, submission.changed, submission.before)

    def ensure_worker(self) -> None:
        """See :meth:`Place.ensure_worker`. Workers are there or not; a job that waits says so."""

    def preview(self, job: models.MigrationJob) -> models.JobResult | None:
        """See :meth:`Place.preview`. The operation ``plan`` tells it."""
        return None

    def target(self, name: str, job: models.MigrationJob | None) -> PublishedTarget:
        """See :meth:`Place.target`."""
        raise unsupported(
            "TargetOnCluster",
            f"remove_target: what job {name} has published lies on the cluster's output storage, out of reach here.",
            "Remove the job without its target, and the target's folder on that storage.",
        )

    def forget(self, name: str) -> None:
        """See :meth:`Place.forget`. The node that has done the job does it."""
