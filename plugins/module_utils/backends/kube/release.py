# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Lets what operator and workers make in a cluster go together with the release, which does not know of it."""

from __future__ import annotations

import contextlib

from .api import Absent, Api, Refused
from .resources import CLUSTER_ROLES, ROLES, Resource

#: What the rights of all workers, and of the operators, are called: Role and ClusterRole.
WORKERS_RIGHTS, OPERATORS_RIGHTS = "hyper2kvm-worker", "hyper2kvm-operator"


async def tie(api: Api, rights: str, resource: Resource, name: str, namespace: str | None = None) -> None:
    """Make the rights by which an object is written its owner, so that the cluster removes it when they are removed.

    Where rights of that name are not there or may not be seen, because somebody gave others, the object stays.

    Args:
        rights: the name of the ClusterRole, or for objects of a namespace of the Role there.

    Raises:
        JobError: the API server cannot be reached.
    """
    kind = CLUSTER_ROLES if namespace is None else ROLES
    with contextlib.suppress(Absent, Refused):
        found = await api.get(kind, rights, namespace)
        owner = {
            "apiVersion": kind.api_version,
            "kind": kind.kind,
            "name": rights,
            "uid": found["metadata"]["uid"],
        }
        await api.patch(resource, name, {"metadata": {"ownerReferences": [owner]}}, namespace)
