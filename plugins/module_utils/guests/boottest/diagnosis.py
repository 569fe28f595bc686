# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a guest's console says about its boot. Pure: text in, verdict out.

The texts are those of SeaBIOS, OVMF, GRUB, the kernel, systemd and the initramfs of initramfs-tools, dracut, mkinitcpio
and mkinitfs, as each prints them.
"""

from __future__ import annotations

import dataclasses
import re

from .report import Report

_DRIVERS = (
    "Its initramfs probably lacks the virtio drivers, or names the disk as the old hypervisor did: let the fixers "
    "run (spec.guest.enabled, fixers initramfs, fstab and grub)."
)
_EMERGENCY = (
    "A filesystem of its fstab is probably missing or still named as on the old hypervisor: let the fixer fstab run, "
    "or give the entry the option nofail."
)
#: The patience with what cannot be a false alarm. Seconds.
_DEFINITE = 2.0


@dataclasses.dataclass(frozen=True)
class Failure:
    """Why a guest did not boot."""

    reason: str
    """CamelCase."""
    message: str
    suggestion: str
    patience: float = _DEFINITE
    """How long the guest may still prove the contrary, or print the rest of what it has to say. Seconds."""


@dataclasses.dataclass(frozen=True)
class _Sign:
    """A text that means a failure; ``{0}`` in the message is what the pattern's group caught."""

    reason: str
    pattern: re.Pattern[str]
    message: str
    suggestion: str
    patience: float


def _sign(reason: str, pattern: str, message: str, suggestion: str, patience: float = _DEFINITE) -> _Sign:
    return _Sign(reason, re.compile(pattern, re.MULTILINE), message, suggestion, patience)


#: In order: the first that is found is the cause, what comes later in the list may be its consequence.
_SIGNS = (
    _sign(
        "NoRootDevice",
        r"VFS: (?:Unable to mount root fs on|Cannot open root device) \"?([^\s\":]+)",
        "The kernel found no root device ({0}).",
        _DRIVERS,
    ),
    _sign(
        "FilesystemDamaged",
        r"^(\S+): UNEXPECTED INCONSISTENCY; RUN fsck MANUALLY",
        "The filesystem on {0} is damaged beyond what is repaired at boot.",
        "Check the filesystem in the source VM, shut it down cleanly and export it again.",
    ),
    _sign(
        "NoInit",
        r"(?:No working init found|No init found|Failed to execute (?:/init|/sbin/init)|Target filesystem doesn't have "
        r"requested (\S+?)\.?$|switch_root: failed to execute (\S+?):)",
        "The root filesystem was mounted, but the program that starts the system is not there or does not run.",
        "See that root= names the right filesystem, and that /sbin/init is there.",
    ),
    _sign(
        "HostTooBusy",
        r"Kernel panic - not syncing: IO-APIC \+ timer doesn't work",
        "This host, which emulates the processor, was too busy for the guest's clock to tick.",
        "Run fewer jobs at once (--slots), or test on a host with KVM.",
    ),
    _sign(
        "KernelPanic",
        r"Kernel panic - not syncing: ([^\n]{1,200})",
        "The kernel stopped with a panic: {0}.",
        "Read the console above the panic; if the source VM has another kernel installed, make that the default.",
    ),
    _sign(
        "NoRootDevice",
        r"ALERT!\s+(\S+) does not exist\.\s+Dropping to a shell",
        "The guest's initramfs did not find its root device {0}.",
        _DRIVERS,
    ),
    _sign(
        "NoRootDevice",
        r"Gave up waiting for root(?: file system)? device",
        "The guest's initramfs did not find its root device.",
        _DRIVERS,
    ),
    _sign(
        "NoRootDevice",
        r"Warning: (/?dev/\S+) does not exist",
        "The guest's initramfs (dracut) did not find {0}.",
        _DRIVERS,
        30.0,
    ),
    _sign(
        "NoRootDevice",
        r"dracut-initqueue.*(?:Warning: Could not boot|timeout - starting timeout scripts)",
        "The guest's initramfs (dracut) waits for a disk that does not appear.",
        _DRIVERS,
        60.0,
    ),
    _sign(
        "NoRootDevice",
        r"ERROR: device '([^'\n]+)' not found",
        "The guest's initramfs did not find its root device {0}.",
        _DRIVERS,
        30.0,
    ),
    _sign(
        "NoRootDevice",
        r"Mounting root:? (?:failed|mount: mounting (\S+) on )",
        "The guest's initramfs could not mount its root filesystem.",
        _DRIVERS,
    ),
    _sign(
        "DroppedToInitramfs",
        r"^(?:\(initramfs\)|dracut:/#|:/#|\[rootfs [^\]\n]*\]#|sh: can't access tty; job control turned off)",
        "The guest stopped at a shell of its initramfs.",
        f"The lines above the prompt say what is missing. {_DRIVERS}",
    ),
    _sign(
        "DroppedToInitramfs",
        r"(?:Generating \"/run/initramfs/rdsosreport\.txt\"|initramfs emergency recovery shell launched"
        r"|You are (?:now )?being dropped (?:in)?to an? (?:emergency|recovery) shell)",
        "The guest stopped at a shell of its initramfs.",
        f"The lines above the prompt say what is missing. {_DRIVERS}",
    ),
    _sign(
        "WaitsForPassphrase",
        r"^.*(?:Please (?:unlock|enter passphrase for) disk|Enter passphrase for) ([^\n:!]{1,100})",
        "The guest waits for the passphrase of {0}.",
        "Give it by reference in source.keys: the boot test types it. Or set verify.boot to false.",
        60.0,
    ),
    _sign(
        "EmergencyMode",
        r"(?:You are in (?:emergency|rescue) mode|Welcome to emergency mode|Give root password for maintenance"
        r"|Press Enter for maintenance|Cannot open access to console, the root account is locked)",
        "The guest stopped in emergency mode.",
        _EMERGENCY,
    ),
    _sign(
        "InitFailed",
        r"systemd\[1\]: Freezing execution",
        "systemd could not start the guest and froze.",
        "Read the console above this line.",
    ),
    _sign(
        "NoKernel",
        r"error: (?:file [`'](\S*(?:vmlinu|bzImage|kernel)[^'\s]*)' not found|you need to load the kernel first)",
        "The boot loader found no kernel to load ({0}).",
        "Check that the guest's /boot is on one of the job's disks, and that the kernel which the loader's "
        "configuration names is in it.",
    ),
    _sign(
        "GrubRescue",
        r"^(?:.*Entering rescue mode|grub rescue>)",
        "GRUB started but did not find its own files.",
        "GRUB's /boot/grub is on a partition or disk that is missing here; see that the job has all disks of the VM.",
    ),
    _sign(
        "GrubShell",
        r"^grub>\s*\Z",
        "GRUB started but found no configuration, and waits at its prompt.",
        "See that /boot/grub/grub.cfg (/boot/grub2/grub.cfg) is there, and that the job has all disks of the VM.",
    ),
    _sign(
        "SecureBootRefused",
        r"(?:BdsDxe: failed to (?:load|start) (?!Boot\d+ \"EFI Internal Shell\")[^\n]*"
        r"(?:Access Denied|Security Violation)|Verification failed: \(0x1A\)|bad shim signature"
        r"|Secure Boot [vV]iolation)",
        "Secure Boot refused the guest's boot loader or kernel.",
        "Its boot loader is not signed by a key that the firmware knows; switch Secure Boot off for the target.",
        20.0,
    ),
    _sign(
        "FirmwareShell",
        r"(?:^Shell>|BdsDxe: No bootable option or device was found|Press any key to enter the Boot Manager Menu)",
        "The UEFI firmware found nothing to boot.",
        "The disk's EFI system partition has no \\EFI\\BOOT\\BOOTX64.EFI: let the fixer for the fallback loader run. "
        "If the source VM booted by BIOS, its disk needs BIOS here as well.",
    ),
    _sign(
        "NoBootloader",
        r"(?:No bootable device\.|Missing operating system|Operating System not found|Error loading operating system"
        r"|Invalid partition table|Non-system disk)",
        "The BIOS found no boot loader on the disks.",
        "See that the job has all disks of the VM, and that the VM does not need UEFI.",
    ),
    _sign(
        "BootloaderBroken",
        r"GRUB (?:Hard Disk|Geom|Read) Error|^(?:Loading stage1\.5|GRUB)?.*Error (?:1[57]|2[1-8])\b",
        "The boot loader's first stage could not read the disk.",
        "The copy may be damaged or a disk missing; see that the job has all disks of the VM.",
    ),
)

#: What a guest prints that got past its initramfs: a sign before it was a false alarm, where it has patience.
_MOVED_ON = re.compile(
    r"Switching root|systemd-switch-root|Reached target[^\n]*(?:Initrd Default|Local File Systems)|login: "
)

_LOGIN = re.compile(r"^[^\n]{0,80}\blogin: *$", re.MULTILINE)
_START_JOB = re.compile(r"A (?:start|stop) job is running for ([^\n]{1,150}?) \(")
_FAILED_UNIT = re.compile(r"\[(?:FAILED|DEPEND| TIME )\]\s*([^\n]{1,160})")
#: What shows how far a boot came, the latest stage first.
_STAGES = (
    (
        re.compile(r"Reached target|Starting .*\.\.\.|INIT: |Welcome to (?!GRUB)"),
        "the system was starting its services",
    ),
    (re.compile(r"Run /init as init process|Loading, please wait|dracut-"), "its initramfs was running"),
    (re.compile(r"^\[ *\d+\.\d+\]", re.MULTILINE), "its kernel was starting"),
    (
        re.compile(r"Loading Linux|Loading initial ramdisk|EFI stub:|Booting `|Decompressing Linux"),
        "its kernel was loaded",
    ),
    (re.compile(r"GRUB|ISOLINUX|SYSLINUX|systemd-boot"), "its boot loader was running"),
    (re.compile(r"SeaBIOS|BdsDxe|UEFI"), "the firmware was running"),
)


def find_failure(console: str) -> Failure | None:
    """Return why the guest will not boot, where the console already shows it; None: it may still boot."""
    for sign in _SIGNS:
        match = sign.pattern.search(console)
        if match is None or (sign.patience > _DEFINITE and _MOVED_ON.search(console, match.end())):
            continue
        caught = next((group for group in match.groups() if group), "")
        message = sign.message.format(caught.rstrip(" .,!")).replace(" ()", "")
        if sign.reason == "EmergencyMode":
            message += _blamed(console)
        return Failure(sign.reason, message, sign.suggestion, sign.patience)
    return None


def asks_for_login(console: str) -> str:
    """Return the login prompt that the console shows; empty: none."""
    match = _LOGIN.search(console)
    return match[0].strip() if match else ""


def judge_report(report: Report, console: str) -> Failure | None:
    """Return why a guest that reported did not boot; None: it did. ``console`` adds what the report does not tell."""
    if report.state == "default":
        return None
    message = f"The guest stopped in {report.state or 'an unknown'} mode."
    if report.failed_units:
        message += f" Failed units: {', '.join(report.failed_units[:5])}."
    return Failure("EmergencyMode", message + _blamed(console), _EMERGENCY)


def timed_out(console: str, seconds: float, marker: str | None) -> Failure:
    """Return the failure of a guest that showed neither success nor a known failure in time."""
    lines = [line.strip() for line in console.split("\n") if line.strip()]
    if marker is not None and asks_for_login(console):
        return Failure(
            "MarkerNotSeen",
            f"The guest booted to a login prompt, but its console did not show {marker!r} within {seconds:.0f} s.",
            "Correct spec.verify.marker, have the guest write it to its console (/dev/console), or allow more time.",
        )
    if not lines:
        return Failure(
            "SilentConsole",
            f"The guest wrote nothing to its serial console within {seconds:.0f} s.",
            "Look at the screenshot. A guest that cannot be given a serial console needs spec.verify.boot: false.",
        )
    stage = next((told for pattern, told in _STAGES if pattern.search(console)), "it was starting")
    waiting = _START_JOB.findall(console[-4000:])
    last = f"it was waiting for: {waiting[-1]}" if waiting else f"last on its console: {lines[-1][:200]}"
    return Failure(
        "Timeout",
        f"The guest did not boot within {seconds:.0f} s; {stage}, {last}.",
        "If it was merely slow (no KVM, see the capability), raise spec.verify.timeoutSeconds; else see the console.",
    )


POWERED_OFF = Failure(
    "PoweredOff",
    "The guest switched itself off before it had booted.",
    "Read the console; a guest that checks its hardware or licence may do so.",
)
REBOOT_LOOP = Failure(
    "RebootLoop",
    "The guest restarts again and again before it has booted.",
    "Read the console before the restarts; a kernel panic or a relabelling may be behind it.",
)
LAYER_FULL = Failure(
    "LayerFull",
    "The guest wrote more than the boot test's throw-away layer takes, or the worker's scratch space is full.",
    "Free scratch space. A guest that writes gigabytes at its start needs spec.verify.boot: false.",
)


def _blamed(console: str) -> str:
    units = list(dict.fromkeys(unit.strip(" .") for unit in _FAILED_UNIT.findall(console)))
    return f" Before that: {'; '.join(units[:5])}." if units else ""
