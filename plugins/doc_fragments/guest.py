# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    """What is changed inside a guest."""

    DOCUMENTATION = r"""
options:
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
            description: A file of further public keys, one a line, below O(secrets_root).
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
            description: A file with the password as crypt(3) encodes it, below O(secrets_root).
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
            description: A file with the text, below O(secrets_root); it is not shown in diffs.
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
            description: A file with the text, below O(secrets_root); it is not shown in diffs.
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
"""
