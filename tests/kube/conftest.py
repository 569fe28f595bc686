# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An API server for all tests of a run, and a namespace for each."""

from __future__ import annotations

import itertools
import json
import typing as t

import pytest

from tests.kube.api_server import ApiServer, serving

_NUMBERS = itertools.count(1)


@pytest.fixture(scope="session")
def api_server(tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[ApiServer]:
    """An API server with our CRDs, shared by all tests: what a test makes, it makes in a namespace of its own."""
    with serving(tmp_path_factory.mktemp("api-server")) as server:
        yield server


@pytest.fixture
def namespace(api_server: ApiServer) -> str:
    """A namespace that is this test's alone. Nothing removes it: that would take a controller."""
    name = f"test-{next(_NUMBERS)}"
    document = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    api_server.kubectl("create", "-f", "-", stdin=json.dumps(document))
    return name
