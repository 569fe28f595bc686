# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One version everywhere: the collection's, its changelog's, the chart's and the manifests'."""

from __future__ import annotations

import pathlib
import typing as t

import yaml

ROOT = pathlib.Path(__file__).parents[2]


def load(path: str) -> t.Any:
    """Data of a YAML file."""
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


def test_the_changelog_has_the_version_or_announces_it() -> None:
    version = load("galaxy.yml")["version"]
    if version in load("changelogs/changelog.yaml")["releases"]:
        assert f"\nv{version}\n" in (ROOT / "CHANGELOG.rst").read_text(encoding="utf-8")
    else:
        # It is being made: the fragments of what it brings wait for the release, the summary among them.
        assert load(f"changelogs/fragments/{version}.yml")["release_summary"]


def test_the_chart_has_the_collections_version() -> None:
    version = load("galaxy.yml")["version"]
    chart = load("helm/hyper2kvm-worker/Chart.yaml")
    assert (chart["version"], chart["appVersion"]) == (version, version)
    makefile = (ROOT / "k8s/Makefile").read_text(encoding="utf-8")
    assert f"\nIMAGE ?= hyper2kvm:{version}\n" in makefile
