# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What workers of tests tell of themselves."""

from __future__ import annotations

import typing as t

from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol import models

#: What a worker must be able to do for every operation.
CAPABILITIES = ("qemu-img", "root", "attach", "boot-test")


def registration(node: str, slots: int, **fields: t.Any) -> models.WorkerStatus:
    """What the worker of ``node`` tells of itself; it can do everything."""
    return models.WorkerStatus(
        name=node,
        host=node,
        boot_id="fake",
        pid=1,
        collection_version="1.0.0",
        slots=slots,
        capabilities={name: models.Capability(available=True) for name in CAPABILITIES},
        **fields,
    )
