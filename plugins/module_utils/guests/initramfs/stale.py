# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What an initramfs holds of its guest's configuration: copies made when it was built, which know the old machine."""

from __future__ import annotations

import dataclasses
import re
import stat
import typing as t

from .additions import Additions
from .flat import is_nash
from .rootfs import RootFs

#: Names that a disk had by its old controller. by-uuid, by-label, by-partuuid and mapper names stay valid.
_DEVICE = re.compile(
    r"/dev/(?:(?:sd|hd|xvd)[a-z]{1,3}\d*|nvme\d+n\d+(?:p\d+)?|disk/by-(?:path|id)/[^\s\"']+)(?![\w/-])"
)
#: initramfs-tools', cryptsetup's and dracut's configuration that names devices.
_CONFIGURATION = re.compile(
    r"conf/(?:conf\.d/[^/]+|initramfs\.conf|param\.conf)|cryptroot/crypttab"
    r"|etc/(?:fstab|fstab\.sys|crypttab|cmdline\.d/[^/]+\.conf|cmdline|mdadm\.conf|mdadm/mdadm\.conf)"
)
#: LVM's list of devices by identities of the old hardware: by a name, LVM looks for them by their own UUIDs
#: (lvmdevices(8)).
_LVM_DEVICES = re.compile(r"etc/lvm/devices/[^/]+\.devices")
_LVM_HARDWARE = re.compile(r"(?m)^(\s*)IDTYPE=sys_\w+\s+IDNAME=\S+\s+DEVNAME=(\S+)(?=\s+PVID=[^.\s])")
_MDADM = re.compile(r"etc/(?:mdadm/)?mdadm\.conf")
#: mdadm.conf(5): where to look for members, and which they were.
_MDADM_DEVICE = re.compile(r"(?i)^DEVICE\s+.*/dev/")
_MDADM_MEMBERS = re.compile(r"(?i)\s+devices=\S+")
#: dracut's wait_for_dev (dracut-dev-lib.sh): a test for a device, run until it holds; and its systemd twin.
_WAIT = re.compile(r".*/dracut/hooks/(?:initqueue/finished/devexists-|emergency/80-)[^/]*\.sh")
_WANTED = re.compile(r"etc/systemd/system/[^/]+\.(?:wants|requires)/(?P<unit>dev-[^/]+)\.device")
#: Where initramfs-tools puts copies of its own configuration.
_INITRAMFS_TOOLS = "/etc/initramfs-tools/"
#: Files that name network interfaces; wanted inside as soon as drivers of network cards are.
_INTERFACE_NAMES = re.compile(r"/etc/(?:systemd/network/[^/]+\.link|udev/rules\.d/[^/]*net[^/]*\.rules)")


class Planned(t.Protocol):
    """A guest's file before and after all that is planned; None where there is none."""

    def __call__(self, path: str) -> tuple[bytes | None, bytes | None]: ...


def refresh_copies(additions: Additions, root: RootFs, changed: t.Iterable[str], planned: Planned) -> list[str]:
    """Give copies of the guest's files that are about to change the new content; return their names inside.

    A copy is a file that has what the guest's own file had before. New files that name network interfaces go in where
    the initramfs drives network cards, because a card is named by the first udev that sees it.
    """
    refreshed = []
    network = any("/drivers/net/" in path for path in root.nodes) and root.get("etc/udev") is not None
    for path in changed:
        inside = _inside(path)
        old = root.read(inside)
        named = network and _INTERFACE_NAMES.fullmatch(path) is not None
        if old is None and not named:
            # Not even looked at: it may be another kernel's initramfs, and big.
            continue
        before, after = planned(path)
        if after is not None and after not in (before, old) and (old == before or named):
            additions.put(inside, after)
            refreshed.append(inside)
    return refreshed


def _inside(path: str) -> str:
    if path.startswith(_INITRAMFS_TOOLS):
        return "conf/" + path[len(_INITRAMFS_TOOLS) :]
    return path.lstrip("/")


@dataclasses.dataclass
class Renamed:
    """What became of device names in an initramfs."""

    files: list[str] = dataclasses.field(default_factory=list)
    """Names inside of what was rewritten."""
    unknown: list[str] = dataclasses.field(default_factory=list)
    """Devices that configuration names that stand for nothing known; left as they are."""


def rename_devices(additions: Additions, root: RootFs, stable: t.Callable[[str], str | None]) -> Renamed:
    """Replace device names that the new machine will not have by ``stable(name)``, such as ``UUID=…``.

    Waiting for a device whose filesystem is not known is given up: on the new machine it would never end.
    """
    renamed = Renamed()
    for path, node in sorted(additions.current.nodes.items()):
        if node.type == stat.S_IFLNK and (match := _WANTED.fullmatch(path)):
            device = "/" + _unescape(match["unit"])
            if _DEVICE.fullmatch(device) and node.data != b"/dev/null":
                # For systemd a want that leads to /dev/null is none.
                additions.relink(path, "/dev/null")
                renamed.files.append(path)
        if node.type != stat.S_IFREG or not node.data:
            continue
        old = node.data.decode("utf-8", "surrogateescape")
        if _WAIT.fullmatch(path):
            new = _rename(old, lambda device: _link(stable(device)), [])
            if _DEVICE.search(new):
                new = "true\n"
        elif _LVM_DEVICES.fullmatch(path):
            new = _LVM_HARDWARE.sub(r"\1IDTYPE=devname IDNAME=\2 DEVNAME=\2", old)
        elif _MDADM.fullmatch(path):
            new = "\n".join(_any_member(line) for line in old.split("\n"))
        elif _CONFIGURATION.fullmatch(path) or (path in ("init", "linuxrc") and is_nash(root)):
            new = _rename(old, stable, renamed.unknown)
        else:
            continue
        if new != old:
            additions.put(path, new.encode("utf-8", "surrogateescape"))
            renamed.files.append(path)
    return renamed


def _any_member(line: str) -> str:
    if _MDADM_DEVICE.match(line):
        return "DEVICE partitions containers"
    return _MDADM_MEMBERS.sub("", line) if re.search(r"(?i)\buuid=", line) else line


def _rename(text: str, stable: t.Callable[[str], str | None], unknown: list[str]) -> str:
    def replace(match: re.Match[str]) -> str:
        name = stable(match[0])
        if name is None:
            unknown.append(match[0])
        return name or match[0]

    lines = text.split("\n")
    return "\n".join(line if line.lstrip().startswith("#") else _DEVICE.sub(replace, line) for line in lines)


def _link(name: str | None) -> str | None:
    """``UUID=…`` as the link that udev makes."""
    kind, dummy, value = (name or "").partition("=")
    return f"/dev/disk/by-{kind.lower()}/{value}" if value else None


def _unescape(unit: str) -> str:
    """A unit's name as the path that it stands for (systemd.unit(5), "String escaping")."""
    return re.sub(r"\\x([0-9a-f]{2})", lambda match: chr(int(match[1], 16)), unit.replace("-", "/"))
