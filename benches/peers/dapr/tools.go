//go:build tools

// Package tools names the command that hack/bench-peer builds: Dapr's own, with the
// components that Dapr calls stable.
package tools

import (
	_ "github.com/dapr/dapr/cmd/daprd"
)
