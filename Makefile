# Two things a newcomer needs: `make demo` and `make test`. Both install what the machine lacks, and say so.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
# Tests start thousands of short Python processes: none is to compile all its modules anew.
export PYTHONDONTWRITEBYTECODE :=

PYTHON := /usr/bin/python3
BIN := .venv/bin
# What tpnet runs on: BCC comes from Debian, not from PyPI; nginx is the shop of demo and tutorial, curl its customer.
PACKAGES := python3 python3-venv python3-bpfcc wireguard-go iproute2 nginx-light curl
# What its tests and benchmarks measure against.
TEST_PACKAGES := $(PACKAGES) haproxy wrk procps nodejs nghttp2-proxy nftables
# What its test cluster is made of, besides Kubernetes itself, which is built from source.
CLUSTER_PACKAGES := $(TEST_PACKAGES) containerd runc containernetworking-plugins iptables conntrack
# For cluster-up: LAPTOPS=3; DUAL=1, which is IPv6 beside IPv4; AGENT=1 for the agents' image; USERS=bob:shop for a
# kubeconfig of bob's that looks at the namespace shop. For cluster-down: ID=abc123.
LAPTOPS := 2
DUAL :=
AGENT :=
USERS :=
ID :=
# For image: what it is called in the archive, and amd64 or arm64.
NAME :=
ARCH :=
# For soak and fuzz: how long; for soak, how many requests a second, and the seed of an order that is to come again. Of the faults (names of
# functions in tests/netns/faults.py, with commas between), all unless named; TIMES=20 ends it after so many, which are
# spread over REQUESTS. For soak-cluster: RESTARTS within REQUESTS.
SECONDS := 600
RATE := 300
SEED :=
FAULTS :=
TIMES :=
REQUESTS := 30000
RESTARTS := 20
# For fuzz: the targets, as tests/fuzz names them.
ONLY :=

# Installs the Debian packages in $(1) that are missing. policy-rc.d keeps them from starting services of their own.
define install_packages
	missing=(); \
	for package in $(1); do \
	    dpkg-query -W -f='$${Status}' "$$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$$package"); \
	done; \
	if (( $${#missing[@]} )); then \
	    echo "installing Debian packages: $${missing[*]}"; \
	    export DEBIAN_FRONTEND=noninteractive; \
	    if [[ ! -e /usr/sbin/policy-rc.d ]]; then \
	        trap 'rm -f /usr/sbin/policy-rc.d' EXIT; \
	        printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d; chmod 755 /usr/sbin/policy-rc.d; \
	    fi; \
	    apt-get update -qq; \
	    apt-get install -y -qq --no-install-recommends "$${missing[@]}" >/dev/null; \
	fi
endef

# For after a run of the tests in $(1): two cores are late at times. What has failed is tried once more, one after the other,
# and named; what fails twice fails.
define once_more
	{ \
	    code=$$?; (( code == 1 )) || exit $$code; \
	    echo "once more, by itself, what has failed:"; \
	    $(BIN)/pytest -q --last-failed --last-failed-no-failures=none $(1); }
endef

# Runs the tests in $(1) three at once: those of namespaces and clusters mostly wait; each worker of the latter has a cluster.
define three_at_once
	$(BIN)/pytest -q -n 3 --dist worksteal $(1) || $(call once_more,$(1))
endef

.PHONY: help demo test lint type unit netns soak soak-cluster fuzz fuzz-tests wireguard-go image cluster cluster-up cluster-down cluster-packages bench bench-cluster scale lock docs clean packages test-packages

help: ## what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

packages:
	@$(call install_packages,$(PACKAGES))

test-packages:
	@$(call install_packages,$(TEST_PACKAGES))

# --system-site-packages: the environment sees Debian's bcc.
$(BIN)/python: | packages
	@echo "making a Python environment in .venv on $(PYTHON)"
	@$(PYTHON) -m venv --system-site-packages .venv

.venv/.run: requirements.lock pyproject.toml $(BIN)/python
	@echo "installing Python packages: requirements.lock"
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

.venv/.dev: requirements-dev.lock .venv/.run
	@echo "installing Python packages: requirements-dev.lock"
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --require-hashes -r requirements-dev.lock
	@touch $@

# What guides the fuzz by coverage, where there is one; elsewhere it goes without.
.venv/.fuzz: requirements-fuzz.lock .venv/.dev
	@if [[ $$(uname -m) == x86_64 ]]; then \
	    echo "installing Python packages: requirements-fuzz.lock"; \
	    $(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --require-hashes -r requirements-fuzz.lock; \
	fi
	@touch $@

demo: packages .venv/.run ## the main job end to end on this machine, without a cluster
	@$(BIN)/tpnet lab demo

test: lint type unit fuzz-tests netns cluster ## everything that CI runs

lint: .venv/.dev ## ruff, the layers, clang-format
	@$(BIN)/ruff check -q .
	@$(BIN)/ruff format -q --check .
	@$(BIN)/lint-imports --no-logo | grep -vE '^-*$$'
	@$(BIN)/clang-format --dry-run -Werror bpf/*.c

type: .venv/.dev ## mypy --strict
	@$(BIN)/mypy

unit: .venv/.dev ## tests that need neither root nor a network
	@$(BIN)/pytest -q -n 2 tests/unit --cov=tpnet.rules --cov=tpnet.http --cov-branch --cov-fail-under=100 --cov-report=term-missing:skip-covered || \
	    $(call once_more,tests/unit)

fuzz-tests: .venv/.fuzz ## what fuzzing has found, again, and a minute of it
	@$(BIN)/pytest -q tests/fuzz

fuzz: .venv/.fuzz ## every place where bytes of others come in, for as long as one asks; SECONDS=3600 ONLY="head rules"
	@$(BIN)/python tests/fuzz/fuzz.py --seconds $(SECONDS) $(if $(ONLY),--only $(ONLY))

netns: test-packages .venv/.dev ## tests on this kernel, in namespaces of their own; root
	@$(call three_at_once,tests/netns tests/soak)

soak: test-packages .venv/.dev ## faults under load, for as long as one asks; SECONDS=600 RATE=300 FAULTS=restart TIMES=20; root
	@$(BIN)/python tests/soak/soak.py --seconds $(SECONDS) --rate $(RATE) $(if $(SEED),--seed $(SEED)) \
	    $(if $(FAULTS),--faults $(FAULTS)) $(if $(TIMES),--times $(TIMES) --requests $(REQUESTS))

soak-cluster: cluster-packages .venv/.dev ## restarts of the agents' pods under load; RESTARTS=20 RATE=500 REQUESTS=30000; root
	@cd tests/cluster && ../../$(BIN)/python -m kubelab build
	@$(BIN)/python tests/cluster/restarts.py --restarts $(RESTARTS) --requests $(REQUESTS) --rate $(RATE)

# Of this year, from a pinned module: Debian's, of 2022, is several times slower where there is a way to go.
# What runs tpnet from this environment takes it before any other; the tests are of Debian's where it is not asked for.
wireguard-go: $(BIN)/wireguard-go ## the wireguard-go of the agents' image for this environment as well

$(BIN)/wireguard-go: $(wildcard agent-image/wireguard-go/*) | .venv/.run
	@cd agent-image && ../$(BIN)/python -m agentimage wireguard-go ../$@
	@touch $@

image: .venv/.run ## the agents' image as an OCI archive in dist/, with its bill of materials; NAME=… ARCH=arm64
	@cd agent-image && ../$(BIN)/python -m agentimage build $(if $(NAME),--name $(NAME)) $(if $(ARCH),--arch $(ARCH))

cluster-packages:
	@$(call install_packages,$(CLUSTER_PACKAGES))

cluster: cluster-packages .venv/.dev ## tests on a Kubernetes of their own, on this machine; root; the first time builds it
	@cd tests/cluster && ../../$(BIN)/python -m kubelab build
	@$(call three_at_once,tests/cluster)

cluster-up: cluster-packages .venv/.dev ## bring a cluster up that stands, and say how to use it; LAPTOPS=2 DUAL=1 AGENT=1 USERS=bob
	@cd tests/cluster && ../../$(BIN)/python -m kubelab up --laptops $(LAPTOPS) $(if $(DUAL),--dual) $(if $(AGENT),--agent) \
	    $(if $(USERS),--user $(USERS))

cluster-down: .venv/.dev ## take down what cluster-up brought up; ID=abc123 for one alone
	@cd tests/cluster && ../../$(BIN)/python -m kubelab down $(ID)

bench: test-packages .venv/.dev ## ratios against HAProxy and nginx; writes docs/benchmarks.md
	@$(BIN)/python tests/bench/run.py

bench-cluster: cluster-packages .venv/.dev ## how soon an intercept works on a cluster, and memory; writes docs/benchmarks-cluster.md
	@cd tests/cluster && ../../$(BIN)/python -m kubelab build
	@$(BIN)/python tests/bench/cluster.py

scale: .venv/.dev ## what a large cluster asks of agents and API server, simulated; writes docs/explanation/scale.md
	@$(BIN)/python tests/bench/scale.py

lock: .venv/.dev ## pin Python's packages, and those of Debian in the image, anew
	@for target in "requirements.lock:run" "requirements-dev.lock:dev"; do \
	    $(BIN)/uv pip compile -q --upgrade --python $(PYTHON) --generate-hashes --no-emit-index-url --no-annotate --no-header \
	        pyproject.toml --group "$${target#*:}" -o "$${target%:*}"; \
	done
	@$(BIN)/uv pip compile -q --upgrade --python $(PYTHON) --generate-hashes --no-emit-index-url --no-annotate --no-header \
	    --group fuzz -o requirements-fuzz.lock
	@cd agent-image && ../$(BIN)/python -m agentimage lock

docs: .venv/.run ## write the generated part of docs/reference anew
	@$(BIN)/python -m tpnet_cli.reference docs/reference

clean: ## remove what make and the tests made in this folder
	@rm -rf .venv .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage .import_linter_cache dist
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
