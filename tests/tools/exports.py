# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A folder of many exported VMs that takes the room of two."""

from __future__ import annotations

import os
import pathlib
import shutil

from tests.guests import build

#: Of so many VMs one has an empty disk.
_BLANK_EACH = 10
_RACK = 50


def write_exports(folder: pathlib.Path, count: int) -> dict[str, str]:
    """Fill ``folder`` with names of the tiny guest and of a blank disk, in folders of fifty.

    :returns: which guest each VM is, ``tiny`` or ``tiny-blank``, by the path of its OVA in the folder.
    """
    first: dict[str, pathlib.Path] = {}
    found = {}
    for number in range(count):
        name = "tiny-blank" if number % _BLANK_EACH == _BLANK_EACH - 1 else "tiny"
        place = folder / f"rack{number // _RACK}/vm{number:03}.ova"
        place.parent.mkdir(parents=True, exist_ok=True)
        if name in first:
            os.link(first[name], place)
        else:
            first[name] = place
            shutil.copyfile(build(name) / f"{name}.ova", place)
        found[str(place.relative_to(folder))] = name
    return found
