package penstock_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"penstock.dev/sdk/go"
	"penstock.dev/sdk/go/handlerv1"
	"penstock.dev/sdk/go/penstocktest"
)

const (
	done     = penstocktest.Done
	retry    = penstocktest.Retry
	skip     = penstocktest.Skip
	released = penstocktest.Release
)

func succeed(context.Context, *penstock.Message) error { return nil }

// keyed returns a message for each key; "" is none. The value is its index.
func keyed(keys ...string) []*penstock.Message {
	messages := make([]*penstock.Message, len(keys))
	for index, key := range keys {
		messages[index] = penstocktest.Message(fmt.Sprint(index))
		if key != "" {
			messages[index].Key = []byte(key)
		}
	}
	return messages
}

func expect[T any](t *testing.T, what string, found, wanted T) {
	t.Helper()
	if fmt.Sprint(found) != fmt.Sprint(wanted) {
		t.Errorf("%s: found %v, wanted %v", what, found, wanted)
	}
}

func times[T any](count int, one T) []T { return slices.Repeat([]T{one}, count) }

// recorder notes the values of messages in the order in which they begin.
type recorder struct {
	mutex  sync.Mutex
	values []string
}

func (r *recorder) note(message *penstock.Message) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	r.values = append(r.values, string(message.Value))
}

func (r *recorder) sorted() []string {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	return slices.Sorted(slices.Values(r.values))
}

func TestTheFirstAnswerSaysWhoTheHandlerIs(t *testing.T) {
	welcome := penstocktest.Start(t, succeed, penstocktest.Config{}).Welcome()
	if welcome.Version != 2 || welcome.SdkName != "penstock-go" || welcome.SdkVersion != penstock.Version {
		t.Errorf("%v", welcome)
	}
	expect(t, "orders", welcome.Orders, []handlerv1.Order{penstocktest.AnyOrder, penstocktest.BatchOrder, penstocktest.KeyOrder})
	expect(t, "features", welcome.Features, []handlerv1.Feature{
		handlerv1.Feature_FEATURE_BEGUN, handlerv1.Feature_FEATURE_EXTEND, handlerv1.Feature_FEATURE_CANCEL,
	})
	if welcome.MaxMessageBytes < 16<<20 {
		t.Errorf("%d bytes", welcome.MaxMessageBytes)
	}
}

func TestMessagesOfAKeyKeepTheirOrderInEveryMode(t *testing.T) {
	for _, order := range []penstocktest.Order{penstocktest.AnyOrder, penstocktest.KeyOrder, penstocktest.BatchOrder} {
		synctest.Test(t, func(t *testing.T) {
			var mutex sync.Mutex
			at, last := map[string]bool{}, map[string]string{}
			runtime := penstocktest.Start(t, func(_ context.Context, message *penstock.Message) error {
				key, value := string(message.Key), string(message.Value)
				mutex.Lock()
				if at[key] || last[key] >= value {
					t.Errorf("%s of %s begins behind %s, at work: %v", value, key, last[key], at[key])
				}
				at[key], last[key] = true, value
				mutex.Unlock()
				time.Sleep(time.Second)
				mutex.Lock()
				at[key] = false
				mutex.Unlock()
				return nil
			}, penstocktest.Config{Order: order})
			begun := time.Now()
			first := runtime.Send(keyed("a", "b", "a", "c", "b", "a")...)
			expect(t, "outcomes", penstocktest.Outcomes(first), times(6, done))
			took := 3 * time.Second
			if order == penstocktest.BatchOrder {
				took = 6 * time.Second
			}
			expect(t, "time", time.Since(begun), took)
		})
	}
}

func TestInOrderNothingOfABatchBeginsBehindAFailure(t *testing.T) {
	var begun recorder
	runtime := penstocktest.Start(t, func(_ context.Context, message *penstock.Message) error {
		begun.note(message)
		switch string(message.Value) {
		case "1":
			return penstock.Skip{Reason: "old"}
		case "3":
			return penstock.Fail{Reason: "no amount"}
		}
		return nil
	}, penstocktest.Config{Order: penstocktest.BatchOrder})
	sent := runtime.Send(keyed("a", "a", "b", "", "", "c")...)
	expect(t, "outcomes", penstocktest.Outcomes(sent), []penstocktest.Outcome{done, skip, done, penstocktest.Fail, released, released})
	expect(t, "begun", begun.values, []string{"0", "1", "2", "3"})
	next := runtime.Send(penstocktest.Message("next"))
	expect(t, "the next batch", penstocktest.Outcomes(next), times(1, done))
}

func TestNothingOfAKeyBeginsBehindAFailureInItsBatch(t *testing.T) {
	var begun recorder
	runtime := penstocktest.Start(t, func(_ context.Context, message *penstock.Message) error {
		begun.note(message)
		switch string(message.Value) {
		case "0":
			return penstock.Skip{Reason: "old"}
		case "1", "7":
			return errors.New("busy")
		}
		return nil
	}, penstocktest.Config{Order: penstocktest.KeyOrder})
	messages := keyed("a", "a", "b", "a", "a", "a", "", "empty", "empty", "")
	// A key of another partition is another key, and no key is not the empty key.
	messages[5].Partition = 1
	messages[7].Key, messages[8].Key = []byte{}, []byte{}
	sent := runtime.Send(messages...)
	wanted := []penstocktest.Outcome{skip, retry, done, released, released, done, done, retry, released, done}
	expect(t, "outcomes", penstocktest.Outcomes(sent), wanted)
	expect(t, "begun", begun.sorted(), []string{"0", "1", "2", "5", "6", "7", "9"})
}

func TestAHandlerThatChangesItsMessageDoesNotChangeTheOrder(t *testing.T) {
	runtime := penstocktest.Start(t, func(_ context.Context, message *penstock.Message) error {
		message.Key, message.Topic, message.Partition = []byte("b"), "other", 7
		return errors.New("busy")
	}, penstocktest.Config{Order: penstocktest.KeyOrder})
	sent := runtime.Send(keyed("a", "a", "b")...)
	expect(t, "outcomes", penstocktest.Outcomes(sent), []penstocktest.Outcome{retry, released, retry})
}

func TestBegunIsReportedWhenACallStarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		runtime := penstocktest.Start(t, func(context.Context, *penstock.Message) error {
			time.Sleep(time.Second)
			return nil
		}, penstocktest.Config{Options: penstock.Options{Concurrency: 2}})
		sent := runtime.Send(keyed("", "", "")...)
		synctest.Wait()
		expect(t, "begun", []bool{sent[0].HasBegun(), sent[1].HasBegun(), sent[2].HasBegun()}, []bool{true, true, false})
		time.Sleep(1500 * time.Millisecond)
		expect(t, "begun", sent[2].HasBegun(), true)
		expect(t, "settled", sent[2].IsSettled(), false)
	})
}

func TestAStopFinishesWhatRunsAndReleasesTheRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var begun recorder
		runtime := penstocktest.Start(t, func(ctx context.Context, message *penstock.Message) error {
			begun.note(message)
			time.Sleep(time.Second)
			return ctx.Err()
		}, penstocktest.Config{Options: penstock.Options{Concurrency: 2}})
		sent := runtime.Send(keyed("", "", "", "a", "a")...)
		sent[1].Begun()
		stopped := time.Now()
		if err := runtime.Stop(); err != nil {
			t.Error(err)
		}
		expect(t, "time", time.Since(stopped), time.Second)
		expect(t, "outcomes", penstocktest.Outcomes(sent), []penstocktest.Outcome{done, done, released, released, released})
		expect(t, "begun", begun.sorted(), []string{"0", "1"})
	})
}

func TestAStopDoesNotWaitBeyondTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hold := make(chan struct{})
		runtime := penstocktest.Start(t, func(context.Context, *penstock.Message) error {
			<-hold
			return nil
		}, penstocktest.Config{Timeout: 5 * time.Second})
		sent := runtime.Send(penstocktest.Message(""))
		sent[0].Begun()
		stopped := time.Now()
		if err := runtime.Stop(); err != nil {
			t.Error(err)
		}
		if took := time.Since(stopped); took > 6*time.Second {
			t.Error(took)
		}
		close(hold)
	})
}

func TestWhenTheRuntimeEndsItsSideWhatItSentIsDoneFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		runtime := penstocktest.Start(t, func(context.Context, *penstock.Message) error {
			time.Sleep(time.Second)
			return nil
		}, penstocktest.Config{Options: penstock.Options{Concurrency: 2}})
		sent := runtime.Send(keyed("", "a", "a", "a", "")...)
		runtime.Close()
		if err := runtime.Ended(); err != nil {
			t.Error(err)
		}
		expect(t, "outcomes", penstocktest.Outcomes(sent), times(5, done))
	})
}

func TestWhatDidNotBeginInTimeIsReleased(t *testing.T) {
	for name, one := range map[string]struct {
		wait    time.Duration
		beginBy time.Duration
	}{
		"as the runtime says":     {time.Hour, 3 * time.Second},
		"the clock has gone back": {3 * time.Second, time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				runtime := penstocktest.Start(t, func(context.Context, *penstock.Message) error {
					time.Sleep(2 * time.Second)
					return nil
				}, penstocktest.Config{Wait: one.wait, Options: penstock.Options{Concurrency: 1}})
				sent := runtime.SendBy(time.Now().Add(one.beginBy), keyed("", "", "", "a", "a")...)
				time.Sleep(3500 * time.Millisecond)
				// At once, and not only when it would be their turn.
				expect(t, "settled", []bool{sent[2].IsSettled(), sent[4].IsSettled()}, []bool{true, true})
				expect(t, "outcomes", penstocktest.Outcomes(sent), []penstocktest.Outcome{done, done, released, released, released})
			})
		})
	}
}

func TestWhatComesTooLateIsReleased(t *testing.T) {
	// As after the process was frozen, or the clock has gone forward.
	runtime := penstocktest.Start(t, succeed, penstocktest.Config{})
	sent := runtime.SendBy(time.Now().Add(-time.Second), keyed("", "a")...)
	expect(t, "outcomes", penstocktest.Outcomes(sent), times(2, released))
	expect(t, "the next", penstocktest.Outcomes(runtime.Send(penstocktest.Message(""))), times(1, done))
}

func TestTheDeadlineCountsFromTheBeginning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		runtime := penstocktest.Start(t, func(ctx context.Context, message *penstock.Message) error {
			deadline, ok := ctx.Deadline()
			if left := time.Until(deadline); !ok || left != 5*time.Second {
				t.Errorf("%v are left, %v", left, ok)
			}
			if string(message.Value) == "1" {
				<-ctx.Done()
				return ctx.Err()
			}
			time.Sleep(4 * time.Second)
			return nil
		}, penstocktest.Config{Timeout: 5 * time.Second, Options: penstock.Options{Concurrency: 1}})
		sent := runtime.Send(keyed("", "", "")...)
		expect(t, "outcomes", penstocktest.Outcomes(sent), []penstocktest.Outcome{done, retry, done})
		expect(t, "reason", sent[1].Verdict().Reason, context.DeadlineExceeded.Error())
	})
}

func TestExtendMovesTheDeadlineWithinItsLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var last error
		runtime := penstocktest.Start(t, func(ctx context.Context, message *penstock.Message) error {
			child, cancel := context.WithCancel(ctx)
			defer cancel()
			for range 3 {
				time.Sleep(4 * time.Second)
				if err := message.Extend(5 * time.Second); err != nil {
					return err
				}
			}
			if message.Extend(0) == nil {
				t.Error("no time is no extension")
			}
			last = message.Extend(time.Hour)
			<-child.Done()
			return ctx.Err()
		}, penstocktest.Config{Timeout: 5 * time.Second, MaxTimeout: 20 * time.Second})
		began := time.Now()
		sent := runtime.Send(penstocktest.Message(""))[0]
		expect(t, "outcome", sent.Verdict().Outcome, retry)
		expect(t, "time", time.Since(began), 20*time.Second)
		expect(t, "extensions", sent.Extensions(4), []time.Duration{5 * time.Second, 5 * time.Second, 5 * time.Second, 8 * time.Second})
		if !errors.Is(last, penstock.ErrExtension) {
			t.Error(last)
		}
	})
}

func TestCancellationReachesTheCallsThatAreNamed(t *testing.T) {
	for reason, wanted := range map[penstocktest.Reason]error{
		penstocktest.Revoked:  context.Canceled,
		penstocktest.TimedOut: context.DeadlineExceeded,
		penstocktest.NotBegun: context.Canceled,
	} {
		synctest.Test(t, func(t *testing.T) {
			ended := make(chan error, 3)
			runtime := penstocktest.Start(t, func(ctx context.Context, message *penstock.Message) error {
				child, cancel := context.WithTimeout(ctx, time.Second)
				defer cancel()
				<-child.Done()
				if string(message.Value) == "0" {
					expect(t, "the derived context", child.Err(), ctx.Err())
					ended <- ctx.Err()
				}
				return nil
			}, penstocktest.Config{Options: penstock.Options{Concurrency: 2}})
			sent := runtime.Send(keyed("", "", "", "", "")...)
			synctest.Wait()
			credits := runtime.Credits()
			// One at work, and two that wait.
			runtime.Cancel(reason, sent[0], sent[2], sent[4])
			expect(t, "the end", <-ended, wanted)
			expect(t, "outcomes", []penstocktest.Outcome{sent[1].Verdict().Outcome, sent[3].Verdict().Outcome}, times(2, done))
			synctest.Wait()
			expect(t, "settled", []bool{sent[0].IsSettled(), sent[2].IsSettled(), sent[4].IsSettled()}, times(3, false))
			if runtime.Credits() < credits+5 {
				t.Errorf("%d credits after %d", runtime.Credits(), credits)
			}
		})
	}
}

func TestACancelledMessageHoldsBackThoseBehindItInItsBatch(t *testing.T) {
	for _, order := range []penstocktest.Order{penstocktest.KeyOrder, penstocktest.BatchOrder} {
		synctest.Test(t, func(t *testing.T) {
			runtime := penstocktest.Start(t, func(ctx context.Context, message *penstock.Message) error {
				if string(message.Value) == "0" {
					<-ctx.Done()
				}
				return nil
			}, penstocktest.Config{Order: order})
			sent := runtime.Send(keyed("a", "a")...)
			synctest.Wait()
			runtime.Cancel(penstocktest.TimedOut, sent[0])
			expect(t, "the one behind", sent[1].Verdict().Outcome, released)
			expect(t, "settled", sent[0].IsSettled(), false)
		})
	}
}

func TestEachDeliveryReturnsItsCredit(t *testing.T) {
	for _, order := range []penstocktest.Order{penstocktest.AnyOrder, penstocktest.KeyOrder, penstocktest.BatchOrder} {
		synctest.Test(t, func(t *testing.T) {
			runtime := penstocktest.Start(t, func(context.Context, *penstock.Message) error { return errors.New("busy") },
				penstocktest.Config{Order: order, Options: penstock.Options{Window: 1}})
			penstocktest.Outcomes(runtime.Send(keyed("a", "a", "", "a")...))
			synctest.Wait()
			expect(t, "credits", runtime.Credits(), 1)
			penstocktest.Outcomes(runtime.SendBy(time.Now().Add(-time.Second), keyed("a", "")...))
			synctest.Wait()
			expect(t, "credits", runtime.Credits(), 1)
		})
	}
}

func TestANewStreamBeginsWhenTheCallsOfTheOldOneHaveEnded(t *testing.T) {
	for name, ignore := range map[string]bool{"the handler ends": false, "the handler ignores it": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				hold, begun, calls := make(chan struct{}), make(chan struct{}), make(chan error, 2)
				runtime := penstocktest.Start(t, func(ctx context.Context, message *penstock.Message) error {
					if string(message.Value) != "0" {
						return nil
					}
					close(begun)
					<-ctx.Done()
					calls <- ctx.Err()
					if ignore {
						<-hold
					}
					time.Sleep(2 * time.Second)
					return nil
				}, penstocktest.Config{Timeout: 10 * time.Second})
				runtime.Send(keyed("a")...)
				<-begun
				began := time.Now()
				runtime.Reconnect()
				expect(t, "the old call", <-calls, context.Canceled)
				runtime.Welcome()
				synctest.Wait()
				expect(t, "credits", runtime.Credits(), 0)
				sent := runtime.Feed(penstocktest.Keyed("a", "1"))
				expect(t, "outcome", sent[0].Verdict().Outcome, done)
				wanted := 2 * time.Second
				if ignore {
					wanted = 10 * time.Second
				}
				if took := time.Since(began); took < wanted || took > wanted+time.Second {
					t.Errorf("%v", took)
				}
				close(hold)
				time.Sleep(3 * time.Second)
			})
		})
	}
}
