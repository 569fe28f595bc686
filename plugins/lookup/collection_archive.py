# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: collection_archive
short_description: Pack this collection for a conversion host
version_added: 1.0.0
author:
  - hyper2kvm contributors (@hyper2kvm)
description:
  - Packs what a worker needs of the collection that this run uses, and returns the archive's path on the controller.
  - The same files give the same archive, byte for byte, and a name that holds its digest.
  - The archive lies in Ansible's temporary folder, and is removed with it at the end of the run.
options:
  _terms:
    description: None are taken.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Bring the collection to a conversion host
  ansible.builtin.copy:
    src: "{{ lookup('hyper2kvm.core.collection_archive') }}"
    dest: /opt/hyper2kvm/releases/
    mode: "0644"
"""

RETURN = r"""
_list:
  description: The archive's path, as the only element.
  type: list
  elements: str
  sample: [/root/.ansible/tmp/ansible-local-42/core-1.0.0-0f3a9c51d2e4.tar.gz]
"""

import gzip
import hashlib
import io
import os
import pathlib
import tarfile
import tempfile
import typing as t

from ansible import constants
from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase
from ansible_collections.hyper2kvm.core.plugins.module_utils.telemetry.version import collection_version
from ansible_collections.hyper2kvm.core.plugins.module_utils.worker.installation import LAUNCHER

_INSIDE = "ansible_collections/hyper2kvm/core"
#: One of the first two says the version: an installed collection has the one, a checkout the other.
_FILES = ("MANIFEST.json", "galaxy.yml", "LICENSE", "requirements.txt")
_FOLDER = "plugins/module_utils"
#: Of every file in an archive: 1980-01-01, the oldest that all archivers take. Seconds.
_TIME = 315532800


def archive_of(root: pathlib.Path) -> bytes:
    """Return the archive of what a worker needs of the collection in ``root``; equal files give equal bytes."""
    names = [name for name in _FILES if (root / name).is_file()]
    code = (path for path in (root / _FOLDER).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    names += sorted(str(path.relative_to(root)) for path in code)
    written = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=written, mode="wb", filename="", mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        # The command comes last: where unpacking broke off, there is none.
        for name in (*names, LAUNCHER):
            content = (root / name).read_bytes()
            member = tarfile.TarInfo(f"{_INSIDE}/{name}")
            member.size, member.mtime = len(content), _TIME
            member.mode = 0o755 if name == LAUNCHER else 0o644
            tar.addfile(member, io.BytesIO(content))
    return written.getvalue()


class LookupModule(LookupBase):  # type: ignore[misc]
    """Packs the collection that it is a part of."""

    def run(self, terms: list[str], variables: dict[str, t.Any] | None = None, **kwargs: t.Any) -> list[str]:
        """Return the path of the archive, which is written where there is none."""
        if terms:
            raise AnsibleLookupError("hyper2kvm.core.collection_archive takes no terms.")
        content = archive_of(pathlib.Path(__file__).absolute().parents[2])
        digest = hashlib.sha256(content).hexdigest()[:12]
        path = pathlib.Path(constants.DEFAULT_LOCAL_TMP) / f"core-{collection_version()}-{digest}.tar.gz"
        if not path.exists():
            # By a rename, because hosts of one play may ask at once.
            descriptor, partial = tempfile.mkstemp(dir=path.parent)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
            os.replace(partial, path)
        return [str(path)]
