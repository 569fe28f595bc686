# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The block devices that a job writes its target onto: held from its first stage to its last, and fit for it."""

from __future__ import annotations

import collections.abc as c
import contextlib

from ..disks.block_device import BlockDevice, open_allowed
from ..disks.model import DiskImage
from ..protocol.errors import invalid
from .job_context import JobContext


@contextlib.contextmanager
def held(context: JobContext) -> c.Iterator[None]:
    """Hold the devices of ``context``'s job, if it names some, and put them into ``context.devices``.

    Raises:
        JobError: class ``invalid``, there are not as many as disks, one is too small, or holds something that the job
            may not overwrite; others as :func:`...disks.block_device.open_allowed`.
    """
    names, images = context.spec.target.devices, context.source.images
    if names and len(names) != len(images):
        raise invalid(
            "DeviceCount",
            f"spec.target.devices names {len(names)} devices, the source has {len(images)} disks.",
            "Name one device for each disk, in the source's order.",
        )
    roots = context.roots
    with contextlib.ExitStack() as stack:
        for name, image in zip(names, images, strict=False):
            private = (roots.input, roots.output, roots.scratch)
            device = stack.enter_context(open_allowed(name, roots.target_devices, private))
            _check_size(context, device, image)
            context.devices.append(device)
        _check_contents(context)
        yield


def _check_size(context: JobContext, device: BlockDevice, image: DiskImage) -> None:
    if device.size < image.virtual_size:
        raise invalid(
            "DeviceTooSmall",
            f"The device {device.name} has {device.size} bytes, {image.name} has {image.virtual_size}.",
            "Enlarge the device, or name a larger one.",
        )
    if device.size > image.virtual_size:
        context.warn(
            f"The device {device.name} has {device.size - image.virtual_size} bytes more than {image.name}. The guest "
            "sees the larger disk; a GPT's backup stays where the smaller one ended (sgdisk -e moves it)."
        )


def _check_contents(context: JobContext) -> None:
    """Refuse to write over what is not this job's, as far as it may not."""
    known = context.device_identities
    if any(known.get(str(device.name), device.identity) != device.identity for device in context.devices):
        # A name leads to another device by now (the host was restarted, say); what was copied is not on it.
        known.clear()
        context.forget_copies()
    for device in context.devices:
        if str(device.name) in known or context.spec.target.force:
            continue
        content = device.content()
        if content:
            raise invalid(
                "DeviceNotBlank",
                f"The device {device.name} is not blank: it holds {content}.",
                "Look at it; then wipe it (wipefs --all, blkdiscard), name another one, or set target.force to "
                "overwrite it.",
            )
