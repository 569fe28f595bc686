# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    """A VM's disks, for modules that work without a job."""

    DOCUMENTATION = r"""
options:
  source:
    description: The VM's disks. Either O(source.path) or O(source.disks).
    required: true
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
        description: File or folder, relative to O(input_root), or absolute below O(input_root) or O(output_root).
        type: str
      disks:
        description: All disks of the VM, in its order; the one that boots is found by what is on it.
        type: list
        elements: dict
        suboptions:
          path:
            description: The image, as O(source.path).
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
"""
