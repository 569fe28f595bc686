# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Scripts that a guest runs by itself once it is on KVM, whatever starts its services.

Each is run until it succeeds, at three boots at most, and never restarts the machine: there is no loop to get into.
"""

from __future__ import annotations

from ..protocol.errors import unsupported
from .edits import Edits
from .facts import GuestFacts

FOLDER = "/var/lib/hyper2kvm/firstboot"
LOG = "/var/log/hyper2kvm-firstboot.log"
_RUNNER = "/usr/lib/hyper2kvm/firstboot"
_WHY = "runs scripts at the first boot"
_TRIES = 3

_RUN = f"""\
#!/bin/sh
# Written by hyper2kvm: runs what is in {FOLDER} until it succeeds, at {_TRIES} boots at most.
folder={FOLDER}
mkdir -p "$folder/done" "$folder/failed"
for script in "$folder"/[0-9]*; do
    [ -f "$script" ] || continue
    name=${{script##*/}}
    tries=$(cat "$folder/.$name.tries" 2>/dev/null)
    tries=$((${{tries:-0}} + 1))
    echo "$tries" >"$folder/.$name.tries"
    sync
    echo "$(date -u) $name: attempt $tries of {_TRIES}"
    if sh "$script"; then
        echo "$(date -u) $name: done"
        mv "$script" "$folder/done/"
    elif [ "$tries" -ge {_TRIES} ]; then
        echo "$(date -u) $name: given up"
        mv "$script" "$folder/failed/"
    fi
done >>{LOG} 2>&1
"""
# Not "oneshot": the boot is not to wait for it.
_UNIT = f"""\
# Written by hyper2kvm.
[Unit]
Description=Scripts for the first boot on KVM
Wants=network-online.target
After=network-online.target
ConditionPathExistsGlob={FOLDER}/[0-9]*

[Service]
Type=simple
ExecStart=/bin/sh {_RUNNER}

[Install]
WantedBy=multi-user.target
"""
_UNIT_PATH = "/etc/systemd/system/hyper2kvm-firstboot.service"
_WANTED = "/etc/systemd/system/multi-user.target.wants/hyper2kvm-firstboot.service"
_LOCAL = "/etc/local.d/hyper2kvm-firstboot.start"
_INIT_SCRIPT = "/etc/init.d/hyper2kvm-firstboot"
_INIT = f"""\
#!/bin/sh
### BEGIN INIT INFO
# Provides:          hyper2kvm-firstboot
# Required-Start:    $all
# Required-Stop:
# Default-Start:     2 3 4 5
# Default-Stop:
# Short-Description: Scripts for the first boot on KVM
### END INIT INFO
# chkconfig: 2345 99 01
# Written by hyper2kvm.
[ "$1" != start ] || sh {_RUNNER} </dev/null &
"""
#: Installs the guest agent, by whatever the guest has for that.
AGENT_SCRIPT = """\
# Written by hyper2kvm: installs QEMU's guest agent from the guest's own repositories.
package=qemu-guest-agent
for try in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do
    grep -q '^[^\t]*\t00000000\t' /proc/net/route 2>/dev/null && break
    sleep 2
done
if command -v apt-get >/dev/null; then
    export DEBIAN_FRONTEND=noninteractive
    apt-get -q update && apt-get -qy --no-install-recommends install $package
elif command -v dnf >/dev/null; then
    dnf -qy install $package
elif command -v tdnf >/dev/null; then
    tdnf -qy install $package
elif command -v yum >/dev/null; then
    yum -qy install $package
elif command -v zypper >/dev/null; then
    zypper -qn install $package
elif command -v apk >/dev/null; then
    apk -q update && apk -q add $package
elif command -v pacman >/dev/null; then
    pacman -Sy --noconfirm --noprogressbar $package
else
    echo 'no package manager that is known'
    exit 1
fi || exit 1
if command -v systemctl >/dev/null; then
    systemctl enable --now $package || systemctl start $package
elif command -v rc-update >/dev/null; then
    rc-update add $package default && rc-service $package start
else
    service $package start
fi
"""


def add_script(guest: GuestFacts, edits: Edits, number: int, name: str, text: str, *, confidential: bool) -> None:
    """Plan a script and what starts it; nothing where an earlier conversion left it, or the guest has run it.

    Args:
        guest: the portrait.
        edits: the plan.
        number: scripts run in the order of their numbers; at most three digits.
        name: what the log calls it.
        text: for sh.
        confidential: keep the text out of diffs.

    Raises:
        JobError: nothing in the guest could start it (unsupported).
    """
    script = f"{number:03d}-{name}"
    if any(edits.exists(f"{FOLDER}/{place}{script}") for place in ("done/", "failed/")):
        return
    edits.write(f"{FOLDER}/{script}", text, why=_WHY, mode=0o700, confidential=confidential)
    edits.write(_RUNNER, _RUN, why=_WHY, mode=0o755)
    _start(guest, edits)


def _start(guest: GuestFacts, edits: Edits) -> None:
    if guest.init == "systemd":
        edits.write(_UNIT_PATH, _UNIT, why=_WHY)
        edits.symlink(_WANTED, _UNIT_PATH, _WHY)
    elif guest.init == "openrc":
        edits.write(_LOCAL, f"#!/bin/sh\n# Written by hyper2kvm.\nsh {_RUNNER} </dev/null &\n", why=_WHY, mode=0o755)
        edits.symlink("/etc/runlevels/default/local", "/etc/init.d/local", _WHY)
    elif guest.init == "sysvinit":
        edits.write(_INIT_SCRIPT, _INIT, why=_WHY, mode=0o755)
        for level in (2, 3, 4, 5):
            folder = next((f for f in (f"/etc/rc.d/rc{level}.d", f"/etc/rc{level}.d") if edits.is_dir(f)), "")
            if folder:
                edits.symlink(f"{folder}/S99hyper2kvm-firstboot", _INIT_SCRIPT, _WHY)
    else:
        raise unsupported(
            "NoFirstboot",
            "The guest has neither systemd nor OpenRC nor run levels that could start a script at its first boot.",
            "Take guest.firstboot and guest.agent install out of the job, and run the scripts by hand.",
        )
