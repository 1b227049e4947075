package penstock_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"penstock.dev/sdk/go"
	"penstock.dev/sdk/go/penstocktest"
)

// logged is a log that can be read while it is written.
type logged struct {
	mutex sync.Mutex
	text  bytes.Buffer
}

func (l *logged) Write(line []byte) (int, error) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	return l.text.Write(line)
}

func (l *logged) String() string {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	return l.text.String()
}

func (l *logged) options() penstock.Options {
	return penstock.Options{Logger: slog.New(slog.NewTextHandler(l, nil))}
}

// typedNil is an error that panics when it is asked for its text.
type typedNil struct{ text string }

func (e *typedNil) Error() string { return e.text }

// exiting is an error that ends the goroutine that asks for its text.
type exiting struct{}

func (exiting) Error() string { runtime.Goexit(); return "" }

// recursive is an error whose methods do what errors.As does not expect.
type recursive struct{}

func (recursive) Error() string { return "recursive" }
func (recursive) Unwrap() error { panic("no cause") }

// hostile has what a handler may do to a message, what the verdict is then, and what the
// reason and the handler's log contain.
var hostile = map[string]struct {
	handler penstock.Handler
	outcome penstocktest.Outcome
	reason  string
	log     string
}{
	"it panics": {
		func(context.Context, *penstock.Message) error { panic("no database") },
		retry, "the handler panicked: no database", "hostile_test.go",
	},
	"it panics with a verdict": {
		func(context.Context, *penstock.Message) error { panic(penstock.Skip{Reason: "old"}) },
		retry, "the handler panicked: old", "hostile_test.go",
	},
	"it panics with nil": {
		func(context.Context, *penstock.Message) error { panic(nil) },
		retry, "the handler panicked: panic called with nil argument", "hostile_test.go",
	},
	"it panics with bytes that are not text": {
		func(context.Context, *penstock.Message) error { panic("\xff") },
		retry, "the handler panicked: \uFFFD", "hostile_test.go",
	},
	"it panics with an error that panics": {
		func(context.Context, *penstock.Message) error { panic(recursive{}) },
		retry, "the handler panicked: recursive", "hostile_test.go",
	},
	"it writes to a nil map": {
		func(context.Context, *penstock.Message) error {
			var none map[string]int
			none["a"]++
			return nil
		},
		retry, "assignment to entry in nil map", "hostile_test.go",
	},
	"it returns a nil pointer as an error": {
		func(context.Context, *penstock.Message) error { var err *typedNil; return err },
		retry, "*penstock_test.typedNil whose methods panic", "typedNil",
	},
	"it returns a nil verdict": {
		func(context.Context, *penstock.Message) error { var err *penstock.Fail; return err },
		retry, "*penstock.Fail whose methods panic", "Fail",
	},
	"its error panics when it is unwrapped": {
		func(context.Context, *penstock.Message) error { return recursive{} },
		retry, "no cause", "no cause",
	},
	"its error exits": {
		func(context.Context, *penstock.Message) error { return exiting{} },
		retry, "the handler called runtime.Goexit", "hostile_test.go",
	},
	"it exits its goroutine": {
		func(context.Context, *penstock.Message) error { runtime.Goexit(); return nil },
		retry, "the handler called runtime.Goexit", "hostile_test.go",
	},
	"it returns the error of a context": {
		func(context.Context, *penstock.Message) error { return context.Canceled },
		retry, "context canceled", "context canceled",
	},
	"it blocks until its context ends": {
		func(ctx context.Context, _ *penstock.Message) error { <-ctx.Done(); return ctx.Err() },
		retry, "context deadline exceeded", "context deadline exceeded",
	},
	"it never reads its context": {
		func(context.Context, *penstock.Message) error { time.Sleep(time.Minute); return errors.New("at last") },
		retry, "at last", "at last",
	},
	"its reason is huge": {
		func(context.Context, *penstock.Message) error { return errors.New(strings.Repeat("a", 64<<20)) },
		retry, "aaa…", "aaa…",
	},
	"its reason is no text": {
		func(context.Context, *penstock.Message) error { return penstock.Fail{Reason: "\xff\xfe"} },
		penstocktest.Fail, "\uFFFD", "fail",
	},
	"it floods produce": {
		func(_ context.Context, message *penstock.Message) error {
			for range 100_000 {
				_ = message.Produce(penstock.Record{Topic: "out", Value: make([]byte, 1024)})
			}
			return nil
		},
		penstocktest.Fail, "exceed 15 MiB", "exceed 15 MiB",
	},
	"it produces what can't be produced": {
		func(_ context.Context, message *penstock.Message) error {
			_ = message.Produce(penstock.Record{})
			return nil
		},
		penstocktest.Fail, "no name of a topic", "no name of a topic",
	},
	"it extends without end": {
		func(ctx context.Context, message *penstock.Message) error {
			for ctx.Err() == nil {
				_ = message.Extend(time.Hour)
				time.Sleep(time.Second)
			}
			return message.Extend(time.Second)
		},
		retry, penstock.ErrSettled.Error(), "",
	},
	"it changes its message": {
		func(_ context.Context, message *penstock.Message) error {
			message.Key, message.Topic, message.Headers = nil, "", nil
			return nil
		},
		done, "", "",
	},
	"its goroutines outlive it": {
		func(ctx context.Context, message *penstock.Message) error {
			go func() {
				<-ctx.Done()
				_ = message.Produce(penstock.Record{Topic: "late"})
				_ = message.Extend(time.Second)
			}()
			return nil
		},
		done, "", "",
	},
}

func TestWhateverAHandlerDoesIsAVerdictAndStopsNoOther(t *testing.T) {
	for name, one := range hostile {
		for _, order := range []penstocktest.Order{penstocktest.AnyOrder, penstocktest.KeyOrder, penstocktest.BatchOrder} {
			t.Run(fmt.Sprint(name, ", ", order), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					var log logged
					options := log.options()
					// With one call at a time, a goroutine that is lost is noticed.
					options.Concurrency = 1
					runtime := penstocktest.Start(t, func(ctx context.Context, message *penstock.Message) error {
						if string(message.Key) == "hostile" {
							return one.handler(ctx, message)
						}
						return nil
					}, penstocktest.Config{Options: options, Order: order, Timeout: 5 * time.Second, Wait: time.Hour})
					for range 3 {
						sent := runtime.Send(penstocktest.Keyed("hostile", ""))[0]
						verdict := sent.Verdict()
						if verdict.Outcome != one.outcome || !strings.Contains(verdict.Reason, one.reason) {
							t.Errorf("%s: %.200s", verdict.Outcome, verdict.Reason)
						}
						if len(verdict.Produced) > 0 {
							t.Errorf("%d records", len(verdict.Produced))
						}
						next := runtime.Send(penstocktest.Keyed("hospitable", ""))
						expect(t, "the next", penstocktest.Outcomes(next), times(1, done))
					}
					if !strings.Contains(log.String(), one.log) {
						t.Errorf("the log is %.2000s", log.String())
					}
					if err := runtime.Stop(); err != nil {
						t.Error(err)
					}
				})
			})
		}
	}
}

func TestACallThatIgnoresItsEndHoldsItsKeyAndIsReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log logged
		options, hold := log.options(), make(chan struct{})
		options.Concurrency = 2
		runtime := penstocktest.Start(t, func(_ context.Context, message *penstock.Message) error {
			if string(message.Value) == "0" {
				<-hold
			}
			return nil
		}, penstocktest.Config{Options: options, Timeout: 5 * time.Second})
		sent := runtime.Send(keyed("a", "a", "b")...)
		expect(t, "another key", sent[2].Verdict().Outcome, done)
		time.Sleep(5 * time.Second)
		runtime.Cancel(penstocktest.TimedOut, sent[0])
		time.Sleep(11 * time.Second)
		if !strings.Contains(log.String(), "the handler does not return although its context has ended") {
			t.Error(log.String())
		}
		expect(t, "the key begins", sent[1].HasBegun(), false)
		expect(t, "another key", runtime.Send(penstocktest.Keyed("b", ""))[0].Verdict().Outcome, done)
		close(hold)
		expect(t, "the key", sent[1].Verdict().Outcome, done)
		expect(t, "the cancelled one is settled", sent[0].IsSettled(), false)
	})
}

func TestCancelledMessagesDoNotFillTheMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hold := make(chan struct{})
		runtime := penstocktest.Start(t, func(context.Context, *penstock.Message) error {
			<-hold
			return nil
		}, penstocktest.Config{Options: penstock.Options{Concurrency: 1}, Wait: time.Second})
		sent := runtime.Send(penstocktest.Keyed("a", ""))
		sent[0].Begun()
		before := runtime.Credits()
		for range 1000 {
			waiting := runtime.Send(keyed("a", "")...)
			runtime.Cancel(penstocktest.NotBegun, waiting...)
		}
		time.Sleep(2 * time.Second)
		expect(t, "credits", runtime.Credits(), before)
		close(hold)
	})
}

// panicking is a log that panics.
type panicking struct{ slog.Handler }

func (panicking) Enabled(context.Context, slog.Level) bool { return true }
func (panicking) Handle(_ context.Context, record slog.Record) error {
	if record.Level >= slog.LevelWarn {
		panic("no log")
	}
	return nil
}

func TestHooksAndLogsThatPanicStopNothing(t *testing.T) {
	runtime := penstocktest.Start(t, func(context.Context, *penstock.Message) error { panic("one more") },
		penstocktest.Config{Options: penstock.Options{
			Concurrency: 1,
			Logger:      slog.New(panicking{}),
			Hooks: penstock.Hooks{
				Opened:  func(penstock.Consumer) { panic("opened") },
				Settled: func(*penstock.Message, string) { panic("settled") },
				Closed:  func(penstock.Consumer, error) { panic("closed") },
			},
		}})
	expect(t, "outcomes", penstocktest.Outcomes(runtime.Send(keyed("", "")...)), times(2, retry))
	if err := runtime.Stop(); err != nil {
		t.Error(err)
	}
}

func TestAFloodOfFailuresIsLoggedInPart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log logged
		runtime := penstocktest.Start(t, func(context.Context, *penstock.Message) error { return errors.New("busy") },
			penstocktest.Config{Options: log.options()})
		penstocktest.Outcomes(runtime.Send(keyed(times(100, "")...)...))
		time.Sleep(time.Second)
		penstocktest.Outcomes(runtime.Send(penstocktest.Message("")))
		expect(t, "lines", strings.Count(log.String(), "a message failed"), 11)
		if !strings.Contains(log.String(), "failures_not_logged=90") {
			t.Error(log.String())
		}
	})
}
