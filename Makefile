.PHONY: bench

# Figures beside their references; `make bench ARGS=--quick` for a short run.
bench:
	hack/bench $(ARGS)
