# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What lies on an EFI system partition. Names are compared without case, as FAT does."""

from __future__ import annotations

from . import paths
from .reading import Reading


def find(tree: Reading, folder: str, *names: str) -> str:
    """Return the path of ``folder/names…`` as it is spelled there; as given from where nothing is there."""
    path = folder
    for name in names:
        known = next((n for n in tree.names(path) if n.lower() == name.lower()), name)
        path = paths.join(path, known)
    return path


def vendors(tree: Reading, esp: str) -> list[str]:
    """Return the folders of operating systems' loaders: those in ``EFI`` that are not the fallback's."""
    folder = find(tree, esp, "EFI")
    found = [paths.join(folder, name) for name in tree.names(folder) if name.lower() != "boot"]
    return [path for path in found if loaders(tree, path)]


def loaders(tree: Reading, folder: str) -> list[str]:
    """Return the EFI programs in a folder."""
    return [paths.join(folder, name) for name in tree.names(folder) if name.lower().endswith(".efi")]
