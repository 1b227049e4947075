# `make demo` shows Penstock at work on this machine, without Kafka or Kubernetes.

.PHONY: demo

# Installs what is missing, builds (minutes on a fresh machine, most of them for
# librdkafka and the other dependencies), and runs the examples (under a minute).
demo:
	@hack/setup
	@echo "building penstock and the Rust example; a first build takes some minutes"
	@cargo build --locked --package penstock --package penstock-example-rust
	@hack/demo
