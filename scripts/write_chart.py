# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write what the chart has from elsewhere: definitions and rights from k8s/, and the table of values in helm/README.md.

``--check``: only say what is out of date. With ``--manifests HELM`` (the program) also k8s/storage.yaml and
k8s/workloads.yaml, which are the chart as it comes out with its defaults.
"""

from __future__ import annotations

import argparse
import collections.abc as c
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
CHART = ROOT / "helm/hyper2kvm-worker"
PAGE = ROOT / "helm/README.md"
#: Folders of manifests that the chart has a copy of, for Helm reads no file outside of a chart.
COPIED = ("base", "crds")
#: The namespace that the manifests of k8s/ are for.
NAMESPACE = "hyper2kvm-workers"
BEGIN, END = "<!-- begin: written by scripts/write_chart.py -->", "<!-- end -->"
_HEAD = """\
# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# The chart's {what}, with its defaults. Written by scripts/write_chart.py --manifests.
"""
_CLAIM = "\nkind: PersistentVolumeClaim\n"


def copies() -> dict[pathlib.Path, str]:
    """Return what the chart's copies of manifests have to be."""
    return {
        CHART / "files" / folder / path.name: path.read_text(encoding="utf-8")
        for folder in COPIED
        for path in sorted((ROOT / "k8s" / folder).glob("*.yaml"))
        if path.name not in ("kustomization.yaml", "namespace.yaml")
    }


def page() -> str:
    """Return helm/README.md with the table as it has to be."""
    before, dummy, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    dummy, dummy, after = rest.partition(END)
    rows = [f"| `{key}` | `{default}` | {text} |" for key, default, text in values()]
    table = "\n".join(["| Value | Default | Meaning |", "| --- | --- | --- |", *rows])
    return f"{before}{BEGIN}\n{table}\n{END}{after}"


def values() -> c.Iterator[tuple[str, str, str]]:
    """Yield key, default and meaning of each value that has a comment which begins with ``--``."""
    path: list[str] = []
    text = ""
    lines = iter((CHART / "values.yaml").read_text(encoding="utf-8").splitlines())
    for line in lines:
        words = line.strip()
        if words.startswith("# -- "):
            text = words.removeprefix("# -- ")
        elif words.startswith("#") and text:
            text += " " + words.removeprefix("#").strip()
        elif match := re.fullmatch(r"( *)([A-Za-z]+):(.*)", line):
            depth, key, default = len(match[1]) // 2, match[2], match[3].strip()
            # A value that is written over several lines is told by its first one, less what is below.
            path[depth:] = [key]
            if text:
                yield ".".join(path), default or "see values.yaml", text
                text = ""


def manifests(helm: str) -> dict[pathlib.Path, str]:
    """Return the files of k8s/ that are the chart as Helm renders it, less its definitions and rights.

    Raises:
        subprocess.CalledProcessError: Helm does not take the chart.
    """
    command = [helm, "template", "hyper2kvm", str(CHART), "--namespace", NAMESPACE, "--no-hooks"]
    settings = ["--set", "crds.enabled=false,rbac.create=false"]
    done = subprocess.run([*command, *settings], check=True, capture_output=True, text=True)
    documents = [
        f"---\n{text.strip()}\n" for text in re.split(r"^---$", done.stdout, flags=re.MULTILINE) if text.strip()
    ]
    storage = [text for text in documents if _CLAIM in text]
    rest = [text for text in documents if _CLAIM not in text]
    return {
        ROOT / "k8s/storage.yaml": "".join([_HEAD.format(what="claims"), *storage]),
        ROOT / "k8s/workloads.yaml": "".join([_HEAD.format(what="operator and workers"), *rest]),
    }


def main() -> None:
    """Write, or compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--manifests", metavar="HELM")
    options = parser.parse_args()
    wanted = {**copies(), PAGE: page()}
    if options.manifests:
        wanted |= manifests(options.manifests)
    extra = [path for folder in COPIED for path in (CHART / "files" / folder).glob("*") if path not in wanted]
    stale = [path for path, text in wanted.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if options.check:
        names = ", ".join(str(path.relative_to(ROOT)) for path in [*stale, *extra])
        sys.exit(f"{names}: out of date; run python scripts/write_chart.py" if names else 0)
    for path in stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(wanted[path], encoding="utf-8")
    for path in extra:
        path.unlink()


if __name__ == "__main__":
    main()
