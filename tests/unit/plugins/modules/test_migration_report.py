# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The module that writes reports."""

from __future__ import annotations

import json
import pathlib
import typing as t

import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible_collections.hyper2kvm.core.plugins.modules import migration_report

from tests.tools import sample_jobs

if t.TYPE_CHECKING:
    from .conftest import Run


def test_the_files_are_written_once(run: Run, tmp_path: pathlib.Path) -> None:
    options: dict[str, t.Any] = {
        "jobs": sample_jobs.three(),
        "output_root": str(sample_jobs.OUTPUT_ROOT),
        "path": str(tmp_path / "a.html"),
        "csv": str(tmp_path / "a.csv"),
        "junit": str(tmp_path / "a.xml"),
        "title": "Wave 1",
    }
    seen = run(migration_report, check=True, **options)
    assert seen["changed"] and list(tmp_path.iterdir()) == []
    first = run(migration_report, **options)
    assert first["changed"]
    assert first["outcomes"] == {"booted": 1, "will not boot": 1, "refused": 1}
    assert [(file["format"], file["size"]) for file in first["files"]] == [
        (name, (tmp_path / f"a.{ending}").stat().st_size)
        for name, ending in [("html", "html"), ("csv", "csv"), ("junit", "xml")]
    ]
    assert first["diff"][0] == {"prepared": f"write {tmp_path}/a.html, {first['files'][0]['size']} bytes\n"}
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert "<title>Wave 1</title>" in page and "data:image/png;base64," in page
    again = run(migration_report, **options)
    assert (again["changed"], again["diff"]) == (False, [])


def test_permissions_are_set_and_kept(run: Run, tmp_path: pathlib.Path) -> None:
    options: dict[str, t.Any] = {"jobs": sample_jobs.three(), "csv": str(tmp_path / "a.csv"), "mode": "0600"}
    assert run(migration_report, check=True, **options)["changed"]
    assert run(migration_report, **options)["changed"]
    assert oct((tmp_path / "a.csv").stat().st_mode)[-3:] == "600"
    assert not run(migration_report, **options)["changed"]
    assert run(migration_report, **{**options, "mode": "0640"})["changed"]


def test_results_in_a_folder_are_reported(run: Run, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "web01").mkdir()
    result = sample_jobs.recorded()["web01-convert"]["status"]["result"]
    (tmp_path / "web01/result.json").write_text(json.dumps(result), encoding="utf-8")
    (tmp_path / "web01/plan.json").write_text("{", encoding="utf-8")
    warned: list[str] = []
    monkeypatch.setattr(AnsibleModule, "warn", lambda module, text: warned.append(text))
    done = run(migration_report, results=str(tmp_path), path=str(tmp_path / "a.html"))
    assert done["outcomes"] == {"booted": 1}
    assert [text.partition(":")[0] for text in warned] == ["web01/plan.json is not in the report"]


def test_nothing_to_report_is_told(run: Run, tmp_path: pathlib.Path) -> None:
    for source in ({"jobs": []}, {"results": str(tmp_path)}):
        done = run(migration_report, path=str(tmp_path / "a.html"), **source)
        assert done["failed"] and done["error"]["reason"] == "NothingToReport"
    assert list(tmp_path.iterdir()) == []


def test_one_source_and_one_file_at_least_are_needed(run: Run, tmp_path: pathlib.Path) -> None:
    assert "path, csv, junit" in run(migration_report, jobs=[{}])["msg"]
    assert "hosts, jobs, results" in run(migration_report, path="/tmp/a")["msg"]
    assert "mutually exclusive" in run(migration_report, path="/tmp/a", jobs=[{}], results="/tmp")["msg"]
