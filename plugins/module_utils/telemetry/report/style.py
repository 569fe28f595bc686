# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The report's style sheet: light and dark as the reader's system has it, and fit for paper."""

from __future__ import annotations

STYLE = """
:root {
  color-scheme: light dark;
  --ground: #ffffff; --raised: #f5f6f8; --text: #1b1f24; --faint: #57606a; --line: #d4d9df; --link: #0a58ad;
  --good: #0f6b35; --good-ground: #e3f5e9; --doubtful: #7a4b00; --doubtful-ground: #fdf1d8;
  --bad: #a81c1c; --bad-ground: #fde8e8; --open: #4a5460; --open-ground: #e9ecf0;
  --inspect: #c9d3dd; --plan: #b5c4d6; --fix: #d9c6f0; --rehearse: #a8dcd0; --copy: #9cc4f2; --commit: #b9b8f0;
  --verify: #8fd3a8; --publish: #d8d2b4; --other: #cccccc; --failed: #f3a5a5; --word: #14202c;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #14181d; --raised: #1d232a; --text: #e4e8ec; --faint: #a3adb8; --line: #39424c; --link: #7db8ff;
    --good: #74d69a; --good-ground: #12321f; --doubtful: #f0c068; --doubtful-ground: #382a0c;
    --bad: #ff9b9b; --bad-ground: #411a1c; --open: #b9c2cc; --open-ground: #2a313a;
    --inspect: #5d6c81; --plan: #466a8c; --fix: #7a59b0; --rehearse: #26796b; --copy: #2b6db3; --commit: #5a58c2;
    --verify: #257d49; --publish: #756d40; --other: #656565; --failed: #b63d3d; --word: #ffffff;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 0 1.5rem 3rem; max-width: 90rem; background: var(--ground); color: var(--text);
  font: 1rem/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; overflow-wrap: anywhere;
}
a { color: var(--link); }
:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; }
section:focus, .job:focus { outline: none; }
h1 { margin: 1.5rem 0 0; font-size: 1.75rem; }
h2 { margin: 2.5rem 0 .75rem; font-size: 1.3rem; border-bottom: 1px solid var(--line); padding-bottom: .25rem; }
h3 { display: inline; font-size: 1.05rem; }
h4 { margin: 1.25rem 0 .4rem; font-size: 1rem; }
h5 { margin: .9rem 0 .3rem; font-size: .9rem; color: var(--faint); }
p { margin: .4rem 0; }
.when, .hint, .by, footer, figcaption, caption, .cut { color: var(--faint); }
.cut { font-style: italic; }
.skip { position: absolute; left: -999rem; }
.skip:focus { left: 1rem; top: 1rem; background: var(--ground); padding: .5rem; }
.hidden { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
[hidden] { display: none !important; }
nav ul, .tiles, .legend {
  list-style: none; margin: .5rem 0; padding: 0; display: flex; flex-wrap: wrap; gap: .4rem 1.25rem;
}

.tiles { gap: .75rem; margin: 1rem 0; }
.tile {
  display: grid; grid-template-columns: auto 1fr; align-items: baseline; column-gap: .5rem; min-width: 9rem;
  padding: .6rem 1rem; border-radius: .5rem; border-left: .35rem solid currentColor;
}
.tile strong { font-size: 1.75rem; line-height: 1.2; }
.tile .sign { font-size: 1.25rem; }
.tile span:last-child { grid-column: 1 / -1; color: var(--text); }
.good { color: var(--good); }
.doubtful { color: var(--doubtful); }
.bad { color: var(--bad); }
.open { color: var(--open); }
.tile.good, .badge.good { background: var(--good-ground); }
.tile.doubtful, .badge.doubtful { background: var(--doubtful-ground); }
.tile.bad, .badge.bad { background: var(--bad-ground); }
.tile.open, .badge.open { background: var(--open-ground); }
.badge { display: inline-block; padding: 0 .55rem; border-radius: 1rem; font-size: .85rem; white-space: nowrap; }
.sign { display: inline-block; min-width: 1.1em; text-align: center; font-weight: bold; }
.note {
  padding: .5rem 1rem; border-left: .35rem solid currentColor; background: var(--bad-ground);
  border-radius: .25rem;
}
.note > * { color: var(--text); }
.note h4:first-child { margin-top: .3rem; color: var(--bad); }

.facts {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: .6rem 1.5rem;
  margin: 1rem 0;
}
.facts dt { color: var(--faint); font-size: .85rem; }
.facts dd { margin: 0; }

table { border-collapse: collapse; width: 100%; font-size: .9rem; }
caption { text-align: left; padding: .25rem 0; font-size: .85rem; }
th, td { text-align: left; vertical-align: top; padding: .3rem .6rem; border-bottom: 1px solid var(--line); }
thead th { background: var(--raised); position: sticky; top: 0; z-index: 1; }
tbody th { font-weight: 600; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
#summary table { width: auto; }
/* Else a column would become as narrow as a letter. */
.jobs th, .jobs td { overflow-wrap: break-word; }
.scrolled { overflow: auto; max-height: 75vh; }
th button {
  font: inherit; color: inherit; background: none; border: 0; padding: 0; cursor: pointer;
  text-decoration: underline dotted;
}
th button { white-space: nowrap; text-align: inherit; }
th button::after { content: " \\2195"; color: var(--faint); }
[aria-sort=ascending] button::after { content: " \\2191"; color: inherit; }
[aria-sort=descending] button::after { content: " \\2193"; color: inherit; }
#controls { display: flex; flex-wrap: wrap; gap: .5rem 1.5rem; align-items: end; margin-bottom: .5rem; }
fieldset {
  border: 1px solid var(--line); border-radius: .4rem; display: flex; flex-wrap: wrap; gap: .2rem 1rem;
  padding: .2rem .8rem .4rem;
}
input[type=search] { font: inherit; padding: .25rem .5rem; width: 16rem; max-width: 100%; }
#folding button { font: inherit; padding: .2rem .8rem; }

.timeline { table-layout: fixed; }
.timeline th:first-child { width: 15rem; }
.timeline .number { width: 7rem; }
.timeline tbody th, .timeline tbody td {
  padding: .1rem .6rem; font-weight: normal; white-space: nowrap; overflow: hidden; text-overflow: ellipsis;
}
.timeline td:nth-child(2), .timeline th:nth-child(2) { padding-left: 0; padding-right: 0; }
.axis { display: block; width: 100%; height: 1.2rem; overflow: visible; }
.tick { font-size: .75rem; fill: var(--faint); }
.bars { display: block; width: 100%; height: 18px; }
.bars text { font-size: .68rem; fill: var(--word); }
.grid { stroke: var(--line); }
.bar { stroke: var(--ground); stroke-width: 1; }
.inspect { fill: var(--inspect); }
.plan { fill: var(--plan); }
.fix { fill: var(--fix); }
.rehearse { fill: var(--rehearse); }
.copy { fill: var(--copy); }
.commit { fill: var(--commit); }
.verify { fill: var(--verify); }
.publish { fill: var(--publish); }
.other { fill: var(--other); } .failed { fill: var(--failed); }
.legend { font-size: .85rem; }
.legend li { display: flex; align-items: center; gap: .35rem; }

figure { margin: .5rem 0; }
figcaption { font-size: .85rem; }
.chart { display: grid; grid-template-columns: auto 1fr; gap: 0 .6rem; }
.chart > div > svg:first-child {
  display: block; width: 100%; height: 10rem; border-left: 1px solid var(--line);
  border-bottom: 1px solid var(--line);
}
.scale {
  display: flex; flex-direction: column; justify-content: space-between; height: 10rem; margin: 0;
  font-size: .75rem; color: var(--faint); text-align: right;
}
path.read { fill: var(--copy); }
path.written {
  fill: none; stroke: var(--text); stroke-width: 2; stroke-dasharray: 5 3; vector-effect: non-scaling-stroke;
}
.key { display: inline-block; width: 1.4rem; height: .8rem; }
.key.read { background: var(--copy); }
.key.written { height: 0; border-top: 2px dashed var(--text); }

article { border: 1px solid var(--line); border-radius: .5rem; margin: .5rem 0; }
summary { padding: .5rem 1rem; cursor: pointer; background: var(--raised); border-radius: .5rem; }
.job { padding: .25rem 1rem 1rem; scroll-margin-top: 3rem; }
.job table { width: auto; min-width: 50%; }
pre {
  font: .8rem/1.45 ui-monospace, "DejaVu Sans Mono", monospace; margin: .3rem 0; padding: .6rem .8rem;
  overflow: auto; max-height: 30rem; background: var(--raised); border: 1px solid var(--line);
  border-radius: .3rem; unicode-bidi: plaintext;
}
.message, .command { white-space: pre-wrap; }
.console { background: #10141a; color: #d8dee6; border-color: #39424c; }
code { font: .85em ui-monospace, "DejaVu Sans Mono", monospace; }
.diff ins { color: var(--good); background: var(--good-ground); text-decoration: none; }
.diff del { color: var(--bad); background: var(--bad-ground); text-decoration: none; }
.changes { padding-left: 1.75rem; }
.changes > li { margin-bottom: .9rem; }
.path { margin-bottom: 0; font-weight: 600; }
.screen img { max-width: min(100%, 45rem); height: auto; border: 1px solid var(--line); }

@media (max-width: 45rem) { body { padding: 0 .75rem 2rem; } .timeline th:first-child { width: 9rem; } }
@media print {
  :root { color-scheme: light; }
  body { max-width: none; padding: 0; font-size: 9pt; }
  nav, .skip, #controls, #folding { display: none; }
  .scrolled, pre { max-height: none; overflow: visible; white-space: pre-wrap; }
  .scrolled { white-space: normal; }
  thead th { position: static; }
  th button::after { content: none; }
  tr, figure, .tile, .note { break-inside: avoid; }
  h2, h3, h4 { break-after: avoid; }
  article:has(details:not([open])) { display: none; }
  .bar, .tile, .badge, ins, del, .key { print-color-adjust: exact; }
}
"""
