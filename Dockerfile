# The worker, and the operator, as images: Debian, Python, this collection. docs/container.md says how they are run.
# What changes seldom comes first: a build after a change of code alone makes the last two layers.
ARG BASE_IMAGE=debian:bookworm-20250520-slim@sha256:90522eeb7e5923ee2b871c639059537b30521272f10ca86fdbbbb2b75a8c40cd

FROM ${BASE_IMAGE} AS python
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 \
    && apt-get clean && rm -rf /var/lib/apt/lists/*

# -- what the images are made of ---------------------------------------------------------------------------------------
FROM python AS builder
RUN apt-get update && apt-get install --yes --no-install-recommends python3-venv
RUN python3 -m venv /bindep && /bindep/bin/pip install --no-cache-dir bindep==2.14.0
# The exact versions that were tested, by their digests. pip is of no use afterwards.
COPY requirements-image.txt /
RUN python3 -m venv /opt/hyper2kvm/venv \
    && /opt/hyper2kvm/venv/bin/pip install --no-cache-dir --require-hashes --requirement /requirements-image.txt \
    && /opt/hyper2kvm/venv/bin/pip uninstall --yes pip setuptools
# bindep.txt is the one list of what a worker needs of its system.
COPY bindep.txt /
RUN /bindep/bin/bindep --brief --file /bindep.txt > /packages || [ $? -eq 1 ]
# The place in which modules look for it too. Each command of scripts/ runs the installation that it lies in.
# The pattern stands for galaxy.yml in a checkout, and MANIFEST.json in an installed collection: both say the version.
COPY LICENSE requirements.txt [gM][aA][lN]* /opt/hyper2kvm/collections/ansible_collections/hyper2kvm/core/
COPY scripts/hyper2kvm-* /opt/hyper2kvm/collections/ansible_collections/hyper2kvm/core/scripts/
COPY plugins/module_utils /opt/hyper2kvm/collections/ansible_collections/hyper2kvm/core/plugins/module_utils
RUN /opt/hyper2kvm/venv/bin/python -m compileall -q /opt/hyper2kvm/collections

# -- the operator: no tools, no privileges -----------------------------------------------------------------------------
FROM python AS operator
ARG VERSION=1.3.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="hyper2kvm operator" \
      org.opencontainers.image.description="Queues migrations of virtual machines to KVM and assigns them to workers" \
      org.opencontainers.image.source="https://github.com/hyper2kvm/core" \
      org.opencontainers.image.licenses="GPL-3.0-or-later" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
ENV PATH=/opt/hyper2kvm/venv/bin:/opt/hyper2kvm/collections/ansible_collections/hyper2kvm/core/scripts:/usr/local/bin:/usr/bin:/bin
COPY --from=builder /opt/hyper2kvm/venv /opt/hyper2kvm/venv
COPY --from=builder /opt/hyper2kvm/collections /opt/hyper2kvm/collections
ENV HYPER2KVM_LOG_FORMAT=json
# A number, so that Kubernetes can see that it is not root.
USER 65532:65532
ENTRYPOINT ["hyper2kvm-operator"]

# -- the worker: it attaches disks and mounts guests' filesystems, as root ---------------------------------------------
FROM python AS worker
COPY --from=builder /packages /tmp/packages
RUN apt-get update \
    && xargs apt-get install --yes --no-install-recommends < /tmp/packages \
    && apt-get clean && rm -rf /var/lib/apt/lists/* /tmp/packages \
    && mkdir -p /data/input/jobs /data/output
ARG VERSION=1.3.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="hyper2kvm worker" \
      org.opencontainers.image.description="Moves virtual machines from other hypervisors to KVM guests that were seen booting" \
      org.opencontainers.image.source="https://github.com/hyper2kvm/core" \
      org.opencontainers.image.licenses="GPL-3.0-or-later" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
ENV PATH=/opt/hyper2kvm/venv/bin:/opt/hyper2kvm/collections/ansible_collections/hyper2kvm/core/scripts:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
COPY --from=builder /opt/hyper2kvm/venv /opt/hyper2kvm/venv
COPY --from=builder /opt/hyper2kvm/collections /opt/hyper2kvm/collections
ENV HYPER2KVM_LOG_FORMAT=json
# A worker that does not renew its lease is not among those that are listed.
HEALTHCHECK --interval=60s --timeout=30s --start-period=60s \
    CMD hyper2kvm-worker workers --json | grep -q .
# On SIGTERM the worker checkpoints its jobs, which takes seconds; `docker stop` waits 10.
STOPSIGNAL SIGTERM
ENTRYPOINT ["hyper2kvm-worker"]
CMD ["run"]
