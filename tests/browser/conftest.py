# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A browser for all tests here."""

from __future__ import annotations

import pathlib
import typing as t

import pytest

from tests.browser.chromium import Browser, browser, write_page
from tests.tools import sample_jobs


@pytest.fixture(scope="session")
def chromium() -> t.Iterator[Browser]:
    """A real Chromium."""
    with browser() as one:
        yield one


@pytest.fixture(scope="session")
def three(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The report about three VMs that were really moved, or not."""
    return write_page(tmp_path_factory.mktemp("report") / "three.html", sample_jobs.three())


@pytest.fixture(scope="session")
def many(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The report about 500 made-up VMs."""
    return write_page(tmp_path_factory.mktemp("report") / "many.html", sample_jobs.many(500))
