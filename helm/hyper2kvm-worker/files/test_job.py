# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What ``helm test`` runs in a pod: a tiny job, from the input storage to the output storage.

Its disk holds no guest, so it is copied and not looked into; how long that takes depends on nothing but the cluster.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import sys

sys.path.insert(0, "/opt/hyper2kvm/collections")
from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.kube.client import KubernetesBackend
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol import validation
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.lifecycle import HELD, Phase

INPUT, OUTPUT = pathlib.Path("/data/input"), pathlib.Path("/data/output")
SECONDS = 300.0
MIB = 1 << 20


def main() -> int:
    """Return 0 if the job's target is there and holds what its source held."""
    with contextlib.closing(KubernetesBackend()) as backend:
        return migrated(backend)


def migrated(backend: KubernetesBackend) -> int:
    """The same, with a login."""
    name = f"helm-test-{os.getpid()}-{os.urandom(3).hex()}"
    source = INPUT / backend.namespace / f"{name}.raw"
    target = OUTPUT / backend.namespace / name
    content = os.urandom(MIB) + bytes(7 * MIB)
    source.parent.mkdir(parents=True, exist_ok=True)
    source.write_bytes(content)
    spec = {
        "source": {"path": source.name},
        "target": {"path": name, "format": "raw", "definitions": []},
        "guest": {"enabled": False},
        "verify": {"boot": False},
    }
    try:
        job = backend.submit(validation.parse_job({"metadata": {"name": name}, "spec": spec})).job
        for job in backend.watch([name], SECONDS):
            status = job.status
            reasons = "; ".join(reason.message for reason in status.waiting)
            print(name, status.phase.value, status.assigned_node or "", status.stage or "", reasons, flush=True)
        if job.status.phase is not Phase.COMPLETED:
            print(job.status.last_error or f"It is not over after {SECONDS:.0f} s.", file=sys.stderr)
            return 1
        (disk,) = [one for one in job.status.artifacts if one.kind == "disk"]
        # Where each node has an output of its own, this pod may see another one.
        if target.is_dir() and (OUTPUT / backend.namespace / disk.path).read_bytes() != content:
            print(f"{disk.path} does not hold what {source} holds.", file=sys.stderr)
            return 1
        print("From the input storage to the output storage: well.")
        return 0
    finally:
        if backend.cancel(name).status.phase not in HELD:
            backend.delete(name)
        source.unlink()
        shutil.rmtree(target, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
