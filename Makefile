# Every entry point of the project. `make help` lists them.
SHELL := /bin/bash
CARGO ?= cargo
ARGS ?=
GROUP ?= all
OUT ?= out/bench
FUZZ_SECONDS ?= 10
SEEDS ?= 1000

.DEFAULT_GOAL := help

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  make %-10s %s\n", $$1, $$2 }'

setup: ## install what is missing to build and run (Debian packages, by name in scripts/packages)
	@scripts/setup.sh run

BINS := sluice sluice-agent sluice-proxy sluice-load sluice-origin sluice-vmm

build: setup ## build the programs, optimised
	$(CARGO) build --release --locked $(addprefix --bin ,$(BINS))

run: build ## start the lab: an appliance in network namespaces serving real traffic (ARGS="--duration 20")
	@target/release/sluice lab $(ARGS)

test: ## everything CI runs: format, lints, units, properties, simulation, system tests, fuzz, docs
	@SEEDS=$(SEEDS) FUZZ_SECONDS=$(FUZZ_SECONDS) scripts/test.sh

bench: ## measure beside public programs (GROUP=all|xdp|proxy|cache|vmm|control OUT=dir KATRAN_OBJ=path)
	@scripts/bench.sh "$(GROUP)" "$(OUT)"

ebpf: ## rebuild the XDP object that the loader ships (needs rust-src and bpf-linker)
	@ebpf/build.sh

clean: ## remove what was built
	$(CARGO) clean
	rm -rf out fuzz/target ebpf/xdp/target

.PHONY: help setup build run test bench ebpf clean
