# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What tests on a cluster share: the cluster."""

from __future__ import annotations

import collections.abc as c
import secrets

import pytest

from tests.cluster import images
from tests.cluster.cluster import Cluster


@pytest.fixture(scope="session")
def cluster() -> c.Iterator[Cluster]:
    """This checkout's cluster with two nodes, which have the product's image.

    One that is up before is used and left; else it is brought up, and taken down after the last test.
    """
    found = Cluster()
    left = found.is_up()
    try:
        found.up(nodes=2)
        found.load_image(images.product())
        yield found
    finally:
        if not left:
            found.down()


@pytest.fixture
def namespace(cluster: Cluster) -> c.Iterator[str]:
    """An empty namespace, which is removed afterwards with all that is in it, by and by."""
    name = f"test-{secrets.token_hex(4)}"
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    # Without it no pod can be made.
    cluster.kubectl("--namespace", name, "wait", "--for=create", "serviceaccount/default", "--timeout=60s")
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false", "--ignore-not-found")
