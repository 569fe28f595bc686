# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The commands of ``hyper2kvm-worker`` with which a queue and its workers are looked after."""

# These are a command's, not a module's: they print.
# pylint: disable=ansible-bad-function
from __future__ import annotations

import argparse
import collections.abc as c
import math
import pathlib
import time

from ..backends.local import LocalBackend
from ..protocol.errors import unsupported
from . import display
from .arguments import JOB_FAILED, OK, byte_count, output_root, positive, seconds, state_dir

_REFRESH_SECONDS = 1.0
#: A partial target that was not written to for so long is not being copied into, by nobody who shares the output root.
_IDLE_SECONDS = 3600.0


def add_commands(command: c.Callable[..., argparse.ArgumentParser]) -> None:
    """Declare them by ``command``, which takes a name, what runs it, and what it does."""
    command("cordon", _cordon, "let this queue's workers take no further job")
    command("uncordon", _uncordon, "let them take jobs again")
    drain = command("drain", _drain, "cordon, and wait until nothing runs any more")
    drain.add_argument("--timeout", type=seconds, metavar="TIME", help="wait no longer (90s, 10m, 2h); status 1 then")
    backup = command("backup", _backup, "write the queue to a file, while workers go on")
    backup.add_argument("file", metavar="FILE", type=pathlib.Path)
    restore = command("restore", _restore, "make the queue from such a file")
    restore.add_argument("file", metavar="FILE", type=pathlib.Path)
    restore.add_argument("--force", action="store_true", help="put a queue that is there aside")
    recover = command("recover", _recover, "say what the output root tells of jobs whose queue was lost")
    recover.add_argument(
        "--remove-partials", action="store_true", help="remove partial targets of no job that nobody writes to"
    )
    bundle = command("support-bundle", _support_bundle, "gather what a helper has to see, without secrets")
    bundle.add_argument("file", metavar="FILE", type=pathlib.Path, help="the bundle, .tar.gz")
    capacity = command("capacity", None, "reckon how many workers move a fleet within a window")
    capacity.add_argument("--vms", type=positive, required=True, metavar="N", help="how many VMs")
    capacity.add_argument("--total", type=byte_count, required=True, metavar="SIZE", help="used bytes of all (20TiB)")
    capacity.add_argument("--largest", type=byte_count, metavar="SIZE", help="of the largest VM (default: the mean)")
    capacity.add_argument("--window", type=seconds, required=True, metavar="TIME", help="what there is time for (8h)")
    capacity.add_argument("--slots", type=positive, default=2, metavar="N", help="of a worker (default: 2)")
    capacity.add_argument(
        "--rate", type=byte_count, required=True, metavar="SIZE", help="of one job's copy with all slots busy, a second"
    )
    capacity.add_argument(
        "--other", type=seconds, required=True, metavar="TIME", help="what a job takes besides: boot tests most of all"
    )
    capacity.add_argument(
        "--storage-rate",
        type=byte_count,
        default=math.inf,
        metavar="SIZE",
        help="what the storage lets through, a second",
    )


def _cordon(backend: LocalBackend, options: argparse.Namespace) -> int:
    _own_queue(options, "kubectl cordon NODE")
    backend.cordon()
    return OK


def _uncordon(backend: LocalBackend, options: argparse.Namespace) -> int:
    backend.uncordon()
    return OK


def _drain(backend: LocalBackend, options: argparse.Namespace) -> int:
    """Wait for the jobs that run; what waits stays in the queue."""
    _cordon(backend, options)
    end = None if options.timeout is None else time.monotonic() + options.timeout
    while running := sorted(name for worker in backend.workers() for name in worker.running):
        if end is not None and time.monotonic() > end:
            print(f"still running: {', '.join(running)}")
            return JOB_FAILED
        time.sleep(_REFRESH_SECONDS)
    return OK


def _backup(backend: LocalBackend, options: argparse.Namespace) -> int:
    from ..backends.backup import back_up

    _own_queue(options, "etcd's backup, which has the cluster's jobs")
    done = back_up(state_dir(options), options.file)
    print(f"{options.file}: {done.jobs} jobs, {done.unfinished} of them not over, {done.events} events; read and whole")
    return OK


def _restore(backend: LocalBackend, options: argparse.Namespace) -> int:
    from ..backends.backup import restore

    _own_queue(options, "the cluster, which gives this node its jobs anew")
    done = restore(options.file, state_dir(options), force=options.force)
    print(f"{state_dir(options)}: {done.jobs} jobs, {done.unfinished} of them wait for a worker")
    return OK


def _own_queue(options: argparse.Namespace, instead: str) -> None:
    """Refuse what the cluster decides where the queue is a node's.

    Raises:
        JobError: class ``unsupported``.
    """
    from .health import ALIVE

    if (state_dir(options) / ALIVE).exists():
        raise unsupported("QueueOfANode", "This queue is filled by a cluster.", f"Use {instead}.")


def _recover(backend: LocalBackend, options: argparse.Namespace) -> int:
    from . import recovery

    jobs = backend.list()
    found = recovery.look_through(output_root(options), [job.metadata.uid or "" for job in jobs])
    print(display.findings(found, output_root(options)))
    if options.remove_partials:
        gone = recovery.remove(found.orphans, _IDLE_SECONDS)
        print(f"{len(gone)} of {len(found.orphans)} partial targets removed")
    return OK


def _support_bundle(backend: LocalBackend, options: argparse.Namespace) -> int:
    from .support import write_bundle

    names = write_bundle(backend, options.file, state_dir(options), output_root(options))
    print(f"{options.file}: {', '.join(names)}. Look through it before you hand it on.")
    return OK


def capacity(options: argparse.Namespace) -> int:
    """Print how many workers it takes; it is reckoned without any queue."""
    from ..scheduling import capacity as model

    fleet = model.Fleet(
        vms=options.vms,
        total_bytes=options.total,
        largest_bytes=options.largest or options.total / options.vms,
        slot_bytes_per_second=options.rate,
        other_seconds=options.other,
        storage_bytes_per_second=options.storage_rate,
    )
    answer = model.workers_for(fleet, options.slots, options.window)
    print(display.capacity(answer, options.slots))
    return OK if answer.workers else JOB_FAILED
