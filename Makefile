# `make` alone lists the targets. Each installs what this machine lacks, see hack/setup.

.DEFAULT_GOAL := help
.PHONY: help demo unit it lint test e2e test-more release test-images soak simulate mutants bench cluster cluster-down generate

help: ## This list
	@awk '/^##@ / { printf "\n%s\n", substr($$0, 5) } \
	    /^[a-z0-9-]+:.*## / { split($$0, part, /:.*## /); printf "  make %-13s %s\n", part[1], part[2] }' Makefile

##@ To try it

demo: ## The examples, with a broker inside the process
	@hack/setup demo
	@echo "building penstock and the Rust example; a first build takes some minutes"
	@cargo build --locked --package penstock --package penstock-example-rust
	@hack/demo

cluster: ## Start a Kubernetes with one node and a Kafka, as root, and print the variables to use it
	@hack/setup cluster
	@hack/cluster up --keep

cluster-down: ## Remove every trace of the cluster
	@hack/cluster down

##@ For each change

lint: ## Format, lints, documentation, licences, the English of the pages, generated files
	@hack/setup unit
	@hack/lint

unit: ## Every test that needs neither root nor Kafka nor Kubernetes
	@hack/setup unit
	@hack/unit

it: ## One integration test with what it needs: make it T=delivery, or T=delivery::NAME
	@hack/it $(T)

e2e: ## The tests that need a Kubernetes, as root
	@hack/it $$(hack/needs kubernetes)

generate: ## Write the files that are generated from types, rules, metrics, proto and chart
	cargo run --package penstock-crds --bin generate
	cargo run --package penstock-runtime --example metrics_reference
	cargo run --package penstock-runtime --example generate_grpc
	hack/generate-chart
	hack/generate-sdks

##@ Before a merge, and for a release

test: ## Every lint and every test, on a real Kafka and a real Kubernetes, as root
	@hack/setup test
	@hack/test

test-more: ## An hour of seeds, the mutants, an hour of make soak: ARGS=10 for ten minutes each
	@hack/setup test
	@hack/test-more $(ARGS)

release: ## All files of a release in dist/, of the commit that is checked out
	@hack/setup unit
	@hack/release

test-images: ## Both images, built twice by Docker: ARGS=--network=host is for docker build
	@hack/test-images $(ARGS)

simulate: ## Seeds on the simulated Kafka: ARGS='--minutes 60', ARGS='--seed 17' for one story
	@hack/setup demo
	@cargo run --quiet --locked --package penstock-simulator -- $(ARGS)

mutants: ## Weaken one protection of the runtime at a time: ARGS=NAME for one mutant
	@hack/setup demo
	@hack/mutants $(ARGS)

soak: ## Kills, freezes and rebalances on a real Kafka for an hour: ARGS=10 for ten minutes
	@hack/setup test
	@hack/soak $(ARGS)

bench: ## Penstock compared with its references: ARGS=--quick, ARGS=peers, ARGS=sweep
	@hack/setup bench
	@hack/bench $(ARGS)
