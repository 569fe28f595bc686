# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    """Where a worker's files lie on the host that the module runs on."""

    DOCUMENTATION = r"""
options:
  input_root:
    description:
      - Folder that holds the sources, on the host that the module runs on. Nothing in it is ever written.
      - Every path to a source is relative to it, or absolute below it.
    type: path
    default: /var/lib/hyper2kvm/input
  output_root:
    description:
      - Folder for the targets. Every path to a target is relative to it, or absolute below it.
    type: path
    default: /var/lib/hyper2kvm/output
  state_dir:
    description:
      - Folder of the queue. It must lie on a local disk.
      - "Default: C(.hyper2kvm) below O(output_root)."
    type: path
  scratch_dir:
    description:
      - Folder for overlays and throw-away layers.
      - "Default: C(scratch) below O(state_dir)."
    type: path
  secrets_root:
    description:
      - Folder of the secrets that a job document refers to, each in C(<name>/<key>).
    type: path
    default: /var/lib/hyper2kvm/secrets
"""

    QUEUE = r"""
options:
  backend:
    description:
      - Where the jobs are kept.
      - V(local) is a queue in O(state_dir) on the host that the module runs on.
      - V(kubernetes) are resources of the kind C(MigrationJob) in a namespace of a cluster. The folders' options mean
        nothing there, for each worker of the cluster has its own.
    type: str
    choices: [local, kubernetes]
    default: local
  namespace:
    description:
      - With O(backend=kubernetes), the namespace of the jobs.
      - "Default: the one that the job's O(ignore:definition) names, that of O(context), or that of the pod that the
        module runs in; else V(default)."
    type: str
  kubeconfig:
    description:
      - With O(backend=kubernetes), the file that says how the cluster is reached.
      - "Default: E(K8S_AUTH_KUBECONFIG); what is mounted into a pod; E(KUBECONFIG); C(~/.kube/config)."
    type: path
  context:
    description: "A context of O(kubeconfig). Default: E(K8S_AUTH_CONTEXT), or the file's current one."
    type: str
  host:
    description: "URL of the API server, instead of a file's. Default: E(K8S_AUTH_HOST)."
    type: str
  api_key:
    description: "Token to log in with. Default: E(K8S_AUTH_API_KEY)."
    type: str
  client_cert:
    description: "File of the certificate to log in with. Default: E(K8S_AUTH_CERT_FILE)."
    type: path
    aliases: [cert_file]
  client_key:
    description: "File of that certificate's key. Default: E(K8S_AUTH_KEY_FILE)."
    type: path
    aliases: [key_file]
  ca_cert:
    description: "File of the certificates that the API server's is checked against. Default: E(K8S_AUTH_SSL_CA_CERT)."
    type: path
    aliases: [ssl_ca_cert]
  validate_certs:
    description: "Whether the API server's certificate is checked. Default: E(K8S_AUTH_VERIFY_SSL), else V(true)."
    type: bool
    aliases: [verify_ssl]
  proxy:
    description: "URL of an HTTP proxy between here and the API server. Default: E(K8S_AUTH_PROXY)."
    type: str
requirements:
  - kubernetes >= 37, with O(backend=kubernetes)
"""
