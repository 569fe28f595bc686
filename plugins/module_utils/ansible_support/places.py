# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where jobs are kept, and what a module can do there beside the queue: on this host, or in a cluster."""

from __future__ import annotations

import contextlib
import pathlib
import typing as t

from ..backends.base import PeopleSide
from ..backends.local import LocalBackend, refuse_namespace
from ..protocol import models
from ..worker import workdirs
from ..worker.config import Config, make_roots
from ..worker.local import ensure_worker
from . import options
from .presence import Presence, ensure_present

if t.TYPE_CHECKING:
    from .rollback import PublishedTarget

#: Operations whose check mode shows what would change in the guest.
_FIXING = (models.Operation.CONVERT, models.Operation.FIX, models.Operation.REHEARSE, models.Operation.PLAN)


class Place(t.Protocol):
    """Where jobs are kept."""

    def open(self, *, make: bool) -> t.ContextManager[PeopleSide | None]:
        """Give the queue; None where there is none yet and ``make`` is false.

        Raises:
            JobError: class ``environment``, the queue cannot be used.
        """

    def present(self, backend: PeopleSide | None, job: models.MigrationJob, *, dry_run: bool) -> Presence:
        """See to it that ``job`` has been done or is on its way, once however often it is asked for.

        Raises:
            JobError: class ``invalid``; other work is in the way, and the message names the fields in which it differs.
        """

    def ensure_worker(self) -> None:
        """See to it that somebody works, where that is this module's affair."""

    def preview(self, job: models.MigrationJob) -> models.JobResult | None:
        """Return what the job would change in the guest; None where that cannot be told from here."""

    def target(self, name: str, job: models.MigrationJob | None) -> PublishedTarget:
        """Return what the job of that name has published.

        Raises:
            JobError: class ``unsupported``, it is out of reach.
        """

    def forget(self, name: str) -> None:
        """Remove what is left of a job beside its record."""


def place_of(params: options.Options) -> Place:
    """Return the place that the options name."""
    if params["backend"] == "kubernetes":
        # Imported here: a module's code is compiled each time it runs.
        from .cluster import ClusterPlace

        return ClusterPlace(params)
    return HostPlace(params)


class HostPlace:
    """The queue of the host that the module runs on, whose folders it sees."""

    def __init__(self, params: options.Options) -> None:
        """Take the module's options."""
        self._params = params

    @contextlib.contextmanager
    def open(self, *, make: bool) -> t.Iterator[PeopleSide | None]:
        """See :meth:`Place.open`."""
        folder = options.state_dir(self._params)
        if not make and not (folder / "queue.db").exists():
            yield None
            return
        with contextlib.closing(LocalBackend(folder)) as backend:
            yield backend

    def present(self, backend: PeopleSide | None, job: models.MigrationJob, *, dry_run: bool) -> Presence:
        """See :meth:`Place.present`."""
        refuse_namespace(job)
        return ensure_present(backend, job, options.roots(self._params), dry_run=dry_run)

    def ensure_worker(self) -> None:
        """See :meth:`Place.ensure_worker`. Only on the host where Ansible itself runs is there a worker to start.

        Elsewhere the collection does not lie there for it, and a worker is a service.
        """
        if not self._params["installation"]:
            return
        roots, state = options.roots(self._params), options.state_dir(self._params)
        roots = make_roots(roots.input, roots.output, state_dir=state, scratch=roots.scratch, secrets=roots.secrets)
        slots = {} if self._params["slots"] is None else {"slots": self._params["slots"]}
        ensure_worker(Config(roots, state, **slots), self._params["installation"])

    def preview(self, job: models.MigrationJob) -> models.JobResult | None:
        """See :meth:`Place.preview`."""
        if job.spec.operation not in _FIXING:
            return None
        # Imported here, as below: a module's code is compiled each time it runs.
        from ..worker.engine import plan_only

        return plan_only(job, options.roots(self._params))

    def target(self, name: str, job: models.MigrationJob | None) -> PublishedTarget:
        """See :meth:`Place.target`."""
        from .rollback import PublishedTarget

        target = self._params["target"] or {}
        folder = target.get("path") or (job.spec.target.path if job is not None else None) or name
        return PublishedTarget(pathlib.Path(self._params["output_root"]), folder)

    def forget(self, name: str) -> None:
        """See :meth:`Place.forget`. Where this is not root, a worker's sweep does it."""
        with contextlib.suppress(OSError):
            workdirs.forget(name, options.roots(self._params), options.state_dir(self._params))
