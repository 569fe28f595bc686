# A worker as an image: the system's tools, the collection and its libraries. docs/container.md says how it is run.
# Verified: layout. Its parts are what the role conversion_host installs, which is tested on a machine.

FROM debian:bookworm-slim AS packages
# bindep.txt is the one list of what a worker needs of its system.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3-venv \
    && python3 -m venv /bindep \
    && /bindep/bin/pip install --no-cache-dir bindep
COPY bindep.txt /
RUN /bindep/bin/bindep --brief --file /bindep.txt > /packages || [ $? -eq 1 ]

FROM debian:bookworm-slim
COPY --from=packages /packages /tmp/packages
RUN apt-get update \
    && xargs apt-get install --yes --no-install-recommends python3-venv < /tmp/packages \
    && rm -rf /var/lib/apt/lists/* /tmp/packages
COPY requirements.txt /tmp/
RUN python3 -m venv /opt/hyper2kvm/venv \
    && /opt/hyper2kvm/venv/bin/pip install --no-cache-dir --requirement /tmp/requirements.txt \
    && rm /tmp/requirements.txt
# The place in which modules look for it too. Each command of scripts/ runs the installation that it lies in.
COPY galaxy.yml LICENSE requirements.txt /opt/hyper2kvm/collections/ansible_collections/hyper2kvm/core/
COPY plugins/module_utils /opt/hyper2kvm/collections/ansible_collections/hyper2kvm/core/plugins/module_utils
COPY scripts/hyper2kvm-* /opt/hyper2kvm/collections/ansible_collections/hyper2kvm/core/scripts/
RUN ln -s /opt/hyper2kvm/collections/ansible_collections/hyper2kvm/core/scripts/hyper2kvm-* /usr/local/bin/ \
    && /opt/hyper2kvm/venv/bin/python -m compileall -q /opt/hyper2kvm/collections \
    && mkdir -p /data/input/jobs /data/output
ENV PATH=/opt/hyper2kvm/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
# On SIGTERM the worker checkpoints its jobs, which takes seconds; `docker stop` waits 10.
STOPSIGNAL SIGTERM
ENTRYPOINT ["hyper2kvm-worker"]
CMD ["run"]
