# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The command ``hyper2kvm-operator``: the control plane on Kubernetes. Of several, one acts and the others stand by."""

# This is a command of its own, not a module: it prints, and it exits.
# pylint: disable=ansible-bad-function
from __future__ import annotations

import argparse
import asyncio
import collections.abc as c
import contextlib
import logging
import os
import secrets
import signal
import sys

from ..backends.kube.api import NAMESPACE_VARIABLE, Api, Login, own_namespace
from ..backends.kube.release import OPERATORS_RIGHTS, tie
from ..backends.kube.resources import LEASES
from ..protocol._pydantic import HAS_PYDANTIC
from ..protocol.errors import JobError
from ..telemetry import logs
from ..telemetry.version import collection_version
from .controller import Controller
from .leader import LEASE_NAME, Leadership, LeadershipLost
from .metrics import Metrics
from .web import State, serving

log = logging.getLogger(__name__)

OK, LOST, BAD_INPUT = 0, 1, 2
_PORT = 8080


def main(argv: c.Sequence[str] | None = None) -> int:
    """Run the operator until SIGTERM or SIGINT (status 0), or until another one leads (status 1)."""
    options = _parser().parse_args(argv)
    if not HAS_PYDANTIC:
        print(f"hyper2kvm-operator: {sys.executable} lacks pydantic; install pydantic 2 there", file=sys.stderr)
        return BAD_INPUT
    logs.configure(options.log_format, options.log_level)
    try:
        asyncio.run(_run(options))
        return OK
    except JobError as error:
        print(f"hyper2kvm-operator: {error}", file=sys.stderr)
        return BAD_INPUT
    except OSError as error:
        print(f"hyper2kvm-operator: {options.host}:{options.port}: {error.strerror}", file=sys.stderr)
        return BAD_INPUT


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hyper2kvm-operator",
        description=__doc__,
        epilog="Exit status: 0 it was told to stop, 1 another one leads, 2 wrong input or nothing could be done.",
    )
    parser.add_argument(
        "--namespace",
        metavar="NAME",
        help=f"where the Leases are (default: {NAMESPACE_VARIABLE} in the environment, else the pod's own)",
    )
    parser.add_argument("--kubeconfig", metavar="FILE", help="how to log in (default: the pod's service account)")
    parser.add_argument("--context", metavar="NAME", help="which context of the kubeconfig")
    parser.add_argument("--host", default="0.0.0.0", metavar="ADDRESS", help="where to listen (default: everywhere)")
    parser.add_argument(
        "--port",
        type=int,
        default=_PORT,
        metavar="PORT",
        help=f"for /healthz, /readyz and /metrics (default: {_PORT})",
    )
    logs.add_options(parser)
    return parser


async def _run(options: argparse.Namespace) -> None:
    namespace = options.namespace or own_namespace()
    # A pod's container that is started anew is another process, and has to win the election anew.
    identity = f"{os.environ.get('POD_NAME') or os.uname().nodename}-{secrets.token_hex(4)}"
    state = State(Metrics(collection_version()))
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    login = Login(kubeconfig=options.kubeconfig, context=options.context)
    async with Api.connect(login) as api, serving(state, options.host, options.port) as port:
        log.info("standing by as %s, port %d", identity, port)
        leadership = Leadership(api, namespace, identity)
        acting = asyncio.create_task(_act(api, namespace, identity, leadership, state))
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait({acting, stopped}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if not acting.done():
            acting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await acting
            log.info("stopped")
            with contextlib.suppress(JobError):
                await leadership.release()
            return
        acting.result()


async def _act(api: Api, namespace: str, identity: str, leadership: Leadership, state: State) -> None:
    """Lead once it is this operator's turn, until the Lease is lost."""
    await leadership.gain()
    state.controller = Controller(api, namespace, identity, state.metrics.counted)
    state.metrics.view = state.controller.view
    works = [
        asyncio.create_task(one) for one in (state.controller.run(), leadership.keep(), _tie_lease(api, namespace))
    ]
    try:
        await asyncio.gather(*works)
    except LeadershipLost as error:
        log.error("%s", error)
        # Nothing may hold this up, not even a task that does not end.
        os._exit(LOST)
    finally:
        for work in works:
            work.cancel()
        await asyncio.gather(*works, return_exceptions=True)


async def _tie_lease(api: Api, namespace: str) -> None:
    """Let the election's Lease go when the release is removed. The next leader does so where this one cannot."""
    with contextlib.suppress(JobError):
        await tie(api, OPERATORS_RIGHTS, LEASES, LEASE_NAME, namespace)
