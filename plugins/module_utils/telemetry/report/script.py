# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The report's script: filter, sort, fold. Without it everything is there, in the order of time.

It makes no request and keeps nothing; the page's policy would refuse both.
"""

from __future__ import annotations

SCRIPT = """
"use strict";
(() => {
  const all = (selector, root = document) => Array.from(root.querySelectorAll(selector));
  const table = document.getElementById("jobs");
  const body = table.tBodies[0];
  const rows = Array.from(body.rows);
  const sections = new Map(all("article[data-job]").map((one) => [one.dataset.job, one]));
  const bars = new Map(all(".timeline tr[data-job]").map((one) => [one.dataset.job, one]));

  // What a row is found by: its own words and those of its section's error.
  const words = new Map(rows.map((row) => {
    const error = sections.get(row.dataset.job).querySelector(".note");
    return [row, (row.textContent + " " + (error ? error.textContent : "")).toLowerCase()];
  }));

  const controls = document.getElementById("controls");
  const find = document.getElementById("find");
  const boxes = all("input[type=checkbox]", controls);
  const filter = () => {
    const wanted = find.value.trim().toLowerCase();
    const outcomes = new Set(boxes.filter((box) => box.checked).map((box) => box.value));
    let shown = 0;
    for (const row of rows) {
      const visible = outcomes.has(row.dataset.outcome) && words.get(row).includes(wanted);
      shown += visible;
      for (const one of [row, bars.get(row.dataset.job), sections.get(row.dataset.job)]) {
        if (one) one.hidden = !visible;
      }
    }
    document.getElementById("shown").textContent = `${shown} of ${rows.length} VMs shown`;
  };
  controls.hidden = false;
  controls.addEventListener("submit", (event) => event.preventDefault());
  controls.addEventListener("input", filter);
  filter();

  // The headings become buttons.
  const heads = Array.from(table.tHead.rows[0].cells);
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const order = (one, other) => {
        const [a, b] = [one.cells[column], other.cells[column]];
        const by = "value" in a.dataset
          ? Number(a.dataset.value) - Number(b.dataset.value)
          : a.textContent.localeCompare(b.textContent, "en", {numeric: true});
        return up ? by : -by;
      };
      body.append(...rows.slice().sort(order));
    });
  });

  const fold = (text, open) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = text;
    button.addEventListener("click", () => {
      for (const one of sections.values()) {
        if (!one.hidden) one.firstElementChild.open = open;
      }
    });
    return button;
  };
  document.getElementById("folding").append(fold("Open all that are shown", true), " ", fold("Close all", false));

  const reveal = () => {
    const section = sections.get(location.hash.slice(1));
    if (!section) return;
    section.hidden = false;
    section.firstElementChild.open = true;
    section.scrollIntoView();
  };
  addEventListener("hashchange", reveal);
  reveal();
})();
"""
