# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Attached and mounted: what the modules do that leave a process behind which holds something."""

from __future__ import annotations

import contextlib
import pathlib
import re
import typing as t

from ..disks.source import open_source
from ..protocol import models
from ..protocol.errors import invalid
from ..worker.context import Roots
from . import options
from .attachments import Attachments
from .direct import located, require_root

Result = dict[str, t.Any]
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


class Hold(t.Protocol):
    """Enters a context that attaches or mounts a source, and gives what its user has to know."""

    def __call__(
        self, spec: models.SourceSpec, roots: Roots, *, writable: bool, workdir: pathlib.Path
    ) -> contextlib.AbstractContextManager[Result]:
        """Enter it."""


def hold_or_release(params: options.Options, hold: Hold, held_state: str, *, check_mode: bool) -> Result:
    """Return the result of a module whose state ``held_state`` holds something and whose other lets go of it."""
    name = params["name"]
    if not _NAME.fullmatch(name):
        raise invalid("InvalidName", f"name: {name!r} is no name.", "Give lower case letters, digits and hyphens.")
    attachments = Attachments(options.roots(params), options.state_dir(params))
    if params["state"] != held_state:
        return _released(attachments, name, check_mode=check_mode)
    spec, roots = located(params)
    kind = {"state": held_state, "source": spec.to_document(), "writable": params["writable"]}
    record = attachments.find(name)
    if record is not None:
        if record.about != kind:
            raise invalid(
                "AttachmentDiffers",
                f"The attachment {name} of {record.owner} is there already, for something else.",
                "Give this one another name, or end that one first.",
            )
        return {"changed": False, **record.to_data()}
    if check_mode:
        open_source(spec, roots.input)
        return {"changed": True, "name": name}
    require_root()

    def opened(folder: pathlib.Path) -> contextlib.AbstractContextManager[Result]:
        return hold(spec, roots, writable=params["writable"], workdir=folder)

    return {"changed": True, **attachments.hold(name, params["owner"], kind, params["ttl"], opened).to_data()}


def _released(attachments: Attachments, name: str, *, check_mode: bool) -> Result:
    if check_mode:
        return {"changed": attachments.find(name) is not None, "name": name}
    if attachments.find(name) is not None:
        require_root()
    return {"changed": attachments.release(name), "name": name}
