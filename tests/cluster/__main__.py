# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""``python -m tests.cluster``: a real Kubernetes cluster on this machine, and the product's image on its nodes."""

from __future__ import annotations

import argparse
import concurrent.futures
import functools
import pathlib
import shlex
import sys
import time
import typing as t

from tests.cluster import images, programs
from tests.cluster.cluster import Cluster, default_name
from tests.cluster.machine import ClusterError
from tests.guests.host import BuildError

_EPILOG = "To use a cluster: eval $(python -m tests.cluster env), then kubectl and helm."


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description=__doc__, epilog=_EPILOG)
    parser.add_argument("--name", default=default_name(), help="of the cluster (default: %(default)s)")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("build", help="build what a cluster needs, and the product's image")
    up = commands.add_parser("up", help="bring the cluster up, or what is missing of it")
    up.add_argument("--nodes", type=int, default=2, metavar="N", help="at least so many (default: %(default)s)")
    up.add_argument("--fake-nodes", type=int, default=0, metavar="N", help="nodes that only seem to run pods")
    commands.add_parser("down", help="end the cluster, and remove all that it left")
    load = commands.add_parser("load-image", help="build the product's image and give it to all nodes")
    load.add_argument("archive", nargs="?", type=pathlib.Path, help="docker-archive to load instead")
    commands.add_parser("kubeconfig", help="print the path of the administrator's kubeconfig")
    commands.add_parser("env", help="print what a shell needs to use the cluster")
    on = commands.add_parser("on", help="run a command on a node")
    on.add_argument("node")
    on.add_argument("argument", nargs=argparse.REMAINDER)
    kill = commands.add_parser("kill", help="end a node without a warning; `up` brings it back")
    kill.add_argument("node")
    options = parser.parse_args()
    began = time.monotonic()
    try:
        _run(options, Cluster(options.name))
    except (BuildError, ClusterError) as error:
        print(f"{options.command}: {error}", file=sys.stderr)
        return 1
    if options.command in ("build", "up", "down", "load-image"):
        print(f"{options.command}: {time.monotonic() - began:.1f} s", file=sys.stderr)
    return 0


def _run(options: argparse.Namespace, cluster: Cluster) -> None:
    match options.command:
        case "build":
            _build()
        case "up":
            cluster.up(options.nodes)
            if options.fake_nodes:
                cluster.add_fake_nodes(options.fake_nodes)
        case "down":
            cluster.down()
        case "load-image":
            cluster.load_image(options.archive or images.product())
        case "kubeconfig":
            print(cluster.kubeconfig)
        case "env":
            for name, value in cluster.environment().items():
                print(f"export {name}={shlex.quote(value)}")
        case "on":
            print(cluster.node(options.node).run(*options.argument), end="")
        case "kill":
            cluster.node(options.node).kill()


def _build() -> None:
    tools = [functools.partial(programs.tool, name) for name in programs.TOOLS]
    # Go's compiler takes all processors, the image's build mostly waits for archives of packages.
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        image = pool.submit(images.product)
        builds: list[t.Callable[[], pathlib.Path]] = [programs.kubernetes, images.pause, *tools, programs.kwok_stages]
        for build in builds:
            print(build(), flush=True)
        print(image.result(), flush=True)


if __name__ == "__main__":
    sys.exit(main())
