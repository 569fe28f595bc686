# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Software that belongs to a hypervisor: what is switched off, what is switched on, what is told where it is."""

from __future__ import annotations

import pathlib

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.tools import OLD_HYPERVISORS, ToolKind

from tests.unit.plugins.module_utils.guests.phony import Phony, debian


@pytest.fixture
def guest(tmp_path: pathlib.Path) -> Phony:
    """A server without VMware's tools."""
    guest = debian(tmp_path / "guest")
    for path in (
        "usr/bin/vmtoolsd",
        "usr/lib/systemd/system/open-vm-tools.service",
        "etc/systemd/system/multi-user.target.wants/open-vm-tools.service",
        "etc/systemd/system/vmtoolsd.service",
    ):
        (guest.folder / path).unlink()
    return guest


def tools(guest: Phony) -> dict[str, bool]:
    """The tools of the portrait, and whether something starts them."""
    return {tool.name: tool.enabled for tool in guest.inspect().tools}


def openrc(guest: Phony) -> None:
    """Let the guest be one of OpenRC, without systemd."""
    (guest.folder / "usr/lib/systemd/systemd").unlink()
    guest.put("/usr/sbin/openrc")


@pytest.mark.parametrize("kind", OLD_HYPERVISORS, ids=lambda kind: kind.name)
def test_each_hypervisors_tools_by_systemd(guest: Phony, kind: ToolKind) -> None:
    unit = kind.units[0]
    guest.put(kind.files[0])
    guest.put(f"/usr/lib/systemd/system/{unit}", "[Service]\n")
    guest.link(f"/etc/systemd/system/multi-user.target.wants/{unit}", f"/usr/lib/systemd/system/{unit}")
    guest.put("/etc/modules-load.d/tools.conf", "loop\n" + "".join(f"{name}\n" for name in kind.modules))
    before = guest.snapshot()
    assert tools(guest) == {kind.name: True}
    guest.fix("hypervisor-tools")
    assert tools(guest) == {kind.name: False}
    assert guest.text("/etc/modules-load.d/tools.conf") == "loop\n" + "".join(f"# {name}\n" for name in kind.modules)
    after = guest.snapshot()
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    wanted = f"etc/systemd/system/multi-user.target.wants/{unit}"
    assert changed - {"etc/modules-load.d/tools.conf"} == {wanted, f"etc/systemd/system/{unit}"}
    assert after[f"etc/systemd/system/{unit}"][:2] == ("link", b"/dev/null")


@pytest.mark.parametrize("kind", OLD_HYPERVISORS, ids=lambda kind: kind.name)
def test_each_hypervisors_tools_by_scripts(guest: Phony, kind: ToolKind) -> None:
    script = kind.scripts[0]
    guest.put(kind.files[0])
    guest.put(f"/etc/init.d/{script}", "#!/bin/sh\n")
    guest.link(f"/etc/rc.d/rc3.d/S56{script}", f"../init.d/{script}")
    guest.link(f"/etc/runlevels/default/{script}", f"/etc/init.d/{script}")
    guest.put(f"/etc/init/{script}.conf", "start on runlevel [2345]\n")
    assert tools(guest) == {kind.name: True}
    guest.fix("hypervisor-tools")
    assert tools(guest) == {kind.name: False}
    assert [path.name for path in (guest.folder / "etc/rc.d/rc3.d").iterdir()] == [f"K01{script}"]
    assert list((guest.folder / "etc/runlevels/default").iterdir()) == []
    assert guest.text(f"/etc/init/{script}.override") == "manual\n"
    assert guest.text(f"/etc/init/{script}.conf") == "start on runlevel [2345]\n"


AGENT_UNIT = "/usr/lib/systemd/system/qemu-guest-agent.service"
PORT = r"dev-virtio\x2dports-org.qemu.guest_agent.0.device"


@pytest.mark.parametrize(
    ("install", "link"),
    [
        (f"[Install]\nWantedBy={PORT}\n", f"etc/systemd/system/{PORT}.wants/qemu-guest-agent.service"),
        ("[Install]\nRequiredBy=basic.target\n", "etc/systemd/system/basic.target.requires/qemu-guest-agent.service"),
        ("", "etc/systemd/system/multi-user.target.wants/qemu-guest-agent.service"),
    ],
)
def test_the_agent_is_enabled_as_its_unit_says(guest: Phony, install: str, link: str) -> None:
    guest.put("/usr/sbin/qemu-ga")
    guest.put(AGENT_UNIT, f"[Service]\nExecStart=/usr/sbin/qemu-ga\n{install}")
    assert tools(guest) == {"qemu-guest-agent": False}
    guest.fix("guest-agent")
    assert str((guest.folder / link).readlink()) == AGENT_UNIT
    assert tools(guest) == {"qemu-guest-agent": True}


def test_an_agent_that_udev_starts_is_left(guest: Phony) -> None:
    guest.put("/usr/sbin/qemu-ga")
    guest.put(AGENT_UNIT, "[Service]\n")
    rule = 'SUBSYSTEM=="virtio-ports", TAG+="systemd", ENV{SYSTEMD_WANTS}="qemu-guest-agent.service"\n'
    guest.put("/usr/lib/udev/rules.d/60-qemu-guest-agent.rules", rule)
    assert tools(guest) == {"qemu-guest-agent": True}
    assert guest.fix("guest-agent").edits.changes == []


def test_a_masked_agent_stays_masked(guest: Phony) -> None:
    guest.put("/usr/sbin/qemu-ga")
    guest.put(AGENT_UNIT, "[Install]\nWantedBy=multi-user.target\n")
    guest.link("/etc/systemd/system/qemu-guest-agent.service", "/dev/null")
    plan = guest.fix("guest-agent")
    assert plan.edits.changes == [] and "masked" in plan.warnings[0]


def test_no_agent_no_change(guest: Phony) -> None:
    assert guest.fix("guest-agent").edits.changes == []


def test_the_agent_by_openrc_and_by_run_levels(guest: Phony) -> None:
    openrc(guest)
    guest.put("/usr/bin/qemu-ga")
    guest.put("/etc/init.d/qemu-guest-agent", "#!/sbin/openrc-run\n")
    guest.fix("guest-agent")
    assert str((guest.folder / "etc/runlevels/default/qemu-guest-agent").readlink()) == "/etc/init.d/qemu-guest-agent"
    (guest.folder / "etc/runlevels/default/qemu-guest-agent").unlink()
    (guest.folder / "usr/sbin/openrc").unlink()
    for level in range(7):
        (guest.folder / f"etc/rc{level}.d").mkdir()
    guest.fix("guest-agent")
    assert {path.parent.name for path in guest.folder.glob("etc/rc*.d/S90*")} == {f"rc{n}.d" for n in (2, 3, 4, 5)}


DROP_IN = "/etc/cloud/cloud.cfg.d/99-hyper2kvm.cfg"


@pytest.mark.parametrize(
    ("identify", "sources"), [(True, "NoCloud, ConfigDrive"), (False, "NoCloud, ConfigDrive, None")]
)
def test_cloud_init_is_told_where_it_is(guest: Phony, identify: bool, sources: str) -> None:
    guest.put("/usr/bin/cloud-init")
    guest.put("/etc/cloud/cloud.cfg.d/90_dpkg.cfg", "datasource_list: [VMware, OVF]\n")
    if identify:
        guest.put("/usr/lib/cloud-init/ds-identify")
    plan = guest.fix("cloud-init")
    assert [change.path for change in plan.edits.changes] == [DROP_IN]
    lines = [line for line in guest.text(DROP_IN).splitlines() if not line.startswith("#")]
    assert lines == [
        f"datasource_list: [{sources}]",
        "network: {config: disabled}",
        "preserve_hostname: true",
        "ssh_deletekeys: false",
    ]


@pytest.mark.parametrize("disabled", [True, False])
def test_cloud_init_that_does_not_run_is_left(guest: Phony, disabled: bool) -> None:
    if disabled:
        guest.put("/usr/bin/cloud-init")
        guest.put("/etc/cloud/cloud-init.disabled")
    assert guest.fix("cloud-init").edits.changes == []


XORG = """\
# Driver "vmware"
Section "Device"
    Identifier "Card0"
    Driver     "vmware" # SVGA
    BusID      "PCI:0:15:0"
EndSection
Section "InputDevice"
    Driver "vmmouse"
EndSection
Section "Device"
    Driver "nvidia"
    BusID "PCI:1:0:0"
EndSection
"""


@pytest.mark.parametrize(("drivers", "screen"), [((), "modesetting"), (("vesa", "fbdev"), "fbdev")])
def test_the_x_servers_drivers(guest: Phony, drivers: tuple[str, ...], screen: str) -> None:
    for name in drivers:
        guest.put(f"/usr/lib64/xorg/modules/drivers/{name}_drv.so")
    guest.put("/etc/X11/xorg.conf", XORG)
    guest.put("/etc/X11/xorg.conf.d/10.conf", 'Section "Monitor"\n    Identifier "vmware"\nEndSection\n')
    plan = guest.fix("xorg")
    assert [change.path for change in plan.edits.changes] == ["/etc/X11/xorg.conf"]
    assert guest.text("/etc/X11/xorg.conf") == (
        XORG.replace('Driver     "vmware"', f'Driver     "{screen}"')
        .replace('    BusID      "PCI:0', '#     BusID      "PCI:0')
        .replace('"vmmouse"', '"mouse"')
    )


def test_names_of_modules(guest: Phony) -> None:
    guest.put(
        "/etc/modprobe.conf",
        "alias eth0 vmxnet\nalias eth1 e1000 # x\nalias scsi_hostadapter mptbase\nalias scsi_hostadapter1 mptspi\n"
        "alias scsi_hostadapter2 ata_piix\nalias bond0 bonding\n",
    )
    guest.put(
        "/etc/modprobe.d/cis.conf", "install cramfs /bin/true\nblacklist virtio_blk\ninstall virtio_net /bin/false\n"
    )
    guest.fix("modprobe")
    assert guest.text("/etc/modprobe.conf") == (
        "alias eth0 virtio_net\nalias eth1 virtio_net # x\nalias scsi_hostadapter virtio_blk\n"
        "# alias scsi_hostadapter1 mptspi\n# alias scsi_hostadapter2 ata_piix\nalias bond0 bonding\n"
    )
    assert guest.text("/etc/modprobe.d/cis.conf") == (
        "install cramfs /bin/true\n# blacklist virtio_blk\n# install virtio_net /bin/false\n"
    )


@pytest.mark.parametrize("kind", ["vmhgfs", "fuse.vmhgfs-fuse", "vboxsf", "prl_fs"])
def test_folders_of_the_old_host_do_not_stop_the_boot(guest: Phony, kind: str) -> None:
    text = (
        f"UUID=x / ext4 defaults 0 1\n.host:/ /mnt/host {kind} rw,uid=0 0 0\nshare /s {kind}\nq /q {kind} nofail 0 0\n"
    )
    guest.put("/etc/fstab", text)
    plan = guest.fix("fstab")
    assert guest.text("/etc/fstab") == (
        f"UUID=x / ext4 defaults 0 1\n.host:/ /mnt/host {kind} rw,uid=0,nofail 0 0\nshare /s {kind} defaults,nofail\n"
        f"q /q {kind} nofail 0 0\n"
    )
    assert len(plan.warnings) == 2 and "/mnt/host" in plan.warnings[0]
