# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""``python -m tests.guests``: build guests, or tell which there are."""

from __future__ import annotations

import argparse
import concurrent.futures
import pathlib
import sys
import time

from tests.guests import DEFAULT_CACHE, build
from tests.guests.host import BuildError
from tests.guests.matrix import ALL
from tests.guests.specs import SPECS


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.guests", description="Guests as they come out of VMware.")
    commands = parser.add_subparsers(dest="command", required=True)
    building = commands.add_parser("build", help="build guests, or find them in the cache")
    building.add_argument(
        "names", nargs="*", metavar="NAME", help=f"{', '.join(SPECS)}; matrix-01 …; none: all but these"
    )
    building.add_argument("--cache", type=pathlib.Path, default=DEFAULT_CACHE, help="default: %(default)s")
    commands.add_parser("list", help="show the guests")
    arguments = parser.parse_args()
    if arguments.command == "list":
        for spec in ALL.values():
            print(f"{spec.name:16} {spec.firmware:5} {spec.filesystem:6} {spec.disk_mib:5} MiB  {spec.address}")
        return 0
    for name in arguments.names:
        if name not in ALL:
            parser.error(f"there is no guest {name}")
    cache = arguments.cache.resolve()
    # A build keeps one processor busy, and waits for its disk as well.
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        return max(pool.map(lambda name: _build(name, cache), arguments.names or SPECS))


def _build(name: str, cache: pathlib.Path) -> int:
    began = time.monotonic()
    try:
        folder = build(name, cache)
    except BuildError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    ova = folder / f"{name}.ova"
    print(f"{ova if ova.exists() else folder}  ({time.monotonic() - began:.1f} s)", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
