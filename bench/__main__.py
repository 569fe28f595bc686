# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""``python -m bench``: how long things take, as ratios against a peer in the same run. Ends with 1 past a limit."""

from __future__ import annotations

import argparse
import pathlib
import sys
import tempfile
import typing as t

from bench import assess, batch, copy, estimate, jobs, memory, observability, playbook, queue
from bench.figures import Figure
from tests.guests import DEFAULT_CACHE

BENCHES: dict[str, t.Callable[[pathlib.Path], list[Figure]]] = {
    "start": jobs.start,
    "conversion": jobs.conversion,
    "layouts": jobs.layouts,
    "copy": copy.stream_optimized,
    "disks": copy.side_by_side,
    "sources": copy.other_sources,
    "deleted": copy.deleted_files,
    "bandwidth": copy.bandwidth,
    "memory": memory.of_a_worker,
    "batch": batch.of_sixteen,
    "estimate": estimate.of_time_left,
    "assess": assess.of_a_folder,
    "queue": queue.that_cannot_run,
    "playbook": playbook.overhead,
    "observability": observability.cost,
}


def main() -> int:
    """Print a line a figure: what, the figure, its limit."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("only", nargs="*", choices=[*BENCHES, []], help="default: all")
    figures: list[Figure] = []
    DEFAULT_CACHE.mkdir(parents=True, exist_ok=True)
    for name in parser.parse_args().only or BENCHES:
        with tempfile.TemporaryDirectory(dir=DEFAULT_CACHE) as scratch:
            figures += BENCHES[name](pathlib.Path(scratch))
    width = max(len(figure.what) for figure in figures)
    for figure in figures:
        print(f"{figure.what:<{width}}  {figure.text}")
    return 1 if any(figure.missed for figure in figures) else 0


if __name__ == "__main__":
    sys.exit(main())
