# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where the installed collection is: the code that a local worker runs, which outlives the module that starts it."""

from __future__ import annotations

import os
import pathlib
import sys

from ..protocol import errors
from ..telemetry.version import own_root

#: The command that starts a worker of the installation it lies in.
LAUNCHER = "scripts/hyper2kvm-worker"
_WHERE = "ansible_collections/hyper2kvm/core"


def find_installation(hint: str | None = None) -> pathlib.Path:
    """Return the folder of the installed collection.

    ``hint`` is such a folder, where the caller knows one. Else: the one that this code is in (unless it is a module's
    bundle), then ``ANSIBLE_COLLECTIONS_PATH``, Ansible's default folders, ``/opt/hyper2kvm/collections`` (where the
    role ``conversion_host`` puts it) and Python's search path.

    Raises:
        JobError: (environment) there is none.
    """
    if hint:
        places = [pathlib.Path(hint)]
    else:
        folders = [
            *filter(None, os.environ.get("ANSIBLE_COLLECTIONS_PATH", "").split(":")),
            *("~/.ansible/collections", "/usr/share/ansible/collections", "/opt/hyper2kvm/collections"),
        ]
        places = [own_root(), *(pathlib.Path(folder).expanduser() / _WHERE for folder in folders)]
        places += [pathlib.Path(folder) / _WHERE for folder in sys.path]
    for place in places:
        if (place / LAUNCHER).is_file():
            return place.resolve()
    raise errors.environment(
        "CollectionNotInstalled",
        f"The collection hyper2kvm.core is not installed on this host (looked at {', '.join(map(str, places[:5]))}).",
        "Install it there with ansible-galaxy collection install hyper2kvm.core, or use the role conversion_host.",
    )
