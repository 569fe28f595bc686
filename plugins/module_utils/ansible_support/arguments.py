# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The argument specs that modules share; plugins/doc_fragments documents them, and sanity tests compare the two."""

from __future__ import annotations

import typing as t

ROOTS: dict[str, t.Any] = {
    "input_root": {"type": "path", "default": "/var/lib/hyper2kvm/input"},
    "output_root": {"type": "path", "default": "/var/lib/hyper2kvm/output"},
    "state_dir": {"type": "path"},
    "scratch_dir": {"type": "path"},
    "secrets_root": {"type": "path", "default": "/var/lib/hyper2kvm/secrets", "no_log": False},
}

#: How the API server of a Kubernetes cluster is reached, by the names that kubernetes.core has for it.
CLUSTER: dict[str, t.Any] = {
    "namespace": {"type": "str"},
    "kubeconfig": {"type": "path"},
    "context": {"type": "str"},
    "host": {"type": "str"},
    "api_key": {"type": "str", "no_log": True},
    "client_cert": {"type": "path", "aliases": ["cert_file"]},
    "client_key": {"type": "path", "aliases": ["key_file"], "no_log": False},
    "ca_cert": {"type": "path", "aliases": ["ssl_ca_cert"]},
    "validate_certs": {"type": "bool", "aliases": ["verify_ssl"]},
    "proxy": {"type": "str"},
}

QUEUE: dict[str, t.Any] = {
    "backend": {"type": "str", "choices": ["local", "kubernetes"], "default": "local"},
    **CLUSTER,
}

_STRINGS: dict[str, t.Any] = {"type": "list", "elements": "str", "default": []}
#: Where a secret is; not the secret itself.
_SECRET: dict[str, t.Any] = {
    "type": "dict",
    "no_log": False,
    "options": {
        "name": {"type": "str", "required": True},
        "key": {"type": "str", "required": True, "no_log": False},
    },
}

_SOURCE_TYPES = ["auto", "ova", "ovf", "vmdk", "qcow2", "vhd", "vhdx", "vdi", "raw", "vmx", "vbox", "hyperv"]
_DISK_FORMATS = ["vmdk", "qcow2", "vhd", "vhdx", "vdi", "raw"]
_SOURCE: dict[str, t.Any] = {
    "type": {"type": "str", "choices": _SOURCE_TYPES, "default": "auto"},
    "path": {"type": "str"},
    "disks": {
        "type": "list",
        "elements": "dict",
        "options": {
            "path": {"type": "str", "required": True},
            "format": {"type": "str", "choices": _DISK_FORMATS},
            "digest": {"type": "str"},
        },
    },
    "digest": {"type": "str"},
    "keys": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "no_log": False,
        "options": {
            "secret": {
                "type": "dict",
                "required": True,
                "no_log": False,
                "options": {
                    "name": {"type": "str", "required": True},
                    "key": {"type": "str", "required": True, "no_log": False},
                },
            },
            "device": {"type": "str"},
        },
    },
}

_TARGET: dict[str, t.Any] = {
    "format": {"type": "str", "choices": ["qcow2", "raw"], "default": "qcow2"},
    "path": {"type": "str"},
    "name": {"type": "str"},
    "allocation": {"type": "str", "choices": ["sparse", "preallocated"], "default": "sparse"},
    "contents": {"type": "str", "choices": ["used", "all"], "default": "used"},
    "compression": {"type": "str", "choices": ["none", "zlib", "zstd"], "default": "none"},
    "definitions": {
        "type": "list",
        "elements": "str",
        "choices": ["libvirt", "kubevirt"],
        "default": ["libvirt", "kubevirt"],
    },
    "devices": _STRINGS,
    "force": {"type": "bool", "default": False},
}

GUEST: dict[str, t.Any] = {
    "enabled": {"type": "bool", "default": True},
    "fixers": {"type": "dict", "options": {"only": _STRINGS, "skip": _STRINGS}},
    "network": {
        "type": "dict",
        "options": {
            "pin_names": {"type": "bool"},
            "mac_map": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {"source": {"type": "str", "required": True}, "target": {"type": "str", "required": True}},
            },
            "macs": _STRINGS,
            "map": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "source": {"type": "str"},
                    "network": {"type": "str"},
                    "bridge": {"type": "str"},
                    "multus": {"type": "str"},
                    "pod": {"type": "bool", "default": False},
                },
            },
        },
    },
    "ssh_keys": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "no_log": False,
        "options": {
            "user": {"type": "str", "default": "root"},
            "keys": {**_STRINGS, "no_log": False},
            "keys_from": _SECRET,
        },
    },
    "hostname": {"type": "str"},
    "timezone": {"type": "str"},
    "reset_machine_id": {"type": "bool", "default": False},
    "reset_ssh_host_keys": {"type": "bool", "default": False},
    "users": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "name": {"type": "str", "required": True},
            "groups": _STRINGS,
            "shell": {"type": "str"},
            "password_hash_from": _SECRET,
            "sudo": {"type": "bool", "default": False},
        },
    },
    "files": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "path": {"type": "str", "required": True},
            "content": {"type": "str"},
            "content_from": _SECRET,
            "mode": {"type": "str", "default": "0644"},
            "owner": {"type": "str", "default": "root"},
            "group": {"type": "str", "default": "root"},
        },
    },
    "firstboot": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "name": {"type": "str", "required": True},
            "script": {"type": "str"},
            "script_from": _SECRET,
        },
    },
    "agent": {"type": "str", "choices": ["enable", "install", "leave"], "default": "enable"},
    "selinux_relabel": {"type": "str", "choices": ["changed", "boot", "none"], "default": "changed"},
    "selinux_exclude": _STRINGS,
}

VERIFY: dict[str, t.Any] = {
    "boot": {"type": "bool", "default": True},
    "rehearse": {"type": "str", "choices": ["auto", "always", "never"], "default": "auto"},
    "fsck": {"type": "str", "choices": ["skip", "warn", "require"], "default": "skip"},
    "timeout_seconds": {"type": "int", "default": 600},
    "marker": {"type": "str"},
}

#: Options that spell a job's spec out, by their names in the document (in snake_case).
SPEC: dict[str, t.Any] = {
    "operation": {
        "type": "str",
        "choices": ["convert", "rehearse", "plan", "inspect", "fix", "boot-test"],
        "default": "convert",
    },
    "source": {"type": "dict", "options": _SOURCE},
    "target": {"type": "dict", "options": _TARGET},
    "guest": {"type": "dict", "options": GUEST},
    "verify": {"type": "dict", "options": VERIFY},
    "requirements": {
        "type": "dict",
        "options": {"capabilities": _STRINGS, "labels": {"type": "dict", "default": {}}},
    },
    "isolation": {"type": "str", "choices": ["auto", "vm"], "default": "auto"},
    "limits": {"type": "dict", "options": {"bandwidth_bytes_per_second": {"type": "int"}}},
    "priority": {"type": "int", "default": 0},
    "backoff_limit": {"type": "int", "default": 2},
    "failure_policy": {
        "type": "dict",
        "options": {
            "rules": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "classes": {
                        "type": "list",
                        "elements": "str",
                        "choices": ["invalid", "unsupported", "environment", "transient", "internal"],
                        "default": [],
                    },
                    "reasons": _STRINGS,
                    "action": {"type": "str", "choices": ["FailJob", "Retry", "Ignore"], "required": True},
                },
            },
        },
    },
    "active_deadline_seconds": {"type": "int"},
    "ttl_seconds_after_finished": {"type": "int"},
}

#: Options that spell a job's metadata out.
METADATA: dict[str, t.Any] = {
    "name": {"type": "str"},
    "labels": {"type": "dict"},
    "annotations": {"type": "dict"},
}

JOB: dict[str, t.Any] = {
    "definition": {"type": "dict"},
    "spec": {"type": "dict"},
    **METADATA,
    **SPEC,
}

#: A whole document and the options that spell one out exclude each other. ``name`` may accompany a document.
JOB_EXCLUSIONS: list[tuple[str, str]] = [("definition", option) for option in ("spec", "labels", "annotations", *SPEC)]

#: A VM's disks, for modules that work without a job.
REQUIRED_SOURCE: dict[str, t.Any] = {"type": "dict", "required": True, "options": _SOURCE}

#: What modules have in common that leave something attached.
ATTACHMENT: dict[str, t.Any] = {
    "name": {"type": "str", "required": True},
    "source": {"type": "dict", "options": _SOURCE},
    "writable": {"type": "bool", "default": False},
    "owner": {"type": "str", "default": "ansible"},
    "ttl": {"type": "int", "default": 3600},
}

REPORT: dict[str, t.Any] = {
    **ROOTS,
    **QUEUE,
    "hosts": {"type": "list", "elements": "str"},
    "variables": {"type": "list", "elements": "str"},
    "jobs": {"type": "list", "elements": "dict"},
    "results": {"type": "path"},
    "path": {"type": "path"},
    "csv": {"type": "path"},
    "junit": {"type": "path"},
    "table": {"type": "bool", "default": True},
    "title": {"type": "str", "default": "Migration report"},
}

#: What a report is made of: exactly one of these.
REPORT_SOURCES: list[tuple[str, ...]] = [("hosts", "jobs", "results")]
