package penstocktest_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"penstock.dev/sdk/go"
	"penstock.dev/sdk/go/penstocktest"
)

func TestAHandlerIsTestedWithOneMessage(t *testing.T) {
	verdict := penstocktest.Handle(t, func(_ context.Context, message *penstock.Message) error {
		if message.IdempotencyKey() == "" || message.Attempt != 1 || message.Timestamp.IsZero() {
			t.Errorf("%v", message.IdempotencyKey())
		}
		return penstock.Retry{Reason: string(message.Value), Delay: time.Second}
	}, penstocktest.Message("busy"))
	if verdict.Outcome != penstocktest.Retry || verdict.Reason != "busy" || verdict.Delay != time.Second {
		t.Errorf("%+v", verdict)
	}
}

func TestAMessageComesAsItWasBuilt(t *testing.T) {
	sent := penstocktest.Keyed("k", "v")
	sent.Topic, sent.Partition, sent.Epoch, sent.Offset, sent.Attempt = "orders", 3, 7, 12, 2
	sent.Headers = []penstock.Header{{Name: "a", Value: []byte("1")}, {Name: "b"}}
	var got *penstock.Message
	penstocktest.Handle(t, func(_ context.Context, message *penstock.Message) error { got = message; return nil }, sent)
	show := func(m *penstock.Message) string {
		return fmt.Sprint(m.Group, m.Topic, m.Partition, m.Epoch, m.Offset, m.Attempt, m.Headers, m.Key, m.Value, m.Timestamp)
	}
	if show(got) != show(sent) {
		t.Errorf("%s, and not %s", show(got), show(sent))
	}
}

// failing is a test that notes that it fails.
type failing struct {
	testing.TB
	mutex sync.Mutex
	texts []string
}

func (f *failing) Helper() {}
func (f *failing) Errorf(format string, values ...any) {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	f.texts = append(f.texts, fmt.Sprintf(format, values...))
}

func (f *failing) Fatalf(format string, values ...any) {
	f.Errorf(format, values...)
	panic(f)
}

func TestATestFailsIfNoVerdictComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		test := &failing{TB: t}
		hold := make(chan struct{})
		runtime := penstocktest.Start(test, func(context.Context, *penstock.Message) error {
			<-hold
			return nil
		}, penstocktest.Config{Limit: time.Minute})
		defer func() {
			if recover() != test || len(test.texts) != 1 || !strings.Contains(test.texts[0], "a verdict on delivery 1") {
				t.Errorf("%v", test.texts)
			}
			close(hold)
		}()
		runtime.Send(penstocktest.Message(""))[0].Verdict()
	})
}

func TestATestFailsIfTheStreamEndsFirst(t *testing.T) {
	test := &failing{TB: t}
	runtime := penstocktest.Start(test, func(context.Context, *penstock.Message) error { return nil }, penstocktest.Config{})
	if err := runtime.Stop(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if recover() != test || !strings.Contains(test.texts[0], "ended the stream") {
			t.Errorf("%v", test.texts)
		}
	}()
	runtime.Send(penstocktest.Message(""))[0].Verdict()
}
