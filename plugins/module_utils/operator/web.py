# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the operator tells over HTTP, on one port: ``/healthz``, ``/readyz`` and ``/metrics``."""

from __future__ import annotations

import collections.abc as c
import contextlib
import typing as t

from .controller import Controller
from .metrics import Metrics

#: An operator that has not looked at its jobs for so long hangs; it looks each second.
_HANGS_SECONDS = 60.0


class State:
    """What is told: the controller, once this operator leads."""

    def __init__(self, metrics: Metrics) -> None:
        """Stand by."""
        self.metrics = metrics
        self.controller: Controller | None = None

    @property
    def alive(self) -> bool:
        """Whether it does its work."""
        return self.controller is None or not self.ready or self.controller.seconds_since_look < _HANGS_SECONDS

    @property
    def ready(self) -> bool:
        """Whether it stands by, or has seen everything that it acts on."""
        return self.controller is None or self.controller.ready


@contextlib.asynccontextmanager
async def serving(state: State, host: str, port: int) -> c.AsyncIterator[int]:
    """Answer requests as long as the context lasts; gives the port, which the system chose if ``port`` is 0.

    Raises:
        OSError: the port cannot be had.
    """
    from aiohttp import web

    async def live(request: t.Any) -> web.Response:
        return web.Response(text="ok\n") if state.alive else web.Response(status=503, text="it hangs\n")

    async def ready(request: t.Any) -> web.Response:
        return web.Response(text="ok\n") if state.ready else web.Response(status=503, text="not all is listed yet\n")

    async def metrics(request: t.Any) -> web.Response:
        media_type, body = state.metrics.answer(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": media_type})

    application = web.Application()
    application.add_routes([web.get("/healthz", live), web.get("/readyz", ready), web.get("/metrics", metrics)])
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()
