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
"""
