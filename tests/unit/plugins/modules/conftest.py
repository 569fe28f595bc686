# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Runs modules as Ansible does."""

from __future__ import annotations

import typing as t

import pytest

from tests.running_modules import run_module

Run = t.Callable[..., dict[str, t.Any]]


@pytest.fixture
def run() -> Run:
    """Returns a function: module, its options as keywords; ``check`` for check mode. It returns the module's result."""
    return run_module
