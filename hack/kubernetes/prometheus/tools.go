//go:build tools

// Package tools names the commands that hack/kubernetes-binaries builds.
package tools

import (
	_ "github.com/prometheus/prometheus/cmd/prometheus"
	_ "github.com/prometheus/prometheus/cmd/promtool"
)
