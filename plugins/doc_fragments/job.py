# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    """The job document as options in snake_case."""

    DOCUMENTATION = r"""
options:
  definition:
    description:
      - The whole job document, as in C(schemas/migration-job.json) (camelCase).
      - Mutually exclusive with the options that spell the document out.
    type: dict
  spec:
    description:
      - A part of the document's C(spec), in camelCase or snake_case, merged over the other options.
      - For what has no option of its own, and for a dictionary that comes from elsewhere.
    type: dict
  name:
    description:
      - Name of the job; lower case letters, digits and hyphens, at most 63 (an RFC 1123 label).
      - Required unless O(definition) names it.
    type: str
  labels:
    description: Labels of the job. Workers may be limited to jobs that carry some.
    type: dict
  annotations:
    description: Annotations of the job; nothing here reads them.
    type: dict
  operation:
    description:
      - What the job does.
      - V(convert) fixes the guest, copies its disks to the target and boots the result.
      - V(rehearse) fixes the guest on an overlay and boots that; it copies nothing.
      - V(plan) tells every file of the guest that would change; V(inspect) what is inside the guest.
      - V(fix) repairs a guest and keeps its image's format.
      - V(boot-test) boots the source as it is.
    type: str
    choices: [convert, rehearse, plan, inspect, fix, boot-test]
    default: convert
  source:
    description: What is moved. Either O(source.path) or O(source.disks).
    type: dict
    suboptions:
      type:
        description:
          - Kind of the source.
          - V(auto) goes by the name's ending. Content, which a guest may have written, decides nothing.
        type: str
        choices: [auto, ova, ovf, vmdk, qcow2, vhd, vhdx, vdi, raw, vmx, vbox, hyperv]
        default: auto
      path:
        description: File or folder, relative to C(input_root).
        type: str
      disks:
        description: All disks of the VM, in its order; the one that boots is found by what is on it.
        type: list
        elements: dict
        suboptions:
          path:
            description: The image, relative to C(input_root).
            type: str
            required: true
          format:
            description: "Format of the image. Default: O(source.type)."
            type: str
            choices: [vmdk, qcow2, vhd, vhdx, vdi, raw]
          digest:
            description: Expected digest of the file's bytes, C(sha256:) and 64 hexadecimal digits.
            type: str
      digest:
        description: Expected digest of the bytes of the file at O(source.path), C(sha256:) and 64 hexadecimal digits.
        type: str
      keys:
        description:
          - Keys of encrypted disks (LUKS), to look into the guest, and for the prompts of its boot test.
          - The target stays encrypted as the source is.
        type: list
        elements: dict
        default: []
        suboptions:
          secret:
            description: A passphrase, or the content of a key file, below C(secrets_root).
            type: dict
            required: true
            suboptions:
              name:
                description: Folder of the secret.
                type: str
                required: true
              key:
                description: File in that folder.
                type: str
                required: true
          device:
            description:
              - The UUID of the LUKS container that it opens.
              - "Default: it is tried on each that no other key is for."
            type: str
  target:
    description: What is written, and where.
    type: dict
    suboptions:
      format:
        description: Format of the target's disks.
        type: str
        choices: [qcow2, raw]
        default: qcow2
      path:
        description:
          - Folder for the artifacts, relative to C(output_root).
          - "Default: the job's name."
        type: str
      name:
        description:
          - Name of the VM and of its files.
          - "Default: the last part of O(target.path)."
        type: str
      allocation:
        description: Whether the target's blocks are reserved before they are written.
        type: str
        choices: [sparse, preallocated]
        default: sparse
      contents:
        description:
          - What of the source's disks is copied.
          - V(used) leaves out what the guest's filesystems do not use, such as deleted files; V(all) copies every block
            that holds data.
        type: str
        choices: [used, all]
        default: used
      compression:
        description: Compression of a qcow2 target's clusters.
        type: str
        choices: [none, zlib, zstd]
        default: none
      definitions:
        description: Definitions of the VM that are written beside its disks.
        type: list
        elements: str
        choices: [libvirt, kubevirt]
        default: [libvirt, kubevirt]
      devices:
        description:
          - Block devices that the disks are written onto, one for each disk in the source's order.
          - Only devices that the worker was started to allow (C(--target-device)), with O(target.format=raw).
          - "Default: the disks are files in O(target.path)."
        type: list
        elements: str
        default: []
      force:
        description:
          - Replace an existing target, or what a device of O(target.devices) holds.
          - Without it neither is ever overwritten or removed.
        type: bool
        default: false
  guest:
    description: What is changed inside the guest.
    type: dict
    suboptions:
      enabled:
        description:
          - Whether any file of the guest is changed at all.
          - With V(false) only those other options may be set that are about the VM's network cards.
        type: bool
        default: true
      fixers:
        description:
          - Which fixers run. Default are all that find something to do.
          - What another option asks for needs its fixer; leaving that out is an error.
        type: dict
        suboptions:
          only:
            description: These alone.
            type: list
            elements: str
            default: []
          skip:
            description: All but these.
            type: list
            elements: str
            default: []
      network:
        description: What happens to the guest's network cards.
        type: dict
        suboptions:
          pin_names:
            description:
              - Bind the interface names that the guest's configuration uses to the target's MAC addresses.
              - "Default: where the fixer C(interface-names) runs. With V(true) it must not be left out."
            type: bool
          mac_map:
            description: Gives cards of the source other MAC addresses.
            type: list
            elements: dict
            default: []
            suboptions:
              source:
                description: MAC address of the card in the source.
                type: str
                required: true
              target:
                description: MAC address that it gets.
                type: str
                required: true
          macs:
            description: MAC addresses of the target's cards in the source's order, for a source that tells none.
            type: list
            elements: str
            default: []
          map:
            description:
              - Where the target's definitions plug the cards in, by the network that they have in the source.
              - That the VM lacks a network of the map is no error, so one map may serve many VMs.
            type: list
            elements: dict
            default: []
            suboptions:
              source:
                description:
                  - The network's name in the source.
                  - "Default: every network that no other entry names."
                type: str
              network:
                description: A libvirt network. Mutually exclusive with C(bridge).
                type: str
              bridge:
                description: A bridge of the host that libvirt runs on.
                type: str
              multus:
                description:
                  - For KubeVirt a NetworkAttachmentDefinition, as its name or C(<namespace>/<name>).
                  - Mutually exclusive with C(pod).
                type: str
              pod:
                description: For KubeVirt the pod's own network, which one card may have.
                type: bool
                default: false
      ssh_keys:
        description: SSH keys to add to users' C(~/.ssh/authorized_keys).
        type: list
        elements: dict
        default: []
        suboptions:
          user:
            description: Whom the keys let in.
            type: str
            default: root
          keys:
            description: Public keys, each as one line.
            type: list
            elements: str
            default: []
          keys_from:
            description: A file of further public keys, one a line, below C(secrets_root).
            type: dict
            suboptions:
              name:
                description: Folder of the secret.
                type: str
                required: true
              key:
                description: File in that folder.
                type: str
                required: true
      hostname:
        description: New host name.
        type: str
      timezone:
        description: New time zone, such as V(Europe/Berlin).
        type: str
      reset_machine_id:
        description: Let the guest make a new machine ID at its next boot.
        type: bool
        default: false
      reset_ssh_host_keys:
        description: Let the guest make new SSH host keys at its next boot.
        type: bool
        default: false
      users:
        description: Users of the guest to make, or to change where they exist.
        type: list
        elements: dict
        default: []
        suboptions:
          name:
            description: Login name.
            type: str
            required: true
          groups:
            description: Groups that the guest has, to be a member of.
            type: list
            elements: str
            default: []
          shell:
            description: Login shell of a new user. By default bash where the guest has it, else sh.
            type: str
          password_hash_from:
            description: A file with the password as crypt(3) encodes it, below C(secrets_root).
            type: dict
            suboptions:
              name:
                description: Folder of the secret.
                type: str
                required: true
              key:
                description: File in that folder.
                type: str
                required: true
          sudo:
            description: Whether the user may become root by sudo without a password.
            type: bool
            default: false
      files:
        description: Files to put into the guest; each has C(content) or C(content_from).
        type: list
        elements: dict
        default: []
        suboptions:
          path:
            description: Where, absolute in the guest.
            type: str
            required: true
          content:
            description: The file's text.
            type: str
          content_from:
            description: A file with the text, below C(secrets_root); it is not shown in diffs.
            type: dict
            suboptions:
              name:
                description: Folder of the secret.
                type: str
                required: true
              key:
                description: File in that folder.
                type: str
                required: true
          mode:
            description: Permission bits, octal.
            type: str
            default: "0644"
          owner:
            description: A user that the guest has.
            type: str
            default: root
          group:
            description: A group that the guest has.
            type: str
            default: root
      firstboot:
        description:
          - Shell scripts that the guest runs once, at its first boot; each has C(script) or C(script_from).
          - One that fails is run again at the next boots, three times in all.
        type: list
        elements: dict
        default: []
        suboptions:
          name:
            description: Names the script in the guest's log, C(/var/log/hyper2kvm-firstboot.log).
            type: str
            required: true
          script:
            description: The script's text, for sh.
            type: str
          script_from:
            description: A file with the text, below C(secrets_root); it is not shown in diffs.
            type: dict
            suboptions:
              name:
                description: Folder of the secret.
                type: str
                required: true
              key:
                description: File in that folder.
                type: str
                required: true
      agent:
        description:
          - What becomes of QEMU's guest agent. V(enable) starts it at boot where it is installed; V(install) lets the
            guest install it at its first boot, from its own repositories; V(leave) leaves it as it is.
        type: str
        choices: [enable, install, leave]
        default: enable
      selinux_relabel:
        description:
          - Which files of a guest with SELinux are labelled anew. V(changed) takes those that were changed, at once;
            V(boot) lets the guest label all at its next boot; V(none) takes none.
        type: str
        choices: [changed, boot, none]
        default: changed
      selinux_exclude:
        description: Folders that a relabelling at boot leaves out.
        type: list
        elements: str
        default: []
  verify:
    description: How the result is proven.
    type: dict
    suboptions:
      boot:
        description: Boot the finished target. With V(false) the result says "not verified".
        type: bool
        default: true
      rehearse:
        description:
          - When the fixed guest is booted before anything is copied.
          - V(auto) leaves it out where the copy is expected to take less time than the boot test.
        type: str
        choices: [auto, always, never]
        default: auto
      fsck:
        description:
          - Whether the guest's filesystems are checked, as they are after the fix and before anything is copied.
          - With V(warn) what is damaged or cannot be checked is a warning; with V(require) it fails the job.
          - Nothing is repaired. Operations that fix nothing (V(inspect), V(plan), V(boot-test)) check nothing.
        type: str
        choices: [skip, warn, require]
        default: skip
      timeout_seconds:
        description: Time limit of one boot test, in seconds.
        type: int
        default: 600
      marker:
        description:
          - A text that the guest's console must show.
          - "Default: the guest reports that it has booted, or shows a login prompt."
        type: str
  requirements:
    description: What the job demands of a worker.
    type: dict
    suboptions:
      capabilities:
        description: Capabilities that the worker must have found in itself.
        type: list
        elements: str
        default: []
      labels:
        description: Labels that the worker must carry.
        type: dict
        default: {}
  isolation:
    description:
      - Whose kernel reads the guest's filesystems.
      - V(auto) is the worker's own, and that of a micro-VM where it lacks what the guest needs; V(vm) is that of a
        micro-VM, always.
    type: str
    choices: [auto, vm]
    default: auto
  limits:
    description: What the job may use of a worker.
    type: dict
    suboptions:
      bandwidth_bytes_per_second:
        description: Upper bound of the copy's read rate.
        type: int
  priority:
    description: Jobs of higher priority go first; -1000 to 1000.
    type: int
    default: 0
  backoff_limit:
    description: How often a failed attempt is made again, where that can help.
    type: int
    default: 2
  failure_policy:
    description:
      - Which failures end the job, and which are tried again, where that is not to follow from the error's class.
      - "Default: only failures of the class V(transient) are tried again."
    type: dict
    suboptions:
      rules:
        description:
          - The first rule that matches an error decides; at most 20.
          - What people order, the deadline, lost workers and invalid documents are beyond any rule.
        type: list
        elements: dict
        default: []
        suboptions:
          classes:
            description:
              - Classes of errors that the rule is for; empty, any class.
              - Give this, O(failure_policy.rules[].reasons), or both, which then must both match.
            type: list
            elements: str
            choices: [invalid, unsupported, environment, transient, internal]
            default: []
          reasons:
            description: Reasons of errors that the rule is for, such as V(NoSpace); empty, any reason.
            type: list
            elements: str
            default: []
          action:
            description:
              - V(FailJob) ends the job, though it would be tried again otherwise.
              - V(Retry) has it tried again as often as O(backoff_limit) allows, though it would not be otherwise.
              - V(Ignore) has it tried again without counting that against O(backoff_limit), at most 100 times.
            type: str
            choices: [FailJob, Retry, Ignore]
            required: true
  active_deadline_seconds:
    description: Seconds from its creation after which the job fails wherever it is.
    type: int
  ttl_seconds_after_finished:
    description: Seconds after its end when the job's record is removed. The target and its result stay.
    type: int
"""
