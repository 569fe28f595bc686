# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The command ``hyper2kvm-worker``: runs a worker, and lets people look at its queue and steer it."""

# This is a command of its own, not a module: it prints, and it exits.
# pylint: disable=ansible-bad-function
from __future__ import annotations

import argparse
import collections.abc as c
import contextlib
import datetime
import json
import os
import pathlib
import signal
import sys
import tempfile
import time
import typing as t

from ..backends.base import Outcome
from ..backends.event_stream import Rotation
from ..backends.local import LocalBackend
from ..protocol import jobspec1, models, validation
from ..protocol._pydantic import HAS_PYDANTIC
from ..protocol.errors import JobError, invalid
from ..protocol.fields import moment
from ..protocol.lifecycle import TERMINAL, Phase
from ..telemetry import logs
from ..telemetry.units import size
from . import arguments, display, upkeep
from .arguments import BAD_INPUT, JOB_FAILED, OK
from .config import LEASE_SECONDS, NODE_LEASE_SECONDS, Config, kernel_folder, make_roots
from .exporter import Exporter, Telling
from .job_process import Pipeline

_FOLLOW_SECONDS = 0.3
_REFRESH_SECONDS = 1.0
_DEVICES_VARIABLE = "HYPER2KVM_TARGET_DEVICES"
_CONTAINER_INPUT, _CONTAINER_JOBS, _CONTAINER_SCRATCH = "/data/input", "jobs", "/data/temp"

_EPILOG = """\
Folders are also taken from the environment (HYPER2KVM_INPUT_ROOT, HYPER2KVM_OUTPUT_ROOT, HYPER2KVM_STATE_DIR,
HYPER2KVM_SCRATCH, HYPER2KVM_SECRETS_ROOT, HYPER2KVM_JOBS_DIR); /data/input and /data/output serve where they exist and
none is named, with the former also /data/input/jobs and /data/temp, with the latter also /data/state.
HYPER2KVM_TARGET_DEVICES holds patterns of devices with colons between them.
Exit status: 0 well, 1 a job failed, 2 wrong input or nothing could be done.
"""


def main(argv: c.Sequence[str] | None = None, pipeline: Pipeline | None = None) -> int:
    """Run one command and return its exit status. ``pipeline`` stands in for the engine where it is given."""
    options = _parser().parse_args(argv)
    if not HAS_PYDANTIC:
        print(f"hyper2kvm-worker: {sys.executable} lacks pydantic; install pydantic 2 there", file=sys.stderr)
        return BAD_INPUT
    try:
        if options.command == "run":
            logs.configure(options.log_format, options.log_level)
            return _run(options, pipeline)
        if options.command == "capabilities":
            return _capabilities(options)
        if options.command == "report":
            return _report(options)
        if options.command == "assess":
            return _assess(options, pipeline)
        if options.command == "capacity":
            return upkeep.capacity(options)
        backend = LocalBackend(arguments.state_dir(options))
        try:
            return t.cast(int, options.run(backend, options))
        finally:
            backend.close()
    except JobError as error:
        print(f"hyper2kvm-worker: {display.plain(str(error))}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # The reader has seen enough (head, less); nothing must be written any more, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK


def _parser() -> argparse.ArgumentParser:
    folders = argparse.ArgumentParser(add_help=False)
    folders.add_argument("--output-root", metavar="DIR", help="where targets are written")
    folders.add_argument("--state-dir", metavar="DIR", help="the queue's folder (default: OUTPUT_ROOT/.hyper2kvm)")
    parser = argparse.ArgumentParser(
        prog="hyper2kvm-worker",
        description=__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: c.Callable[..., int] | None, text: str, *names: str) -> argparse.ArgumentParser:
        one = commands.add_parser(name, parents=[folders], help=text, description=text)
        one.set_defaults(run=run)
        for option in names:
            one.add_argument(option, metavar=option.upper())
        return one

    run = command("run", None, "work on the queue's jobs until told to stop")
    run.add_argument("--input-root", metavar="DIR", help="where sources are read")
    run.add_argument("--scratch", metavar="DIR", help="for overlays (default: STATE_DIR/scratch)")
    run.add_argument("--secrets-root", metavar="DIR", help="where secrets are: DIR/NAME/KEY")
    run.add_argument(
        "--microvm-kernel", metavar="DIR", help="has boot/ and lib/modules/ of the micro-VMs' kernel (default: /)"
    )
    run.add_argument("--jobs-dir", metavar="DIR", help="hand in the job documents that lie or will lie there")
    run.add_argument(
        "--target-device",
        action="append",
        metavar="GLOB",
        help="block devices that jobs may write their targets onto, as /dev/vg0/* (may be given again; default: none)",
    )
    run.add_argument("--slots", type=arguments.positive, default=2, metavar="N", help="jobs side by side (default: 2)")
    run.add_argument("--label", action="append", default=[], metavar="KEY=VALUE", help="what jobs may require")
    run.add_argument(
        "--accept-operation",
        action="append",
        metavar="NAME",
        choices=[one.value for one in models.Operation],
        help="take only jobs of this operation (may be given again)",
    )
    run.add_argument("--accept-label", action="append", default=[], metavar="KEY=VALUE", help="take only such jobs")
    run.add_argument("--idle-seconds", type=float, metavar="S", help="end after this time without a job")
    run.add_argument(
        "--lease-seconds",
        type=float,
        metavar="S",
        help="how long it may be silent before another worker takes its jobs over "
        f"(default: {LEASE_SECONDS:.0f}; with --kubernetes {NODE_LEASE_SECONDS:.0f})",
    )
    run.add_argument(
        "--metrics-port",
        type=arguments.port,
        metavar="PORT",
        help="tell metrics there (/metrics), and health (/healthz)",
    )
    run.add_argument(
        "--metrics-host", default="127.0.0.1", metavar="ADDRESS", help="where to listen for that (default: %(default)s)"
    )
    run.add_argument(
        "--metrics-textfile", type=pathlib.Path, metavar="FILE", help="keep metrics there, for node_exporter; FILE.prom"
    )
    run.add_argument("--once", action="store_true", help="end when no job is left that could be run")
    run.add_argument("--kubernetes", action="store_true", help="work on the jobs that a cluster assigns to this node")
    run.add_argument("--node-name", metavar="NAME", help="this node's name in the cluster (default: $NODE_NAME)")
    run.add_argument(
        "--output-shared",
        action="store_true",
        default=os.environ.get("HYPER2KVM_OUTPUT_SHARED", "") == "true",
        help="tell the cluster that all nodes have the same output root (or HYPER2KVM_OUTPUT_SHARED=true)",
    )
    run.add_argument(
        "--output-storage",
        metavar="NAME",
        default=os.environ.get("HYPER2KVM_OUTPUT_STORAGE") or None,
        help="tell the cluster which claim, or folder of the node, the output root is on (or HYPER2KVM_OUTPUT_STORAGE)",
    )

    run.add_argument(
        "--event-file-bytes",
        type=arguments.positive,
        default=Rotation.max_bytes,
        metavar="N",
        help="size at which the file of all jobs' events is followed by another (default: %(default)s)",
    )
    run.add_argument(
        "--event-files",
        type=arguments.two_or_more,
        default=Rotation.files,
        metavar="N",
        help="how many of these files are kept, 2 or more (default: %(default)s)",
    )
    logs.add_options(run)

    submit = command("submit", _submit, "hand in jobs")
    submit.add_argument("file", nargs="+", metavar="FILE", help="job document, YAML or JSON; - for standard input")
    submit.add_argument("--force", action="store_true", help="replace a job of that name with a different document")
    submit.add_argument("--wait", action="store_true", help="wait for their end; status 1 if one does not succeed")
    status = command("status", _status, "show jobs")
    status.add_argument("job", nargs="?", metavar="JOB")
    status.add_argument("--watch", action="store_true", help="go on showing, until all are over")
    explain = command("explain", _explain, "say why a job is not running", "job")
    cancel = command("cancel", _cancel, "stop a job for good", "job")
    suspend = command("suspend", _suspend, "hold a job back; a running one is checkpointed", "job")
    resume = command("resume", _resume, "let a suspended job go on", "job")
    priority = command("priority", _priority, "change a waiting job's place", "job")
    priority.add_argument("priority", type=int, metavar="NUMBER", help="higher goes first")
    delete = command("delete", _delete, "remove the record of a job that is over", "job")
    events = command("events", _events, "show what happened")
    events.add_argument("--follow", action="store_true", help="go on showing")
    events.add_argument("--job", metavar="JOB", help="of this job only")
    events.add_argument(
        "--since",
        type=arguments.since,
        default=0,
        metavar="WHEN",
        help="only events after this one of each job (12), of this age (90s, 10m, 2h, 3d) or after this time "
        "(2026-05-01T22:00:00Z)",
    )
    workers = command("workers", _workers, "show the workers that are alive")
    command("health", _health, "status 0 if a worker of this queue is alive and minds its jobs; for probes")
    capabilities = command("capabilities", None, "try out what a worker can do here")
    report = command("report", None, "write a page that shows what became of the jobs")
    report.add_argument("file", metavar="FILE", type=pathlib.Path, help="the page, HTML")
    report.add_argument("--csv", metavar="FILE", type=pathlib.Path, help="the same as a table")
    report.add_argument("--junit", metavar="FILE", type=pathlib.Path, help="the same as JUnit XML")
    report.add_argument("--title", default="Migration report", help="what it is called (default: %(default)s)")
    assess = command(
        "assess", None, "say of each VM in a folder whether it can be converted; nothing is changed or copied"
    )
    assess.add_argument("folder", metavar="FOLDER", type=pathlib.Path, help="exported VMs, in folders below it too")
    assess.add_argument("--html", metavar="FILE", type=pathlib.Path, help="a page with every plan")
    assess.add_argument("--csv", metavar="FILE", type=pathlib.Path, help="the same as a table")
    assess.add_argument(
        "--slots", type=arguments.positive, default=2, metavar="N", help="VMs side by side (default: 2)"
    )
    upkeep.add_commands(command)
    for one in (submit, status, explain, cancel, suspend, resume, priority, delete, events, workers, capabilities):
        one.add_argument("--json", action="store_true", help="for programs: JSON, one document a line")
    return parser


# -- commands ----------------------------------------------------------------------------------------------------------


def _run(options: argparse.Namespace, pipeline: Pipeline | None) -> int:
    if options.kubernetes:
        return _run_on_node(options, pipeline)
    config = _config(options)
    from .agent import Agent

    agent = Agent(config, _engine(pipeline), _exporter(options, config))
    agent.run()
    return JOB_FAILED if options.once and agent.failed_jobs else OK


def _exporter(options: argparse.Namespace, config: Config) -> Exporter:
    how = Telling(options.metrics_host, options.metrics_port, options.metrics_textfile)
    return Exporter(how, config.state_dir, config.roots, in_cluster=options.kubernetes)


def _engine(pipeline: Pipeline | None) -> Pipeline:
    if pipeline is not None:
        return pipeline
    from .pipeline import run_job

    return run_job


def _run_on_node(options: argparse.Namespace, pipeline: Pipeline | None) -> int:
    from ..backends.kube.api import own_namespace
    from . import node_status

    name = options.node_name or os.environ.get("NODE_NAME")
    if not name:
        raise invalid("NoNodeName", "This node's name in the cluster is not known.", "Give --node-name or NODE_NAME.")
    if options.once or options.idle_seconds is not None:
        raise invalid("InvalidOptions", "The worker of a node ends when it is told to.", "Leave out how it ends.")
    node = node_status.Node(name, own_namespace(), options.output_shared, options.output_storage)
    try:
        config = _config(options)
        from . import node_agent

        return node_agent.run(config, _engine(pipeline), node, _exporter(options, config))
    except JobError as error:
        node_status.tell_unfit(node, error)
        raise


def _config(options: argparse.Namespace) -> Config:
    input_root = arguments.folder(options, "input_root", _CONTAINER_INPUT)
    if input_root is None:
        raise invalid("NoInputRoot", "No input root was given.", "Give --input-root.")
    in_container = input_root == pathlib.Path(_CONTAINER_INPUT)
    state_dir = arguments.state_dir(options)
    roots = make_roots(
        input_root,
        arguments.output_root(options),
        state_dir=state_dir,
        scratch=arguments.folder(options, "scratch", _CONTAINER_SCRATCH if in_container else None),
        secrets=arguments.folder(options, "secrets_root"),
        kernel_root=arguments.folder(options, "microvm_kernel"),
        target_devices=options.target_device or filter(None, os.environ.get(_DEVICES_VARIABLE, "").split(":")),
    )
    jobs_dir = arguments.folder(options, "jobs_dir")
    if jobs_dir is None and in_container and not options.kubernetes:
        jobs_dir = input_root / _CONTAINER_JOBS
    accepts = models.Acceptance(labels=_labels(options.accept_label))
    if options.accept_operation:
        accepts.operations = [models.Operation(name) for name in options.accept_operation]
    return Config(
        roots=roots,
        state_dir=state_dir,
        slots=options.slots,
        idle_seconds=0.0 if options.once else options.idle_seconds,
        labels=_labels(options.label),
        accepts=accepts,
        lease_seconds=options.lease_seconds or (NODE_LEASE_SECONDS if options.kubernetes else LEASE_SECONDS),
        jobs_dir=jobs_dir,
        event_rotation=Rotation(options.event_file_bytes, options.event_files),
    )


def _labels(pairs: c.Iterable[str]) -> dict[str, str]:
    labels = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise invalid("InvalidLabel", f"{pair} is no label.", "Write it as KEY=VALUE.")
        labels[key] = value
    return labels


def _health(backend: LocalBackend, options: argparse.Namespace) -> int:
    from .health import is_alive

    alive = is_alive(arguments.state_dir(options))
    print("alive" if alive else "no worker of this queue is alive, or it does not mind its jobs")
    return OK if alive else JOB_FAILED


def _capabilities(options: argparse.Namespace) -> int:
    from .capabilities import probe

    with contextlib.ExitStack() as stack:
        folder = arguments.folder(options, "state_dir") or arguments.folder(
            options, "output_root", arguments.CONTAINER_OUTPUT
        )
        if folder is None:
            folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        elif not folder.is_dir():
            raise invalid("NoSuchFolder", f"{folder} is no folder.", "Give one in which scratch files can be made.")
        found = probe(folder, kernel_root=kernel_folder())
    if options.json:
        _print_json({name: one.to_document() for name, one in found.items()})
    else:
        print(display.capabilities_table(found))
    return OK


def _report(options: argparse.Namespace) -> int:
    from ..telemetry.report.batch import Batch
    from ..telemetry.report.documents import read_folder, read_jobs
    from ..telemetry.report.evidence import Pictures
    from ..telemetry.report.files import Format, write

    output = arguments.output_root(options)
    found, unreadable = read_folder(output)
    jobs: list[dict[str, t.Any]] = []
    # A folder of results that was copied from elsewhere has no queue, and gets none by being looked at.
    if (arguments.state_dir(options) / "queue.db").exists():
        with contextlib.closing(LocalBackend(arguments.state_dir(options))) as backend:
            jobs = [backend.get(job.metadata.name).to_document() for job in backend.list()]
    records, wrong = read_jobs(jobs)
    queued = {record.uid for record in records}
    records += [record for record in found if record.uid not in queued]
    if not records:
        raise invalid("NothingToReport", f"No job left anything in {output}.", "Give the output root of a worker.")
    batch = Batch.of(options.title, records, [*unreadable, *wrong])
    names = {Format.HTML: options.file, Format.CSV: options.csv, Format.JUNIT: options.junit}
    wanted = {form: path for form, path in names.items() if path is not None}
    for file in write(batch, Pictures(output), wanted, dry_run=False):
        done = "written" if file.changed else "unchanged"
        print(f"{file.path}: {done}, {size(file.size)}, {len(records)} jobs, made in {file.seconds:.1f} s")
    for one in batch.unreadable:
        print(f"hyper2kvm-worker: {display.plain(f'{one.where} is not in it: {one.why}')}", file=sys.stderr)
    return OK


def _assess(options: argparse.Namespace, pipeline: Pipeline | None) -> int:
    """Plan for each VM of a folder in a queue of its own, which is gone afterwards."""
    from ..telemetry.report.batch import Batch, Tone
    from ..telemetry.report.documents import read_jobs
    from ..telemetry.report.evidence import Pictures
    from ..telemetry.report.files import Format, write
    from .agent import Agent
    from .assess import find_sources, plan_jobs
    from .pipeline import run_job

    root = options.folder.absolute()
    if not root.is_dir():
        raise invalid("NoSuchFolder", f"{root} is no folder.", "Give the folder that holds the exported VMs.")
    jobs = plan_jobs(find_sources(root), root)
    with tempfile.TemporaryDirectory(prefix="hyper2kvm-assess-") as place:
        output = pathlib.Path(place)
        state = output / ".hyper2kvm"
        with contextlib.closing(LocalBackend(state)) as backend:
            for job in jobs:
                backend.submit(job)
        roots = make_roots(root, output, state_dir=state)
        Agent(Config(roots=roots, state_dir=state, slots=options.slots, idle_seconds=0.0), pipeline or run_job).run()
        with contextlib.closing(LocalBackend(state)) as backend:
            documents = [backend.get(job.metadata.name).to_document() for job in jobs]
        records, wrong = read_jobs(documents)
        files = {Format.HTML: options.html, Format.CSV: options.csv}
        wanted = {form: path for form, path in files.items() if path is not None}
        write(Batch.of(f"VMs in {root}", records, wrong), Pictures(output), wanted, dry_run=False)
    print(display.assessment(records))
    return JOB_FAILED if any(record.outcome.value.tone is Tone.BAD for record in records) else OK


def _submit(backend: LocalBackend, options: argparse.Namespace) -> int:
    jobs = [jobspec1.parse(_read(file)) for file in options.file]
    for job in jobs:
        done = backend.submit(job, force=options.force)
        if options.json:
            _print_json({"outcome": done.outcome.value, "job": done.job.to_document()})
        else:
            words = {Outcome.RETRIED: "submitted again", Outcome.CREATED: "submitted"}
            print(f"{job.metadata.name}: {words.get(done.outcome, done.outcome.value)}")
    if not options.wait:
        return OK
    return _watch(backend, [job.metadata.name for job in jobs], options.json)


def _read(file: str) -> bytes:
    try:
        if file == "-":
            return sys.stdin.buffer.read(validation.MAX_DOCUMENT_BYTES + 1)
        with open(file, "rb") as stream:
            return stream.read(validation.MAX_DOCUMENT_BYTES + 1)
    except OSError as error:
        raise invalid("UnreadableFile", f"{file} cannot be read: {error.strerror}.", "Check its path.") from error


def _watch(backend: LocalBackend, names: c.Collection[str], as_json: bool) -> int:
    """Print a line for each thing that changes in these jobs until they are over."""
    failed = False
    said: dict[str, str] = {}
    for job in backend.watch(names):
        name, phase = job.metadata.key, job.status.phase
        failed = failed or phase in (Phase.FAILED, Phase.CANCELLED)
        if as_json:
            _print_json(job.to_document())
            continue
        parts = [phase.value, job.status.stage or "", display.situation(job)]
        line = f"{name}: {' '.join(part for part in parts if part)}"
        if said.get(name) != line:
            said[name] = line
            print(line, flush=True)
    return JOB_FAILED if failed else OK


def _status(backend: LocalBackend, options: argparse.Namespace) -> int:
    if options.watch and options.json:
        names = [options.job] if options.job else [job.metadata.key for job in backend.list()]
        return _watch(backend, names, True)
    while True:
        jobs = [backend.get(options.job)] if options.job else backend.list()
        if options.json:
            for job in jobs:
                _print_json(job.to_document())
        else:
            if options.watch and sys.stdout.isatty():
                # Home, then clear what is below: no flicker.
                print("\x1b[H\x1b[J", end="")
            print(display.job_details(jobs[0]) if options.job else display.jobs_table(jobs), flush=True)
            if options.watch and not options.job:
                print(display.whole(jobs, time.time()), flush=True)
        if not options.watch or all(job.status.phase in TERMINAL for job in jobs):
            return OK
        time.sleep(_REFRESH_SECONDS)


def _explain(backend: LocalBackend, options: argparse.Namespace) -> int:
    job, reasons = backend.get(options.job), backend.explain(options.job)
    if options.json:
        _print_json([reason.to_document() for reason in reasons])
    else:
        print(display.explanation(job, reasons))
    return OK


def _cancel(backend: LocalBackend, options: argparse.Namespace) -> int:
    return _tell(backend.cancel(options.job), options, "is to be cancelled")


def _suspend(backend: LocalBackend, options: argparse.Namespace) -> int:
    return _tell(backend.suspend(options.job), options, "is suspended")


def _resume(backend: LocalBackend, options: argparse.Namespace) -> int:
    return _tell(backend.suspend(options.job, False), options, "is resumed")


def _priority(backend: LocalBackend, options: argparse.Namespace) -> int:
    if not -1000 <= options.priority <= 1000:
        raise invalid("InvalidPriority", f"{options.priority} is no priority.", "Give a number from -1000 to 1000.")
    return _tell(backend.set_priority(options.job, options.priority), options, f"has priority {options.priority}")


def _tell(job: models.MigrationJob, options: argparse.Namespace, what: str) -> int:
    if options.json:
        _print_json(job.to_document())
    elif job.status.phase in TERMINAL:
        print(f"{job.metadata.key} is {job.status.phase.value}")
    else:
        print(f"{job.metadata.key} {what}")
    return OK


def _delete(backend: LocalBackend, options: argparse.Namespace) -> int:
    backend.delete(options.job)
    if not options.json:
        print(f"{options.job}: its record is removed")
    return OK


def _events(backend: LocalBackend, options: argparse.Namespace) -> int:
    seen: dict[str, tuple[str, int]] = {}
    after_sequence = options.since if isinstance(options.since, int) else 0
    while True:
        names = [options.job] if options.job else [job.metadata.key for job in backend.list()]
        news = []
        for name in names:
            uid, since = seen.get(name, ("", after_sequence))
            events = backend.events(name, since)
            if events and uid and events[0].jobuid != uid:
                # A new job has taken the name; its events count from 1.
                events = backend.events(name)
            if events:
                seen[name] = (events[-1].jobuid, events[-1].sequence)
                news += events
        if isinstance(options.since, datetime.datetime):
            news = [event for event in news if moment(event.time) > options.since]
        for event in sorted(news, key=lambda event: event.time):
            if options.json:
                _print_json(event.to_document())
            else:
                print(display.event_line(event), flush=True)
        if not options.follow:
            return OK
        time.sleep(_FOLLOW_SECONDS)


def _workers(backend: LocalBackend, options: argparse.Namespace) -> int:
    workers = backend.workers()
    if options.json:
        for worker in workers:
            _print_json({**worker.registration.to_document(), "running": worker.running})
        return OK
    rows = [("NAME", "SLOTS", "RUNNING", "LACKS")]
    for worker in workers:
        registration = worker.registration
        lacks = [name for name, one in registration.capabilities.items() if not one.available]
        rows.append((registration.name, str(registration.slots), ", ".join(worker.running), ", ".join(lacks)))
    print(display.table(rows))
    return OK


def _print_json(data: object) -> None:
    print(json.dumps(data, ensure_ascii=False), flush=True)
