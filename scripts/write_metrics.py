# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write the tables of docs/metrics.md from the table of metrics; ``--check``: only compare them."""

from __future__ import annotations

import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / ".collections"))

from ansible_collections.hyper2kvm.core.plugins.module_utils.telemetry.metrics.table import (
    METRICS,
    Kind,
    Label,
    Metric,
    Teller,
    told_by,
)

PAGE = ROOT / "docs/metrics.md"
BEGIN, END = "<!-- begin {name}: written by scripts/write_metrics.py -->", "<!-- end -->"


def metrics_table(teller: Teller) -> str:
    """Return the Markdown table of what one of the tellers tells."""
    rows = [
        f"| `{metric.name}` | {metric.kind.value} | {metric.unit or '1'} | {_labels(metric)} | {metric.help} |"
        for metric in told_by(teller)
    ]
    return "\n".join(["| Metric | Type | Unit | Labels | Meaning |", "| --- | --- | --- | --- | --- |", *rows])


def labels_table() -> str:
    """Return the Markdown table of the labels' values."""
    rows: dict[str, None] = {}
    for metric in METRICS:
        for label in metric.labels:
            rows[f"| `{label.name}` | {_used(label)} | {_values(label)} |"] = None
    return "\n".join(["| Label | Of | Values |", "| --- | --- | --- |", *rows])


def buckets_table() -> str:
    """Return the Markdown table of the histograms' buckets."""
    rows = [
        f"| `{metric.name}` | {', '.join(f'{bound:g}' for bound in metric.buckets)} |"
        for metric in METRICS
        if metric.kind is Kind.HISTOGRAM
    ]
    return "\n".join(["| Histogram | Buckets up to |", "| --- | --- |", *rows])


def _labels(metric: Metric) -> str:
    return ", ".join(f"`{label.name}`" for label in metric.labels)


def _used(label: Label) -> str:
    return ", ".join(f"`{metric.name.removeprefix('hyper2kvm_')}`" for metric in METRICS if label in metric.labels)


def _values(label: Label) -> str:
    return ", ".join(f"`{value}`" for value in label.values) or label.bound


def page() -> str:
    """Return the page with the tables as they should be."""
    text = PAGE.read_text(encoding="utf-8")
    tables = {teller.value: metrics_table(teller) for teller in Teller}
    for name, table in {**tables, "labels": labels_table(), "buckets": buckets_table()}.items():
        begin = BEGIN.format(name=name)
        before, dummy, rest = text.partition(begin)
        dummy, dummy, after = rest.partition(END)
        text = f"{before}{begin}\n{table}\n{END}{after}"
    return text


if __name__ == "__main__":
    wanted = page()
    if "--check" in sys.argv[1:]:
        sys.exit(
            0 if PAGE.read_text(encoding="utf-8") == wanted else f"{PAGE} is out of date; run python {sys.argv[0]}"
        )
    PAGE.write_text(wanted, encoding="utf-8")
