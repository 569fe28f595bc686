# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is wanted: a job's metadata and spec.

Sizes are bytes and times seconds, as the names say; instants are RFC 3339 strings in UTC.
"""

from __future__ import annotations

import enum
import pathlib
import typing as t

from . import _pydantic as p
from .errors import ErrorClass
from .fields import (
    AttachmentName,
    BridgeName,
    CapabilityName,
    DevicePath,
    Digest,
    Document,
    FileMode,
    FixerName,
    GuestPath,
    HostName,
    Instant,
    Labels,
    LibvirtNetwork,
    LuksUuid,
    Mac,
    Name,
    PathText,
    ReasonName,
    SecretKey,
    SourceNetwork,
    TimeZone,
    UserName,
    defaults,
    refuse_duplicates,
)


class Operation(str, enum.Enum):
    """What a job does. Fields that speak of a later stage than an operation reaches have no effect on it."""

    CONVERT = "convert"
    """All stages: a VM of another hypervisor becomes a KVM guest that has been seen booting."""
    REHEARSE = "rehearse"
    """``inspect`` to ``rehearse``: fix an overlay and boot it; not one byte is moved."""
    PLAN = "plan"
    """``inspect`` and ``plan``: what a conversion would change in the guest, as data."""
    INSPECT = "inspect"
    """``inspect`` alone: what the source and the guest are."""
    FIX = "fix"
    """All stages, for an image that has the target's format already: an offline repair into a copy."""
    BOOT_TEST = "boot-test"
    """Boot the source as it is, on throw-away layers."""


#: Operations that leave a target; their result is ``result.json``. The others leave ``<operation>.json``.
WRITES_TARGET = frozenset({Operation.CONVERT, Operation.FIX})


class SourceType(str, enum.Enum):
    """The kind of a source."""

    AUTO = "auto"
    """By the file's name: its ending, or a folder's. Content, which a guest may have written, decides nothing."""
    OVA = "ova"
    """A tar file with an OVF descriptor and its disks, read in place; one that is compressed is unpacked before."""
    OVF = "ovf"
    """A folder, or the descriptor in it, with its disks beside it."""
    VMDK = "vmdk"
    """A VMDK file, or the descriptor of one in several files; a snapshot with its parents."""
    QCOW2 = "qcow2"
    """A qcow2 file, with its backing files."""
    VHD = "vhd"
    """A VHD file: fixed, dynamic, or differencing with its parents."""
    VHDX = "vhdx"
    """A VHDX file; a differencing one with its parents."""
    VDI = "vdi"
    """A VDI file of VirtualBox."""
    RAW = "raw"
    """The bytes of the disk."""
    VMX = "vmx"
    """VMware's configuration file of a VM, with its disks beside it."""
    VBOX = "vbox"
    """VirtualBox's settings file of a VM, with its disks near it."""
    HYPERV = "hyperv"
    """The XML file of a VM that Hyper-V exported, up to Windows Server 2012 R2, with its disks near it."""


#: Sources that describe a whole VM.
_MACHINES = frozenset({SourceType.OVA, SourceType.OVF, SourceType.VMX, SourceType.VBOX, SourceType.HYPERV})


class TargetFormat(str, enum.Enum):
    """The format of a target's disks."""

    QCOW2 = "qcow2"
    """qcow2, version 3."""
    RAW = "raw"
    """The bytes of the disk."""


class Allocation(str, enum.Enum):
    """Whether a target's blocks are reserved before they are written."""

    SPARSE = "sparse"
    """Blocks of zeros take no space."""
    PREALLOCATED = "preallocated"
    """The whole virtual size is reserved, so that the guest never meets a full disk."""


class Contents(str, enum.Enum):
    """What of a source's disks is copied."""

    USED = "used"
    """What the guest's filesystems use, and all that is no filesystem; what was deleted reads as zeros. Filesystems
    that are damaged, in use, or not known are copied whole."""
    ALL = "all"
    """Every block that holds data, deleted files included."""


class Compression(str, enum.Enum):
    """Compression of a qcow2 target's clusters."""

    NONE = "none"
    """Clusters as they are."""
    ZLIB = "zlib"
    """Compressed clusters that every QEMU reads."""
    ZSTD = "zstd"
    """Compressed clusters that QEMU reads from 5.1 on."""


class Definition(str, enum.Enum):
    """A virtual machine definition that can be written beside the disks."""

    LIBVIRT = "libvirt"
    """A libvirt domain XML."""
    KUBEVIRT = "kubevirt"
    """A KubeVirt VirtualMachine manifest."""


class Isolation(str, enum.Enum):
    """Whose kernel reads a guest's filesystems."""

    AUTO = "auto"
    """The worker's own, and that of a micro-VM where it lacks what the guest needs."""
    VM = "vm"
    """That of a micro-VM, always: none of the guest's filesystems ever meets the worker's kernel."""


class RehearsePolicy(str, enum.Enum):
    """When the fixed overlay is booted before anything is copied."""

    AUTO = "auto"
    """Not where the copy is expected to take less time, or where nothing changed since it was rehearsed."""
    ALWAYS = "always"
    """Each time."""
    NEVER = "never"
    """Not at all; the finished target is booted all the same."""


class FsckPolicy(str, enum.Enum):
    """Whether a guest's filesystems are checked before anything is copied. Nothing is ever repaired."""

    SKIP = "skip"
    """They are not: one that can be mounted, and boots, is good enough."""
    WARN = "warn"
    """What is damaged, or cannot be checked, is a warning."""
    REQUIRE = "require"
    """What is damaged, or cannot be checked, fails the job."""


class AgentPolicy(str, enum.Enum):
    """What becomes of QEMU's guest agent in the guest."""

    ENABLE = "enable"
    """It is started at boot where it is installed, unless the guest's administrator forbade it."""
    INSTALL = "install"
    """As ``enable``; where it is not installed, the guest installs it at its first boot, from its own repositories."""
    LEAVE = "leave"
    """As it is."""


class SelinuxRelabel(str, enum.Enum):
    """Which files of a guest with SELinux are given their labels anew."""

    CHANGED = "changed"
    """Those that were changed, at once, by the guest's own list of labels."""
    BOOT = "boot"
    """All, by the guest at its next boot; it takes long, and the guest restarts once more."""
    NONE = "none"
    """None: new files take the label of their folder."""


class FailureAction(str, enum.Enum):
    """What follows an attempt that failed by an error which a rule of ``failurePolicy`` matches."""

    FAIL_JOB = "FailJob"
    """The job fails, though the error's class would let it be tried again."""
    RETRY = "Retry"
    """It is tried again as often as ``backoffLimit`` allows, though the class would not let it."""
    IGNORE = "Ignore"
    """It is tried again, and the failure does not count against ``backoffLimit``; at most 100 times in a job's life."""


#: Reasons of what no policy changes: orders of people, the deadline, lost workers, and documents that are not valid.
BEYOND_POLICY = frozenset({"Cancelled", "DeadlineExceeded", "InvalidDocument", "LeaseExpired", "WorkerLost"})


class SecretRef(Document):
    """A secret by reference: the file ``<secrets root>/<name>/<key>`` wherever the worker runs. Never a value."""

    name: Name
    """The folder below the secrets root; on Kubernetes the Secret's name."""
    key: SecretKey
    """The file in that folder."""


class DiskKey(Document):
    """What opens encrypted disks of the source: a passphrase, or the content of a key file."""

    secret: SecretRef
    """Where it is. A newline at the end of its file is left out where the file as it is opens nothing."""
    device: LuksUuid | None = None
    """The UUID of the LUKS container that it opens; unset: it is tried on each that no other key is for."""


class DiskSpec(Document):
    """One disk of a source that consists of bare disk images."""

    path: PathText
    """The image: relative to the worker's input root, or absolute below it."""
    format: t.Literal["vmdk", "qcow2", "vhd", "vhdx", "vdi", "raw"] | None = None
    """Its format; unset: the source's ``type``."""
    digest: Digest | None = None
    """Expected SHA-256 of the image file's bytes; on a mismatch the job fails, with nothing booted or published.

    Not for a VMDK descriptor, whose data lie in other files.
    """


class SourceSpec(Document):
    """What is to be moved: one file or folder (``path``), or all the disks of the VM (``disks``). One of them."""

    type: SourceType = SourceType.AUTO
    """The kind of the source; with ``disks`` the format of those that give none."""
    path: PathText | None = None
    """File or folder: relative to the worker's input root, or absolute below it."""
    disks: list[DiskSpec] = p.Field(default_factory=list, max_length=64)
    """All disks of the VM, in its order; no file twice. The one that boots is found by what is on it."""
    digest: Digest | None = None
    """Expected SHA-256 of the bytes of the file at ``path``; as in ``disks``. Whether it is given or not, what an OVA's
    own manifest says is compared wherever its disks are read whole: not by ``inspect`` and ``plan``.
    """
    keys: list[DiskKey] = p.Field(default_factory=list, max_length=64)
    """Keys of encrypted disks (LUKS), to look into the guest, and for the prompts of its boot test. The target stays
    encrypted as the source is."""

    @p.model_validator(mode="after")
    def _consistent(self) -> SourceSpec:
        if (self.path is None) == (not self.disks):
            raise ValueError("give either path (one file or folder) or disks (all disks of the VM)")
        if self.disks and self.digest:
            raise ValueError("digest goes with path; give each disk of disks its own digest")
        if self.disks and self.type in _MACHINES:
            raise ValueError(f"type {self.type.value} takes path, not disks")
        refuse_duplicates((disk.path for disk in self.disks), "one file cannot be two disks:")
        for path in [self.path or "", *(disk.path for disk in self.disks)]:
            _refuse_upward(path)
        return self


class TargetSpec(Document):
    """What is written, and where."""

    format: TargetFormat = TargetFormat.QCOW2
    """Format of the target's disks."""
    path: PathText | None = None
    """Folder for the artifacts, relative to the worker's output root or absolute below it; unset: the job's name."""
    name: Name | None = None
    """Name of the VM and of its files (``<name>.qcow2``); unset: the last part of ``path``, made a name."""
    allocation: Allocation = Allocation.SPARSE
    """Whether the target's blocks are reserved beforehand."""
    contents: Contents = Contents.USED
    """What of the source's disks is copied. Compressed and preallocated qcow2 targets, and targets that share their
    blocks with the source, hold everything in any case."""
    compression: Compression = Compression.NONE
    """Compression of a qcow2 target; not together with ``allocation: preallocated``."""
    definitions: list[Definition] = p.Field(default_factory=lambda: [Definition.LIBVIRT, Definition.KUBEVIRT])
    """Virtual machine definitions to write beside the disks; none twice."""
    devices: list[DevicePath] = p.Field(default_factory=list, max_length=64)
    """Block devices that the disks are written onto, one for each disk in the source's order; none twice. Only those
    that the worker was started to allow; format raw, allocation sparse. Empty: the disks are files in ``path``."""
    force: bool = False
    """Replace an existing target. Without it an existing target, or what a device holds, is never overwritten."""

    @p.model_validator(mode="after")
    def _consistent(self) -> TargetSpec:
        if self.compression is not Compression.NONE and self.format is not TargetFormat.QCOW2:
            raise ValueError("compression needs format qcow2: raw images have none")
        if self.compression is not Compression.NONE and self.allocation is Allocation.PREALLOCATED:
            raise ValueError("compression and allocation preallocated exclude each other")
        if self.devices and self.format is not TargetFormat.RAW:
            raise ValueError("devices need format raw: what a guest reads of a block device are its own bytes")
        if self.devices and self.allocation is Allocation.PREALLOCATED:
            raise ValueError("devices and allocation preallocated exclude each other: a device has its room already")
        refuse_duplicates((wanted.value for wanted in self.definitions), "named twice in definitions:")
        refuse_duplicates(self.devices, "named twice in devices:")
        for path in [self.path or "", *self.devices]:
            _refuse_upward(path)
        return self


class MacMapping(Document):
    """Gives one network card of the source another MAC address."""

    source: Mac
    """Its address in the source."""
    target: Mac
    """Its address in the target."""


class NetworkMapping(Document):
    """Where the cards of one of the source's networks are plugged in. Libvirt: one of ``network`` and ``bridge``.
    KubeVirt: one of ``multus`` and ``pod``.
    """

    source: SourceNetwork | None = None
    """The network's name in the source; unset: every network that no other entry names."""
    network: LibvirtNetwork | None = None
    """A libvirt network of the target's host."""
    bridge: BridgeName | None = None
    """A bridge of the target's host."""
    multus: AttachmentName | None = None
    """A NetworkAttachmentDefinition: its name, or ``<namespace>/<name>``."""
    pod: bool = False
    """The pod's own network, of which a pod has one: not for two cards."""

    @p.model_validator(mode="after")
    def _consistent(self) -> NetworkMapping:
        if self.network and self.bridge:
            raise ValueError("a card is in one place: give network or bridge, not both")
        if self.multus and self.pod:
            raise ValueError("a card is in one place: give multus or pod, not both")
        if not (self.network or self.bridge or self.multus or self.pod):
            raise ValueError("it says no place: give network or bridge (libvirt), multus or pod (KubeVirt)")
        return self


class NetworkSpec(Document):
    """What happens to the guest's network cards."""

    pin_names: bool | None = None
    """Bind the guest's configured interface names (``ens192``) to the target's MAC addresses. Unset: where the fixer
    ``interface-names`` runs. True: it must run, so ``fixers`` may not leave it out."""
    mac_map: list[MacMapping] = p.Field(default_factory=list)
    """Other addresses for cards that the source names; a card that it does not have is an error. Not with ``macs``."""
    macs: list[Mac] = p.Field(default_factory=list)
    """Addresses of the target's cards in the source's order; of a source that tells of no card, these are the cards."""
    map: list[NetworkMapping] = p.Field(default_factory=list)
    """Where the target's definitions plug the cards in, by the network that they have in the source; none twice. One
    map may serve many VMs: that a VM lacks a network of it is no error."""

    @p.model_validator(mode="after")
    def _consistent(self) -> NetworkSpec:
        if self.mac_map and self.macs:
            raise ValueError("macMap names cards by their address, macs by their order; give one of them")
        refuse_duplicates((entry.source for entry in self.mac_map), "two entries of macMap for the card")
        refuse_duplicates((entry.target for entry in self.mac_map), "two cards of macMap with the address")
        refuse_duplicates(self.macs, "two cards of macs with the address")
        refuse_duplicates((entry.source or "(all others)" for entry in self.map), "two entries of map for the network")
        return self


class SshKeys(Document):
    """Keys to add to a user's ``~/.ssh/authorized_keys``."""

    user: UserName = "root"
    """A user that the guest has."""
    keys: list[str] = p.Field(default_factory=list)
    """Public keys, one line each: type, base64 data and perhaps a comment."""
    keys_from: SecretRef | None = None
    """A file of further keys, one a line."""

    @p.field_validator("keys")
    @classmethod
    def _one_line(cls, keys: list[str]) -> list[str]:
        for key in keys:
            if any(ord(c) < 32 for c in key) or len(key.split()) < 2 or "PRIVATE KEY" in key:
                raise ValueError("a key is one line: type, base64 data and perhaps a comment")
        return keys

    @p.model_validator(mode="after")
    def _not_empty(self) -> SshKeys:
        if not self.keys and self.keys_from is None:
            raise ValueError("give keys, keysFrom or both")
        return self


class GuestUser(Document):
    """A user of the guest: made where there is none of that name, changed where there is."""

    name: UserName
    """Login name."""
    groups: list[UserName] = p.Field(default_factory=list)
    """Groups that the guest has, to be a member of; groups of an existing user stay."""
    shell: GuestPath | None = None
    """Login shell of a new user; unset: bash where the guest has it, else sh."""
    password_hash_from: SecretRef | None = None
    """A file with the password as crypt(3) encodes it (``$6$…``, ``$y$…``); unset: no password, or the one it has."""
    sudo: bool = False
    """Whether it may become root by sudo without a password."""


class GuestFile(Document):
    """A file that is put into the guest; what is there is replaced. Give one of ``content`` and ``contentFrom``."""

    path: GuestPath
    """Where, absolute in the guest; missing folders are made."""
    content: t.Annotated[str, p.Field(max_length=65536)] | None = None
    """Its text."""
    content_from: SecretRef | None = None
    """A file with its text; it is not shown in diffs."""
    mode: FileMode = "0644"
    """Permission bits, octal."""
    owner: UserName = "root"
    """A user that the guest has."""
    group: UserName = "root"
    """A group that the guest has."""

    @p.model_validator(mode="after")
    def _one_content(self) -> GuestFile:
        if (self.content is None) == (self.content_from is None):
            raise ValueError("give either content or contentFrom")
        _refuse_upward(self.path)
        return self


class FirstbootScript(Document):
    """A shell script that the guest runs once, at its first boot. Give one of ``script`` and ``scriptFrom``.

    One that fails is run again at the next boots, three times in all; the guest's ``/var/log/hyper2kvm-firstboot.log``
    tells. It runs in boot tests too, where there is no network and nothing is kept.
    """

    name: Name
    """Names the script in the guest's log."""
    script: t.Annotated[str, p.Field(min_length=1, max_length=65536)] | None = None
    """Its text, for sh."""
    script_from: SecretRef | None = None
    """A file with its text; it is not shown in diffs."""

    @p.model_validator(mode="after")
    def _one_script(self) -> FirstbootScript:
        if (self.script is None) == (self.script_from is None):
            raise ValueError("give either script or scriptFrom")
        return self


class FixSelection(Document):
    """Which fixers run: all that find something to do, or those of ``only``; less those of ``skip``."""

    only: list[FixerName] = p.Field(default_factory=list)
    """Run these and no others; empty: all. A name that no fixer has is an error."""
    skip: list[FixerName] = p.Field(default_factory=list)
    """Do not run these; none that is in ``only``. A name that no fixer has is an error."""

    @p.model_validator(mode="after")
    def _consistent(self) -> FixSelection:
        refuse_duplicates(self.only, "named twice in only:")
        refuse_duplicates(self.skip, "named twice in skip:")
        refuse_duplicates([*self.only, *self.skip], "named in only and in skip:")
        return self


#: The fixer that binds interface names to cards, and follows cards that get another address.
INTERFACE_NAMES = "interface-names"
#: The fixers that do what one field asks for.
_FIXER_OF = {
    "hostname": "hostname",
    "timezone": "timezone",
    "sshKeys": "ssh-keys",
    "resetMachineId": "machine-id",
    "resetSshHostKeys": "ssh-host-keys",
    "users": "users",
    "files": "files",
    "firstboot": "firstboot",
    "agent": "guest-agent",
}


class GuestSpec(Document):
    """What is changed inside the guest."""

    enabled: bool = True
    """False: the guest's files are left as they are. Of the other fields of this part only those may be set that are
    about the VM's network cards: ``macMap``, ``macs`` and ``map`` of ``network``."""
    fixers: FixSelection = p.Field(default_factory=FixSelection)
    """Which fixers run."""
    network: NetworkSpec = p.Field(default_factory=NetworkSpec)
    """Network cards and interface names."""
    ssh_keys: list[SshKeys] = p.Field(default_factory=list)
    """Public keys to add, by user; no user twice."""
    hostname: HostName | None = None
    """New host name; unset: as it is."""
    timezone: TimeZone | None = None
    """New time zone, as the guest's zoneinfo names it (``Europe/Vienna``); unset: as it is."""
    reset_machine_id: bool = False
    """Empty ``/etc/machine-id``, so that the guest makes a new one at its next start."""
    reset_ssh_host_keys: bool = False
    """Remove the SSH host keys, so that the guest makes new ones at its next start."""
    users: list[GuestUser] = p.Field(default_factory=list, max_length=64)
    """Users to make or change; none twice."""
    files: list[GuestFile] = p.Field(default_factory=list, max_length=64)
    """Files to put into the guest; no path twice."""
    firstboot: list[FirstbootScript] = p.Field(default_factory=list, max_length=64)
    """Scripts that the guest runs once, in this order; no name twice."""
    agent: AgentPolicy = AgentPolicy.ENABLE
    """What becomes of QEMU's guest agent."""
    selinux_relabel: SelinuxRelabel = SelinuxRelabel.CHANGED
    """Which files are labelled anew, in a guest with SELinux."""
    selinux_exclude: list[GuestPath] = p.Field(default_factory=list, max_length=64)
    """Folders that a relabelling at boot leaves out, such as a big data disk's; with ``selinuxRelabel: boot``."""

    @p.model_validator(mode="after")
    def _consistent(self) -> GuestSpec:
        refuse_duplicates((entry.user for entry in self.ssh_keys), "two entries of sshKeys for the user")
        refuse_duplicates((entry.name for entry in self.users), "two entries of users for")
        refuse_duplicates((entry.path for entry in self.files), "two entries of files for")
        refuse_duplicates((entry.name for entry in self.firstboot), "two scripts of firstboot with the name")
        if self.selinux_exclude and self.selinux_relabel is not SelinuxRelabel.BOOT:
            raise ValueError("selinuxExclude goes with selinuxRelabel boot")
        if not self.enabled and self.wishes:
            raise ValueError(f"enabled false leaves the guest as it is, so these cannot be done: {_list(self.wishes)}")
        for field, fixer in self.wishes.items():
            if fixer is not None and not self.runs(fixer):
                how = f"fixers.skip names {fixer}" if fixer in self.fixers.skip else f"fixers.only lacks {fixer}"
                raise ValueError(f"{field} is done by the fixer {fixer}, but {how}; take one of the two back")
        return self

    @property
    def wishes(self) -> dict[str, str | None]:
        """The fields that ask for a change of the guest's files, each with the one fixer that makes it, if it is one.

        ``network`` is here for ``pinNames`` alone; all else in it is about the VM's cards.
        """
        wanted = {field: _FIXER_OF.get(field) for field in sorted(changed_fields(self) - {"enabled", "network"})}
        if self.network.pin_names:
            wanted["network.pinNames"] = INTERFACE_NAMES
        return wanted

    def runs(self, fixer: str) -> bool:
        """Whether the fixer of that name is among those that the job chose."""
        return self.enabled and fixer not in self.fixers.skip and fixer in (self.fixers.only or [fixer])


class VerifySpec(Document):
    """How the result is proven."""

    boot: bool = True
    """Boot the finished target. False: the result says "not verified"."""
    rehearse: RehearsePolicy = RehearsePolicy.AUTO
    """Whether the fixed overlay is booted before anything is copied."""
    timeout_seconds: t.Annotated[int, p.Field(ge=10, le=7200)] = 600
    """Patience with one boot test, in seconds."""
    fsck: FsckPolicy = FsckPolicy.SKIP
    """Whether the guest's filesystems are checked, as they are after the fix and before anything is copied; not by the
    operations that fix nothing (``inspect``, ``plan``, ``boot-test``)."""
    marker: t.Annotated[str, p.Field(min_length=1, max_length=200)] | None = None
    """A text that the guest's console must show; unset: the guest reports its boot target, or a login prompt."""


class Requirements(Document):
    """What the job demands of a worker."""

    capabilities: list[CapabilityName] = p.Field(default_factory=list)
    """Capabilities that the worker has found by trying, besides those that the operation needs; none twice."""
    labels: Labels = p.Field(default_factory=dict)
    """Labels that the worker must carry, each with this value."""

    @p.field_validator("capabilities")
    @classmethod
    def _distinct(cls, capabilities: list[str]) -> list[str]:
        refuse_duplicates(capabilities, "named twice:")
        return capabilities


class Limits(Document):
    """What the job may use of a worker."""

    bandwidth_bytes_per_second: t.Annotated[int, p.Field(ge=65536)] | None = None
    """Upper bound of the copy's read rate, in bytes per second of the virtual disk; unset: none."""


class FailureRule(Document):
    """What is done about some errors: those of ``classes`` and ``reasons``. Both given, both must match."""

    classes: list[ErrorClass] = p.Field(default_factory=list, max_length=20)
    """Classes of errors, none twice; empty: any class."""
    reasons: list[ReasonName] = p.Field(default_factory=list, max_length=20)
    """Reasons of errors, none twice; empty: any reason. Not those of what no policy changes: ``Cancelled``,
    ``DeadlineExceeded``, ``InvalidDocument``, ``LeaseExpired``, ``WorkerLost``."""
    action: FailureAction
    """What follows such an error."""

    @p.model_validator(mode="after")
    def _consistent(self) -> FailureRule:
        if not self.classes and not self.reasons:
            raise ValueError("a rule names the errors that it is for: give classes, reasons or both")
        refuse_duplicates((kind.value for kind in self.classes), "named twice in classes:")
        refuse_duplicates(self.reasons, "named twice in reasons:")
        beyond = BEYOND_POLICY.intersection(self.reasons)
        if beyond:
            raise ValueError(f"no policy changes what follows {_list(beyond)}; leave it out of reasons")
        return self


class FailurePolicy(Document):
    """Which failures end the job, and which are tried again, where that is not to follow from the error's class."""

    rules: list[FailureRule] = p.Field(default_factory=list, max_length=20)
    """The first that matches an error decides; where none does, its class."""


class JobSpec(Document):
    """What is wanted. Only ``suspend``, ``priority`` and ``cancel`` may change once a job exists."""

    operation: Operation = Operation.CONVERT
    """What the job does."""
    source: SourceSpec
    """What is to be moved."""
    target: TargetSpec = p.Field(default_factory=TargetSpec)
    """What is written, and where."""
    guest: GuestSpec = p.Field(default_factory=GuestSpec)
    """What is changed inside the guest."""
    verify: VerifySpec = p.Field(default_factory=VerifySpec)
    """How the result is proven."""
    requirements: Requirements = p.Field(default_factory=Requirements)
    """What the job demands of a worker."""
    isolation: Isolation = Isolation.AUTO
    """Whose kernel reads the guest's filesystems."""
    limits: Limits = p.Field(default_factory=Limits)
    """What the job may use of a worker."""
    priority: t.Annotated[int, p.Field(ge=-1000, le=1000)] = 0
    """Higher goes first; among equals, the older."""
    suspend: bool = False
    """True: the job is not started; a running one is checkpointed and goes back to the queue."""
    cancel: bool = False
    """True: the job is stopped and ends CANCELLED. It cannot be taken back."""
    backoff_limit: t.Annotated[int, p.Field(ge=0, le=20)] = 2
    """Retries after the first attempt, for failures that a retry can help (count)."""
    failure_policy: FailurePolicy = p.Field(default_factory=FailurePolicy)
    """Which failures are tried again, by their class and reason."""
    active_deadline_seconds: t.Annotated[int, p.Field(ge=1)] | None = None
    """Seconds from the job's creation; when they have passed, it fails wherever it is. Unset: no deadline."""
    ttl_seconds_after_finished: t.Annotated[int, p.Field(ge=0)] | None = None
    """Seconds from the job's end after which its record is removed; target and ``result.json`` stay. Unset: kept."""

    @p.model_validator(mode="after")
    def _consistent(self) -> JobSpec:
        if self.operation is Operation.REHEARSE and self.verify.rehearse is RehearsePolicy.NEVER:
            raise ValueError("operation rehearse cannot be done with verify.rehearse never")
        if self.operation is Operation.BOOT_TEST:
            if not self.verify.boot:
                raise ValueError("operation boot-test cannot be done with verify.boot false")
            if self.guest.wishes:
                raise ValueError(
                    f"operation boot-test boots the guest as it is, so guest may not ask for {_list(self.guest.wishes)}"
                )
        if self.operation is Operation.FIX:
            self._check_fix()
        return self

    def _check_fix(self) -> None:
        if not self.guest.enabled:
            raise ValueError("operation fix cannot be done with guest.enabled false")
        formats = {disk.format or self.source.type.value for disk in self.source.disks} or {self.source.type.value}
        for found in sorted(formats - {"auto", self.target.format.value}):
            raise ValueError(
                f"operation fix keeps the image's format: source {found}, target.format {self.target.format.value}; "
                "the operation convert changes it"
            )


#: Fields of a spec that may change after a job was created.
MUTABLE_SPEC_FIELDS = frozenset({"suspend", "priority", "cancel"})


class Metadata(Document):
    """A job's identity."""

    name: Name
    """Unique among the jobs of a backend (on Kubernetes of a namespace)."""
    namespace: Name | None = None
    """The Kubernetes namespace. The queue of a host has none and refuses any but ``default``."""
    uid: str | None = None
    """Given by the backend; a new attempt of a finished job has a new one."""
    creation_timestamp: Instant | None = None
    """Given by the backend."""
    labels: Labels = p.Field(default_factory=dict)
    """To select jobs by, and for workers that accept only some."""
    annotations: dict[str, str] = p.Field(default_factory=dict)
    """Anything else that somebody wants to keep with the job; the protocol gives it no meaning."""

    @property
    def key(self) -> str:
        """What tells the job from all others: ``namespace/name``, or the name alone where there is no namespace."""
        return self.name if self.namespace is None else f"{self.namespace}/{self.name}"


def changed_fields(model: p.BaseModel) -> set[str]:
    """Return the names of the fields that differ from their defaults, as documents spell them."""
    unchanged = defaults(type(model))
    return {
        field.alias or name
        for name, field in type(model).model_fields.items()
        if getattr(model, name) != unchanged[name]
    }


def _list(names: t.Iterable[str]) -> str:
    return ", ".join(sorted(names))


def _refuse_upward(path: str) -> None:
    if ".." in pathlib.PurePosixPath(path).parts:
        raise ValueError("a path may not hold '..': it must stay below the worker's root")
