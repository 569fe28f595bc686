# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What tests with real guests share."""

from __future__ import annotations

import pathlib

import pytest

from tests.e2e.migration import ConversionHost


@pytest.fixture
def host(tmp_path: pathlib.Path) -> ConversionHost:
    """A conversion host with empty roots."""
    return ConversionHost(tmp_path)
