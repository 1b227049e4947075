package penstocktest

import (
	"io"
	"sync"
	"testing"
)

// output writes to the test's log while the test runs.
type output struct {
	mutex sync.Mutex
	to    io.Writer
}

func newOutput(test testing.TB) *output {
	o := &output{to: test.Output()}
	test.Cleanup(func() {
		o.mutex.Lock()
		defer o.mutex.Unlock()
		o.to = io.Discard
	})
	return o
}

func (o *output) Write(bytes []byte) (int, error) {
	o.mutex.Lock()
	defer o.mutex.Unlock()
	return o.to.Write(bytes)
}
