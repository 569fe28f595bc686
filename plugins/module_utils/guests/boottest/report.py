# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The guest's own word on its boot: a systemd unit that writes a report to the second serial port.

The unit is put into the throw-away layer only. It is ordered behind the default target and says nothing unless that is
active, so that its report means that the target was reached; instances of it hang on the emergency and rescue targets.
What it writes is lines of ``key value`` between a first and a last line that carry the run's token. The guest is not
trusted: the report is bounded, everything in it is made printable, and it says nothing about any other guest.
"""

from __future__ import annotations

import dataclasses
import re
import typing as t

from .. import paths

FOLDER = "/etc/systemd/system"
UNIT = "hyper2kvm-boot-report@.service"
SCRIPT = f"{FOLDER}/hyper2kvm-boot-report.sh"

#: The unit's instances: by the target that each hangs on.
INSTANCES = {"default.target": "default", "emergency.target": "emergency", "rescue.target": "rescue"}

_REPORT_LIMIT = 256 * 1024
_LINE_LIMIT = 1000
_LIST_LIMIT = 200

_UNIT_TEXT = """\
[Unit]
Description=Report to the boot test (%i)
DefaultDependencies=no
{order}
[Service]
Type=oneshot
TimeoutStartSec=120
ExecStart=/bin/sh {script} %i
"""

#: Plain POSIX shell, and no program that a systemd guest may lack, but for those whose absence leaves a line out. On a
#: slow host udev may still be loading the drivers of network cards when the target is reached; in emergency mode it may
#: be waiting for what never comes.
_SCRIPT_TEXT = """\
case $1 in
default)
  systemctl is-active --quiet default.target || exit 0
  udevadm settle --timeout=60
  ;;
esac
exec > /dev/ttyS1 2> /dev/null < /dev/null
stty -F /dev/ttyS1 115200 -echo -onlcr
first() { read -r line < "$2" && echo "$1 $line"; }
each() { while read -r line; do echo "$1 $line"; done; }
echo
echo "begin TOKEN"
echo "state $1"
echo "defaultTarget $(systemctl get-default)"
echo "virtualization $(systemd-detect-virt)"
first kernel /proc/sys/kernel/osrelease
first hostname /proc/sys/kernel/hostname
first commandLine /proc/cmdline
each mount < /proc/self/mountinfo
each swap < /proc/swaps
ip -o addr show | each address
for path in /sys/class/net/*; do
  name=${path##*/}
  driver=$(readlink "$path/device/driver")
  read -r mac < "$path/address" && echo "interface $name ${mac:--} ${driver##*/}"
done
for path in /sys/block/*/device; do
  path=${path%/device}
  driver=$(readlink "$path/device/driver")
  read -r size < "$path/size" && echo "disk ${path##*/} $size ${driver##*/}"
done
systemctl list-units --failed --full --plain --no-legend --no-pager | while read -r line; do
  echo "failed $line"
  journalctl -b -u "${line%% *}" -n 5 -o cat --no-pager | each log
done
systemctl list-jobs --full --plain --no-legend --no-pager | each job
case $1 in default) ;; *) journalctl -b -p err -n 20 -o cat --no-pager | each log ;; esac
echo "end TOKEN"
"""


def files(token: str) -> dict[str, str]:
    """Return the files that make the guest report, content by path. ``token`` is of letters and digits."""
    texts = {SCRIPT: _SCRIPT_TEXT.replace("TOKEN", token)}
    for target, instance in INSTANCES.items():
        order = f"After={target}\n" if instance == "default" else ""
        name = UNIT.replace("@", f"@{instance}")
        texts[f"{FOLDER}/{name}"] = _UNIT_TEXT.format(order=order, script=SCRIPT)
    return texts


def links() -> dict[str, str]:
    """Return the symbolic links that enable the unit, target by path."""
    names = {target: UNIT.replace("@", f"@{instance}") for target, instance in INSTANCES.items()}
    return {f"{FOLDER}/{target}.wants/{name}": f"../{name}" for target, name in names.items()}


@dataclasses.dataclass(frozen=True)
class Report:
    """What the guest told."""

    state: str
    """``default``: its default target was reached; ``emergency``, ``rescue``: it ended there instead."""
    facts: dict[str, t.Any]
    """JSON-able: target, kernel, root, mounts, swaps, addresses by interface, interfaces, disks, failed units, and
    the last that the journal has of each of these; of ``emergency`` and ``rescue`` also the journal's last errors."""
    failed_units: tuple[str, ...]


class Reader:
    """Takes in the second serial port until the report is whole."""

    def __init__(self, token: str) -> None:
        self._token = token
        self._data = b""

    def feed(self, data: bytes) -> Report | None:
        """Return the report once ``data`` completes it."""
        self._data = (self._data + data)[-_REPORT_LIMIT:]
        text = self._data.decode("utf-8", "replace").replace("\r", "")
        begin, end = f"begin {self._token}\n", f"\nend {self._token}\n"
        start = text.find(begin)
        stop = text.find(end, start)
        if start < 0 or stop < 0:
            return None
        return parse(text[start + len(begin) : stop])


def parse(text: str) -> Report:
    """Return the report in ``text``; lines that make no sense are left out."""
    values: dict[str, list[str]] = {}
    for line in text.split("\n"):
        key, _space, value = line[:_LINE_LIMIT].partition(" ")
        values.setdefault(key, []).append(paths.printable(value.strip()))
    single = {key: found[0] for key, found in values.items() if found[0]}
    several = {key: found[:_LIST_LIMIT] for key, found in values.items()}
    failed = tuple(line.lstrip("● *").split(" ")[0] for line in several.get("failed", []) if line.strip("● *"))
    mounts = _mounts(several.get("mount", []))
    facts: dict[str, t.Any] = {
        "target": single.get("defaultTarget", "") if single.get("state") == "default" else single.get("state", ""),
        "kernel": single.get("kernel", ""),
        "hostname": single.get("hostname", ""),
        "virtualization": single.get("virtualization", ""),
        "commandLine": single.get("commandLine", ""),
        "root": mounts.get("/", {}).get("source", ""),
        "mounts": mounts,
        "swaps": [line.split(" ")[0] for line in several.get("swap", []) if line.startswith("/")],
        "addresses": _addresses(several.get("address", [])),
        "interfaces": _interfaces(several.get("interface", [])),
        "disks": _disks(several.get("disk", [])),
        "failedUnits": list(failed),
        "errors": several.get("log", []),
        "waitingJobs": [job for job in several.get("job", []) if "hyper2kvm-boot-report" not in job],
    }
    return Report(single.get("state", ""), facts, failed)


def _mounts(lines: t.Iterable[str]) -> dict[str, dict[str, str]]:
    """Filesystems on devices, by mount point: proc_pid_mountinfo(5)."""
    found: dict[str, dict[str, str]] = {}
    for line in lines:
        left, _dash, right = line.partition(" - ")
        fields, rest = left.split(" "), right.split(" ")
        if len(fields) >= 6 and len(rest) >= 2 and rest[1].startswith("/dev/"):
            found[_unescaped(fields[4])] = {"source": rest[1], "type": rest[0], "options": fields[5]}
    return found


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def _addresses(lines: t.Iterable[str]) -> dict[str, list[str]]:
    """Addresses with prefix length by interface, without the loopback and link-local ones: ``ip -o addr``."""
    found: dict[str, list[str]] = {}
    for line in lines:
        match = re.match(r"\d+:\s+([^\s@]+)\S*\s+inet6?\s+(\S+)", line)
        if match and match[1] != "lo" and not match[2].startswith("fe80:"):
            found.setdefault(match[1], []).append(match[2])
    return found


def _interfaces(lines: t.Iterable[str]) -> dict[str, dict[str, str]]:
    found = {}
    for line in lines:
        name, mac, driver = (*line.split(" "), "", "")[:3]
        if name != "lo":
            found[name] = {"mac": mac, "driver": driver}
    return found


def _disks(lines: t.Iterable[str]) -> dict[str, dict[str, t.Any]]:
    found: dict[str, dict[str, t.Any]] = {}
    for line in lines:
        name, sectors, driver = (*line.split(" "), "", "", "")[:3]
        # The kernel counts in units of 512 bytes, whatever the disk's sectors are.
        found[name] = {"sizeBytes": int(sectors) * 512 if sectors.isdigit() else 0, "driver": driver}
    return found
