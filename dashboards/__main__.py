# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""``python -m dashboards``: write the dashboard, the rules and the runbooks' index; ``--check``: only compare them.

The chart has a copy of the first two, for Helm reads no file outside of a chart; the role ``observability`` takes them
from there.
"""

from __future__ import annotations

import pathlib
import sys

import yaml

from dashboards.alerts import ALERTS, Alert
from dashboards.dashboard import dashboard

ROOT = pathlib.Path(__file__).resolve().parents[1]
CHART = ROOT / "helm/hyper2kvm-worker/files"
DASHBOARD, RULES = "hyper2kvm.json", "hyper2kvm.rules.yml"
INDEX = ROOT / "docs/runbooks/README.md"
BEGIN, END = "<!-- begin: written by python -m dashboards -->", "<!-- end -->"
_HEAD = """\
# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Alerts for Prometheus. Written by python -m dashboards.
---
"""


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as blocks, and lists as yamllint wants them."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        """Indent lists too."""
        super().increase_indent(flow, False)


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def rules() -> str:
    """Return Prometheus' rules file."""
    found = {"groups": [{"name": "hyper2kvm", "rules": [_rule(alert) for alert in ALERTS]}]}
    return _HEAD + yaml.dump(found, Dumper=_Dumper, sort_keys=False, width=150, indent=2)


def _rule(alert: Alert) -> dict[str, object]:
    return {
        "alert": alert.name,
        "expr": alert.expr,
        "for": alert.wait,
        "labels": {"severity": alert.severity.value},
        "annotations": {"summary": alert.summary, "description": alert.todo, "runbook_url": alert.runbook},
    }


def index() -> str:
    """Return the runbooks' index with the table as it should be."""
    before, dummy, rest = INDEX.read_text(encoding="utf-8").partition(BEGIN)
    dummy, dummy, after = rest.partition(END)
    rows = [f"| [{one.name}]({one.name}.md) | {one.severity.value} | {one.todo} |" for one in ALERTS]
    table = "\n".join(["| Alert | Severity | What to do |", "| --- | --- | --- |", *rows])
    return f"{before}{BEGIN}\n{table}\n{END}{after}"


def files() -> dict[pathlib.Path, str]:
    """Return what is written, by where."""
    board, alerts = dashboard(), rules()
    return {
        ROOT / "dashboards" / DASHBOARD: board,
        ROOT / "dashboards" / RULES: alerts,
        CHART / "dashboards" / DASHBOARD: board,
        CHART / "rules" / RULES: alerts,
        INDEX: index(),
    }


if __name__ == "__main__":
    wanted = files()
    stale = [path for path, text in wanted.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if "--check" in sys.argv[1:]:
        names = ", ".join(str(path.relative_to(ROOT)) for path in stale)
        sys.exit(f"{names}: out of date; run python -m dashboards" if stale else 0)
    for path in stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(wanted[path], encoding="utf-8")
