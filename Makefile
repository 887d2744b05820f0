# The two main commands are `make run` and `make test`. Both install what is missing on Debian.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

FUZZ_SECONDS ?= 60
SOAK_SECONDS ?= 600
SIM_SEEDS ?= 10000
CLUSTERS ?= 100
CONTAINERS ?= 10
MANIFEST ?= examples/sipcluster.yaml
# Static programs have a directory of their own: PROFILE is dev or release.
PROFILE ?= release
HOST = $(shell rustc -vV | sed -n 's/^host: //p')
STATIC = $(TARGET)/$(HOST)/$(if $(filter dev,$(PROFILE)),debug,$(PROFILE))
TARGET := $(abspath $(or $(CARGO_TARGET_DIR),target))

help: ## This list.
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: build ## Start the cluster of MANIFEST (examples/sipcluster.yaml) on this machine; Ctrl-C stops it.
	@exec $(TARGET)/release/sipcluster up -f $(MANIFEST)

build: install ## Build the three executables in target/release.
	cargo build --release -p cli -p proxy -p container

# What befalls a SipCluster on Kubernetes most often, and goes through all its parts.
FEW = "kubectl scale" "a container killed (kill" "pod deleted" "to another image" "middle of a rolling upgrade" "kubectl drain" "killed before it is Ready" "over TLS" \
	"a node cut off, with a container, and" "Redis master killed" "API server away"

test: test-install programs lint ## Every test (as root): lints, unit tests, simulation, interoperation with SIPp and a real Redis, some of e2e.
	cargo build --workspace --bins
	mkdir -p $(TARGET)
	SIPCLUSTER_BIN_DIR=$(TARGET)/debug cargo test --workspace 2>&1 | tee $(TARGET)/test.log
	@awk '/^test result:/ { passed += $$4; failed += $$6; ignored += $$8 } \
		END { print "make test: " passed " tests passed, " failed " failed, " ignored " ignored" }' $(TARGET)/test.log
	env -u KUBECONFIG $(MAKE) e2e SCENARIOS='$(FEW)'

programs: ## Helm, etcd and the API server, with which the chart is tested: built from their source unless they have been.
	@E2E_NODES=none tests/e2e/cluster/cluster build

lint: lint-install ## Formatting and clippy.
	cargo fmt --all --check
	cargo clippy --quiet --workspace --all-targets -- -D warnings

fuzz: ## Each fuzz target for FUZZ_SECONDS (60); a crash is kept in fuzz/artifacts and repeated by `cargo fuzz run TARGET FILE`.
	@.ci/install cc c++ fuzz
	for target in scan frame records bencode; do \
		cargo +nightly fuzz run $$target -- -max_total_time=$(FUZZ_SECONDS) -max_len=4096; \
	done

generate: ## Write what is generated from the manifest's types: the CustomResourceDefinition and its reference.
	cargo run --quiet -p crds --bin crdgen

report: test-install ## Every fault with calls up, in full; writes docs/faults.md.
	cargo build --workspace --bins
	SIPCLUSTER_BIN_DIR=$(TARGET)/debug $(TARGET)/debug/report

soak: test-install ## Calls with a fault every ten seconds for SOAK_SECONDS (600), then SIM_SEEDS (10000) simulated runs of each kind.
	cargo build --workspace --bins
	SIPCLUSTER_BIN_DIR=$(TARGET)/debug SOAK_SECONDS=$(SOAK_SECONDS) $(TARGET)/debug/soak
	SIM_SEEDS=$(SIM_SEEDS) cargo test --workspace --test sim

bench: bench-install ## Measure, and write the report with this machine's figures.
	cargo build --release -p cli -p proxy -p container -p tests --bins
	SIPCLUSTER_BIN_DIR=$(TARGET)/release $(TARGET)/release/bench

images: install ## What the images are built from, in target/images: static executables of PROFILE (release) and Debian's Redis.
	RUSTFLAGS="-C target-feature=+crt-static" cargo build --profile $(PROFILE) --target $(HOST) -p operator -p proxy -p container --bins
	charts/images/stage $(STATIC) $(TARGET)/images

# SCENARIOS: words of titles, in quotes, of those that are to be run; all, if there are none.
e2e: ## The chart, the operator and calls on a real Kubernetes: the one that KUBECONFIG names, or three nodes in network namespaces (as root).
ifdef KUBECONFIG
	@$(MAKE) install
	cargo build --workspace --bins
	$(TARGET)/debug/e2e $(SCENARIOS)
else
	@$(MAKE) e2e-install images PROFILE=dev
	cargo build --workspace --bins
	tests/e2e/cluster/cluster build
	SIPCLUSTER_IMAGES=$(TARGET)/images $(TARGET)/debug/e2e $(SCENARIOS)
endif

apiload: apiload-install ## What CLUSTERS (100) SipClusters of CONTAINERS (10) ask of a real API server; writes docs/api-load.md (as root).
	cargo build --release -p operator -p tests --bins
	SIPCLUSTER_BIN_DIR=$(TARGET)/release $(TARGET)/release/apiload $(CLUSTERS) $(CONTAINERS)

kubernetes: e2e-install ## Such a Kubernetes with the chart installed and a SipCluster, left up; `tests/e2e/cluster/cluster down` ends it.
	$(MAKE) images
	cargo build --workspace --bins
	tests/e2e/cluster/cluster build
	SIPCLUSTER_IMAGES=$(TARGET)/images $(TARGET)/debug/e2e --play

install:
	@.ci/install cc redis-server sipp

test-install: install
	@.ci/install baresip ip nft openssl rtpengine sipsak

e2e-install: install
	@.ci/install buildah cni conntrack go ip iptables nft openssl runc

apiload-install:
	@.ci/install cc go ip openssl

bench-install:
	@.ci/install cc redis-server kamailio

lint-install:
	@.ci/install cc clippy fmt

.PHONY: help run build test programs lint fuzz generate report soak bench images e2e apiload kubernetes install test-install e2e-install apiload-install bench-install lint-install
