# `make demo` runs the examples here and now; `make test` passes every test.
# Both install what this machine lacks, see hack/setup.

.PHONY: demo test test-more test-images soak simulate mutants bench cluster cluster-down generate

# The main job on the shipped examples, with a broker inside the process.
demo:
	@hack/setup demo
	@echo "building penstock and the Rust example; a first build takes some minutes"
	@cargo build --locked --package penstock --package penstock-example-rust
	@hack/demo

# Every test, on a real Kafka.
test:
	@hack/setup test
	@hack/test

# The tests that take hours: an hour of the simulator, the mutants, an hour of `make soak`;
# `make test-more ARGS=10` for ten minutes each.
test-more:
	@hack/setup test
	@hack/test-more $(ARGS)

# Both images, built twice by the Docker that is here; not in `make test`, for it needs
# Docker and a registry. `make test-images ARGS=--network=host` passes on to docker build.
test-images:
	@hack/test-images $(ARGS)

# The tests that disturb consumers, again and again for an hour; `make soak ARGS=10` for
# ten minutes.
soak:
	@hack/setup test
	@hack/soak $(ARGS)

# Seeded runs of the runtime on a simulated Kafka: 20,000, or as ARGS says, such as
# ARGS='--minutes 60' or ARGS='--seed 17' for one with all that happened.
simulate:
	@hack/setup demo
	@cargo run --quiet --locked --package penstock-simulator -- $(ARGS)

# Weakens one protection of the runtime at a time; the simulator must catch each.
mutants:
	@hack/setup demo
	@hack/mutants $(ARGS)

# Penstock compared with its references, as ratios of one run; `make bench ARGS=--quick`
# for a short one, ARGS=peers for third-party programs only, ARGS=sweep for growth.
bench:
	@hack/setup bench
	@hack/bench $(ARGS)

# A Kubernetes with one node, and a Kafka, as root; it stays up until
# `make cluster-down`, and prints what a shell needs to use it.
cluster:
	@hack/setup cluster
	@hack/cluster up --keep

cluster-down:
	@hack/cluster down

# The files that are generated from the types, the rules, the metrics and the chart.
generate:
	cargo run --package penstock-crds --bin generate
	cargo run --package penstock-runtime --example metrics_reference
	cargo run --package penstock-runtime --example generate_grpc
	hack/generate-chart
	hack/generate-sdks
