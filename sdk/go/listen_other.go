//go:build !unix

package penstock

func lockDirectory(string) (unlock func(), err error) { return func() {}, nil }

// isRefused returns true: a socket to which no connection can be made is stale.
func isRefused(error) bool { return true }
