# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which version of the collection runs, and where it is."""

from __future__ import annotations

import functools
import json
import pathlib
import re


def own_root() -> pathlib.Path:
    """Return the folder of the collection that this code is of."""
    return pathlib.Path(__file__).parents[3]


@functools.lru_cache(maxsize=1)
def collection_version() -> str:
    """Return the version of the collection that this code is of; ``unknown`` inside a module's bundle."""
    root = own_root()
    try:
        manifest = json.loads((root / "MANIFEST.json").read_text(encoding="utf-8"))
        return str(manifest["collection_info"]["version"])
    except (OSError, ValueError, KeyError):
        pass
    try:
        match = re.search(r"^version: *(\S+)$", (root / "galaxy.yml").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        match = None
    return match[1] if match else "unknown"
