# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What tests of hostile inputs share."""

from __future__ import annotations

import pathlib
import typing as t

import pytest

from tests.hostile.canary import Canary


@pytest.fixture
def canary(tmp_path: pathlib.Path) -> t.Iterator[Canary]:
    """Files of the host, which must be untouched afterwards."""
    watched = Canary(tmp_path / "host")
    yield watched
    watched.check()
    watched.close()
