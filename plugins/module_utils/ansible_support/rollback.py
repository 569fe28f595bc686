# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Taking a published target back, and only what nobody has touched since."""

from __future__ import annotations

import hashlib
import json
import pathlib
import tempfile

from ..disks.digest import digest_disk
from ..disks.paths import confine
from ..disks.usage import writer_of
from ..protocol import models
from ..protocol.errors import environment, invalid
from ..worker.layout import folder_below

_RESULT = "result.json"
_CHUNK = 1 << 20


class PublishedTarget:
    """What a job published in one folder below the output root."""

    def __init__(self, output_root: pathlib.Path, folder: str) -> None:
        """Look for a target in ``folder``. Raises: JobError, the folder is not below the output root."""
        self._root = output_root.resolve()
        self._folder = folder_below(output_root, folder)

    def devices(self) -> list[str]:
        """The block devices that hold disks of the target; they are nobody's to take back but their owner's."""
        result = self._result()
        return [] if result is None else [a.path for a in result.artifacts if _is_device(a)]

    def remove(self, *, dry_run: bool) -> list[str]:
        """Remove the target's files and return them, relative to the output root; [] where there is none.

        Files that the job did not publish stay, and so does what is on block devices.

        Raises:
            JobError: class ``invalid``, a file is in use or was changed since it was published. Nothing was removed.
        """
        result = self._result()
        if result is None:
            return []
        files = (artifact for artifact in result.artifacts if not _is_device(artifact))
        present = [artifact for artifact in files if (self._root / artifact.path).exists()]
        for artifact in present:
            self._refuse_changed(artifact)
        # The result document goes last: a removal that was cut short is finished by the next one.
        paths = [confine(self._root, artifact.path, "artifact") for artifact in present if artifact.kind != "result"]
        paths.append(self._folder / _RESULT)
        if not dry_run:
            for path in paths:
                _unlink(path)
            for folder in sorted({path.parent for path in paths}, key=lambda path: len(path.parts), reverse=True):
                if not any(folder.iterdir()):
                    folder.rmdir()
        return [str(path.relative_to(self._root)) for path in paths]

    def _result(self) -> models.JobResult | None:
        path = self._folder / _RESULT
        try:
            return models.JobResult.model_validate(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise invalid(
                "InvalidResult", f"{path} is no result document: {error}", "Look at the folder and remove it by hand."
            ) from error

    def _refuse_changed(self, artifact: models.Artifact) -> None:
        path = confine(self._root, artifact.path, "artifact")
        if artifact.kind == "disk":
            writer = writer_of(path)
            if writer is not None:
                raise invalid("TargetInUse", f"{path} is in use: {writer}.", "Shut the VM down, then roll it back.")
            with tempfile.TemporaryDirectory(prefix="hyper2kvm-") as workdir:
                actual = digest_disk(
                    path,
                    artifact.format or "raw",
                    progress=lambda done, total: None,
                    cancelled=lambda: False,
                    workdir=pathlib.Path(workdir),
                )
        elif artifact.digest is not None:
            actual = _file_digest(path)
        else:
            return
        if artifact.digest is not None and actual != artifact.digest:
            raise invalid(
                "TargetChanged",
                f"{path} was changed since it was published.",
                "Keep what was changed, or remove the file by hand; it is not removed for you.",
            )


def _is_device(artifact: models.Artifact) -> bool:
    return artifact.kind == "disk" and artifact.path.startswith("/")


def _file_digest(path: pathlib.Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return "sha256:" + digest.hexdigest()


def _unlink(path: pathlib.Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise environment(
            "NotRemoved", f"{path} cannot be removed: {error.strerror}", "Run as root, on a folder that may be written."
        ) from error
