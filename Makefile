# Everything that a person or CI runs. `make demo` and `make test` set up all they need on a bare
# Debian or EL machine; the Kubernetes of the tests wants Debian 12.
SHELL := /bin/bash
.DEFAULT_GOAL := help
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
LINK := .collections/ansible_collections/hyper2kvm/core
DEPENDENCIES := .collections/.dependencies
# Outside the checkout: ansible-test sees no files in a folder that an enclosing git repository ignores.
SANITY_ROOT := $(or $(TMPDIR),/tmp)/hyper2kvm-sanity
SANITY_TREE := $(SANITY_ROOT)/ansible_collections/hyper2kvm/core
OLDEST := .venv-oldest
IMPORTER := .venv-importer
ACTIONLINT := v1.7.12
# Those of the matrix are built by the tests that boot them.
GUESTS := debian12 debian12-uefi debian12-btrfs debian12-lvm tiny tiny-blank tiny-nokernel
GUEST_CACHE := $(CURDIR)/.cache/guests
SHELL_SCRIPTS := .ci/run k8s/full-test k8s/upload scripts/create-venv scripts/import-as-galaxy scripts/install-packages
export PATH := $(BIN):$(PATH)
export LC_ALL := C.UTF-8
# A file's tests stay together: what several of them use is made once. A boot without KVM keeps one processor busy.
SIDE_BY_SIDE := --numprocesses auto --dist loadfile
# Where it is set, each of the many processes would compile everything anew.
unexport PYTHONDONTWRITEBYTECODE
export HYPER2KVM_TEST_GUESTS := $(GUEST_CACHE)

.PHONY: help setup setup-cluster demo test test-cluster lint unit hostile fuzz guests e2e test-guests faults test-faults \
	sanity integration oldest compat schemas lock bench bench-cluster build docsite browser screenshots monitoring clean \
	actionlint galaxy-importer in-a-checkout in-a-collection single-threaded slow in-a-cluster cluster kube nodes image molecule \
	molecule-kubernetes release publish-galaxy publish-chart FORCE

help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(VENV)/.done $(LINK) $(DEPENDENCIES) ## Install system packages, a virtual environment and the collection's link

$(VENV)/.done: requirements.txt requirements-dev.txt bindep.txt scripts/install-packages
	test -x $(BIN)/python || scripts/create-venv $(VENV)
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -r requirements-dev.txt
	scripts/install-packages $(BIN)/bindep test
	touch $@

setup-cluster: setup $(VENV)/.cluster-done ## Install what tests with a Kubernetes cluster need as well

$(VENV)/.cluster-done: requirements-cluster.txt bindep.txt scripts/install-packages | setup
	uv pip install --quiet --python $(BIN)/python -r requirements-cluster.txt
	scripts/install-packages $(BIN)/bindep cluster
	touch $@

# The package file keeps a regular `ansible_collections` in site-packages from hiding this one.
$(LINK):
	mkdir -p $(dir $@)
	touch .collections/ansible_collections/__init__.py
	ln -sfn ../../.. $@

# What galaxy.yml depends on.
$(DEPENDENCIES): galaxy.yml scripts/install-collections | $(LINK) $(VENV)/.done
	$(BIN)/python scripts/install-collections .collections
	touch $@

demo: setup ## Build a VMware-style Debian guest (once) and migrate it
	mkdir -p .cache/demo/input
	ova=$$(python -m tests.guests build debian12 --cache $(GUEST_CACHE) | tee /dev/stderr | tail -1 | cut -d' ' -f1) && \
		ln -f "$$ova" .cache/demo/input/web01.ova
	ansible-playbook -i inventories/demo playbooks/migrate.yml

test: setup single-threaded unit hostile slow faults ## Pass all tests

# Each of these keeps one processor busy.
single-threaded: setup
	$(MAKE) --jobs 2 --output-sync=recurse in-a-checkout in-a-collection

in-a-checkout:
	$(MAKE) --jobs 1 lint oldest guests

in-a-collection:
	$(MAKE) --jobs 1 sanity integration

# Those of a cluster wait for most of their time; boots without KVM keep the processors busy meanwhile.
slow: guests cluster
	$(MAKE) --jobs 2 --output-sync=recurse e2e in-a-cluster

in-a-cluster:
	$(MAKE) --jobs 1 nodes kube

lint: setup actionlint ## Formatting, types, documentation, import arrows
	black --check plugins tests bench dashboards scripts
	ruff check plugins tests bench dashboards scripts
	mypy -p ansible_collections.hyper2kvm.core.plugins.module_utils
	mypy plugins/modules plugins/action plugins/filter plugins/inventory plugins/lookup plugins/plugin_utils
	mypy -p tests.cluster
	mypy -p dashboards
	mypy $(wildcard scripts/*.py)
	PYTHONPATH=.collections lint-imports --no-cache
	yamllint .
	shellcheck $(SHELL_SCRIPTS)
	hadolint Dockerfile
	actionlint
	reuse lint --quiet
	python scripts/check_links.py
	ansible-lint
	antsibull-changelog lint
	ANSIBLE_COLLECTIONS_PATH=.collections antsibull-docs lint-collection-docs --plugin-docs --validate-collection-refs self .

# Its package on PyPI fetches a program from elsewhere while it is installed; the Go module is checked by Go's own sums.
actionlint: $(VENV)/.actionlint-$(ACTIONLINT)

$(VENV)/.actionlint-$(ACTIONLINT): requirements-cluster.txt | setup
	uv pip install --quiet --python $(BIN)/python -r requirements-cluster.txt
	CGO_ENABLED=0 GOBIN=$(BIN) go install -trimpath github.com/rhysd/actionlint/cmd/actionlint@$(ACTIONLINT)
	touch $@

unit: setup ## Tests without guests
	python -m pytest --numprocesses auto tests/unit tests/test_worker_protocol.py

hostile: setup ## Tests with hostile documents, images and guests
	python -m pytest --numprocesses auto tests/hostile

fuzz: setup ## 100,000 changed inputs for every reader of hostile data
	PYTHONPATH=.collections python -m tests.hostile.fuzz --inputs 100000

guests: setup ## Build what `make e2e` boots, where it is not kept from before
	python -m tests.guests build --cache $(GUEST_CACHE) $(GUESTS)
	python -m tests.e2e.kernels

e2e: guests ## Tests with real guests that boot
	python -m pytest $(SIDE_BY_SIDE) --durations 40 tests/e2e -m "not matrix and not long"

test-guests: guests ## Migrate and boot the guests of the whole matrix, and the other tests that take long
	HYPER2KVM_MATRIX_RESULTS=$(CURDIR)/build/matrix python -m pytest --numprocesses auto tests/e2e -m "matrix or long"

faults: guests ## A few rounds of the tests that break things
	python -m pytest tests/faults

test-cluster: cluster ## Tests on a real Kubernetes cluster, which they bring up and take down
	python -m tests.guests build tiny --cache $(GUEST_CACHE)
	$(MAKE) --jobs 2 --output-sync=recurse kube nodes

cluster: setup-cluster ## Build Kubernetes and what else tests need of it, where it is not kept from before
	python -m tests.cluster build

kube: setup-cluster
	python -m pytest $(SIDE_BY_SIDE) --durations 20 tests/kube

nodes: setup-cluster
	python -m pytest --durations 20 tests/cluster

test-faults: guests fuzz ## Many rounds of them (kills, full disks, 1,000 jobs), and of changed inputs
	HYPER2KVM_FAULT_ROUNDS=25 python -m pytest tests/faults

$(SANITY_TREE): FORCE
	rm -rf $@ && mkdir -p $@
	git ls-files -z -co --exclude-standard | tar --null -T - -c | tar -x -C $@
	tests/tools/offline-ansible-test-pip

sanity: setup $(SANITY_TREE) ## ansible-test sanity
	cd $(SANITY_TREE) && ansible-test sanity --python 3.11

integration: setup $(SANITY_TREE) ## ansible-test integration
	cd $(SANITY_TREE) && ansible-test integration --python 3.11

$(OLDEST)/.done: requirements.txt requirements-oldest.txt | setup
	test -x $(OLDEST)/bin/python || scripts/create-venv $(OLDEST)
	uv pip install --quiet --compile-bytecode --python $(OLDEST)/bin/python -r requirements-oldest.txt
	touch $@

oldest: setup $(OLDEST)/.done ## Modules, plugins and a playbook with the oldest ansible-core that is supported
	$(OLDEST)/bin/python -m pytest tests/unit/plugins/modules tests/unit/plugins/plugin_utils tests/unit/plugins/filter \
		tests/unit/plugins/inventory
	$(OLDEST)/bin/python -m pytest tests/e2e/test_playbooks.py -k "second_run_changes_nothing or users_write"

# In an environment of its own: it wants attrs and flake8 of certain versions.
$(IMPORTER)/.done: requirements-importer.txt | setup
	test -x $(IMPORTER)/bin/python || scripts/create-venv $(IMPORTER)
	uv pip install --quiet --python $(IMPORTER)/bin/python -r requirements-importer.txt
	touch $@

galaxy-importer: setup $(IMPORTER)/.done ## What Galaxy does with the tarball before it takes it
	rm -rf build/importer && ansible-galaxy collection build --output-path build/importer
	scripts/import-as-galaxy $(IMPORTER)/bin build/importer/*.tar.gz

ANSIBLE_CORE ?= 2.19
PYTHON ?= 3.11
COMPAT := .venv-compat/$(ANSIBLE_CORE)-$(PYTHON)

compat: setup ## The same tests as `oldest` with another pair: ANSIBLE_CORE=2.18 PYTHON=3.12
	test -x $(COMPAT)/bin/python || uv venv --quiet --python $(PYTHON) $(COMPAT)
	echo 'ansible-core ~= $(ANSIBLE_CORE).0' > $(COMPAT)/ansible-core.txt
	uv pip install --quiet --python $(COMPAT)/bin/python --override $(COMPAT)/ansible-core.txt -r requirements-oldest.txt
	$(COMPAT)/bin/python -m pytest tests/unit/plugins/modules tests/unit/plugins/plugin_utils \
		tests/unit/plugins/filter tests/unit/plugins/inventory

MOLECULE := ANSIBLE_COLLECTIONS_PATH=$(CURDIR)/.collections molecule test --scenario-name

molecule: setup ## A batch on this machine and one on a conversion host, by Molecule
	$(MOLECULE) default
	$(MOLECULE) conversion_host

# A cluster of its own: one that somebody keeps for work is left alone.
molecule-kubernetes: export HYPER2KVM_TEST_CLUSTER = molecule-$(shell printf %s $(CURDIR) | sha256sum | cut -c 1-6)
molecule-kubernetes: setup-cluster ## A VM on a Kubernetes cluster, by Molecule: deploy, migrate, undeploy
	environment=$$(python -m tests.cluster env) && eval "$$environment" && $(MOLECULE) kubernetes

# The packages of a browser are large, and nothing else needs them.
$(VENV)/.browser: bindep.txt scripts/install-packages | setup
	scripts/install-packages $(BIN)/bindep browser
	touch $@

browser: setup $(VENV)/.browser ## Tests of the report's page in a real browser
	python -m pytest tests/browser

# Prometheus, and what a fleet to be watched takes.
$(VENV)/.monitoring: bindep.txt scripts/install-packages | setup-cluster
	scripts/install-packages $(BIN)/bindep monitoring
	touch $@

monitoring: setup-cluster $(VENV)/.monitoring ## Tests of metrics, dashboard and alerts with a real Prometheus
	python -m tests.guests build tiny --cache $(GUEST_CACHE)
	python -m pytest tests/monitoring

screenshots: guests $(VENV)/.browser ## Take the pictures for the documentation
	PYTHONPATH=.collections python -m tests.browser.screenshots docs/images

schemas: setup ## Write schemas/, and the tables of the specification and of docs/errors.md
	PYTHONPATH=.collections python -m ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.schema --write

lock: setup ## Write down the exact libraries of the images
	uv pip compile --quiet --upgrade --generate-hashes --python-version 3.11 --no-annotate \
		--custom-compile-command "make lock" --output-file requirements-image.txt requirements.txt requirements-kubernetes.txt

bench: setup ## Print the ratios against qemu-img
	PYTHONPATH=.collections python -m bench

bench-cluster: setup-cluster ## Thousands of jobs through the operator, beside Kubernetes' own Jobs
	PYTHONPATH=.collections python -m bench.cluster

build: setup ## Build the collection's tarball
	ansible-galaxy collection build --force --output-path build

release: setup-cluster ## Make a release's files in build/release: tarball, chart, SBOM, changelog, digests
	python scripts/make_release.py build/release \
		--helm "$$(python -c 'from tests.cluster.programs import tool; print(tool("helm"))')"

# The token comes by ANSIBLE_GALAXY_SERVER_RELEASE_TOKEN, so that no process list shows it.
publish-galaxy: setup ## Publish the collection in build/release on Galaxy
	ANSIBLE_GALAXY_SERVER_LIST=release ANSIBLE_GALAXY_SERVER_RELEASE_URL=https://galaxy.ansible.com/ \
		ansible-galaxy collection publish build/release/hyper2kvm-core-*.tar.gz

CHARTS ?= oci://ghcr.io/hyper2kvm/charts

publish-chart: ## Push the chart in build/release to a registry: CHARTS=oci://registry.example.org/charts
	helm push build/release/hyper2kvm-worker-*.tgz $(CHARTS)

TARGET ?= worker
IMAGE ?= hyper2kvm:test
PUSH ?=
METADATA ?= /dev/null
# Only a registry takes an image with its attestations.
ATTESTED = --push --sbom=true --provenance=mode=max --metadata-file=$(METADATA)

image: ## Build an image by Docker: TARGET=worker|operator IMAGE=name:tag [PUSH=true, with SBOM and provenance]
	docker buildx build --target $(TARGET) --tag $(IMAGE) $(if $(PUSH),$(ATTESTED),--load) \
		--build-arg VERSION="$$(sed --quiet 's/^version: //p' galaxy.yml)" \
		--build-arg REVISION="$$(git rev-parse HEAD)" .

# Sphinx's own warnings are links to docs.ansible.com, which it has to reach for them.
docsite: setup ## Build the reference of modules, plugins and roles as HTML
	rm -rf build/docsite && mkdir -p build/docsite
	ANSIBLE_COLLECTIONS_PATH=.collections antsibull-docs sphinx-init --use-current --squash-hierarchy --fail-on-error \
		--dest-dir build/docsite hyper2kvm.core
	cd build/docsite && ANSIBLE_COLLECTIONS_PATH=$(CURDIR)/.collections antsibull-docs --config-file antsibull-docs.cfg \
		collection --cleanup everything --fail-on-error --use-current --squash-hierarchy --dest-dir rst hyper2kvm.core
	cd build/docsite && sphinx-build --quiet -b html -c . rst html

clean: ## Remove what was built and what the demo made; the guests' cache stays
	rm -rf build demo-output .cache/demo $(SANITY_ROOT) $(VENV) $(OLDEST) $(IMPORTER) .venv-compat
	rm -rf .collections .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache tests/output

FORCE:
