package penstock_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"penstock.dev/sdk/go"
	"penstock.dev/sdk/go/penstocktest"
)

func TestAnOrderThatIsNotKnownIsRefusedWithTheRemedy(t *testing.T) {
	var log logged
	runtime := penstocktest.Start(t, succeed, penstocktest.Config{Order: 77, Options: log.options()})
	expect(t, "sdk", runtime.Welcome().SdkName, "penstock-go")
	err := runtime.Ended()
	if status.Code(err) != codes.FailedPrecondition {
		t.Error(err)
	}
	for _, text := range []string{err.Error(), log.String()} {
		for _, part := range []string{"does not know the order 77", "kafka_consumer.test", "update the SDK", penstock.Version} {
			if !strings.Contains(text, part) {
				t.Errorf("%q is not in %q", part, text)
			}
		}
	}
}

func TestMistakesInTheOptionsAreErrors(t *testing.T) {
	for _, options := range []penstock.Options{
		{Concurrency: -1},
		{Window: -1},
		{BatchSize: -1},
		{Concurrency: 1 << 30},
		{Interceptors: []penstock.Interceptor{nil}},
		{Interceptors: []penstock.Interceptor{func(penstock.Handler) penstock.Handler { return nil }}},
	} {
		if _, err := penstock.NewServer(succeed, options); err == nil || !strings.Contains(err.Error(), "Options.") {
			t.Errorf("%+v: %v", options, err)
		}
	}
	if err := penstock.Serve(nil, penstock.Options{}); err == nil {
		t.Error("no handler")
	}
	if err := penstock.ServeBatches(nil, penstock.Options{}); err == nil {
		t.Error("no handler")
	}
	wraps := penstock.Options{Interceptors: []penstock.Interceptor{func(next penstock.Handler) penstock.Handler { return next }}}
	if _, err := penstock.NewBatchServer(func(context.Context, []*penstock.Message) error { return nil }, wraps); err == nil {
		t.Error("interceptors of batches")
	}
}

func TestInterceptorsWrapEachCall(t *testing.T) {
	var mutex sync.Mutex
	var calls []string
	wrap := func(name string) penstock.Interceptor {
		return func(next penstock.Handler) penstock.Handler {
			return func(ctx context.Context, message *penstock.Message) error {
				mutex.Lock()
				calls = append(calls, name)
				mutex.Unlock()
				if err := next(ctx, message); err != nil {
					return fmt.Errorf("%s: %w", name, err)
				}
				return nil
			}
		}
	}
	runtime := penstocktest.Start(t, func(context.Context, *penstock.Message) error { return penstock.Fail{Reason: "no order"} },
		penstocktest.Config{Options: penstock.Options{Interceptors: []penstock.Interceptor{wrap("a"), wrap("b")}}})
	verdict := runtime.Send(penstocktest.Message(""))[0].Verdict()
	expect(t, "verdict", verdict.Outcome, penstocktest.Fail)
	expect(t, "reason", verdict.Reason, "a: b: no order")
	expect(t, "calls", calls, []string{"a", "b"})
}

func TestHooksSayWhatHappens(t *testing.T) {
	var mutex sync.Mutex
	var events []string
	note := func(event string) {
		mutex.Lock()
		defer mutex.Unlock()
		events = append(events, event)
	}
	runtime := penstocktest.Start(t, succeed, penstocktest.Config{Order: penstocktest.KeyOrder, Options: penstock.Options{Hooks: penstock.Hooks{
		Opened:  func(c penstock.Consumer) { note(fmt.Sprint("opened ", c)) },
		Closed:  func(_ penstock.Consumer, err error) { note(fmt.Sprint("closed ", err)) },
		Settled: func(message *penstock.Message, verdict string) { note(string(message.Value) + " " + verdict) },
	}}})
	runtime.Send(penstocktest.Message("1"))[0].Verdict()
	if err := runtime.Stop(); err != nil {
		t.Error(err)
	}
	expect(t, "events", events, []string{"opened {kafka_consumer.test test key}", "1 done", "closed <nil>"})
}

func TestRecordsToProduceComeWithTheirMessage(t *testing.T) {
	verdict := penstocktest.Handle(t, func(_ context.Context, message *penstock.Message) error {
		for _, value := range []string{"1", "2"} {
			if err := message.Produce(penstock.Record{Topic: "totals", Key: message.Key, Value: []byte(value)}); err != nil {
				return err
			}
		}
		return nil
	}, penstocktest.Keyed("customer-7", "{}"))
	expect(t, "outcome", verdict.Outcome, done)
	expect(t, "records", verdict.Produced, []penstock.Record{
		{Topic: "totals", Key: []byte("customer-7"), Value: []byte("1")},
		{Topic: "totals", Key: []byte("customer-7"), Value: []byte("2")},
	})
}

func TestAFailedMessageProducesNothing(t *testing.T) {
	verdict := penstocktest.Handle(t, func(_ context.Context, message *penstock.Message) error {
		_ = message.Produce(penstock.Record{Topic: "totals"})
		return errors.New("busy")
	}, penstocktest.Message(""))
	if verdict.Outcome != retry || verdict.Produced != nil {
		t.Errorf("%+v", verdict)
	}
}

func TestABatchHasAVerdictForEachMessage(t *testing.T) {
	runtime := penstocktest.StartBatches(t, func(_ context.Context, messages []*penstock.Message) error {
		verdicts := make(penstock.Verdicts, len(messages))
		for index, message := range messages {
			if string(message.Value) == "1" {
				verdicts[index] = penstock.DeadLetter{Reason: "negative"}
			}
		}
		return fmt.Errorf("some failed: %w", verdicts)
	}, penstocktest.Config{})
	sent := runtime.Send(keyed("", "", "")...)
	expect(t, "outcomes", penstocktest.Outcomes(sent), []penstocktest.Outcome{done, penstocktest.DeadLetter, done})
}

func TestABatchMayHaveOneVerdict(t *testing.T) {
	for _, one := range []struct {
		err    error
		wanted penstocktest.Outcome
	}{
		{nil, done},
		{penstock.Verdicts{nil, nil, nil}, done},
		{penstock.Skip{Reason: "old"}, skip},
		{errors.New("busy"), retry},
		// Too few.
		{penstock.Verdicts{nil}, retry},
	} {
		runtime := penstocktest.StartBatches(t, func(context.Context, []*penstock.Message) error { return one.err }, penstocktest.Config{})
		sent := runtime.Send(keyed("", "", "")...)
		expect(t, fmt.Sprint(one.err), penstocktest.Outcomes(sent), times(3, one.wanted))
	}
}

func TestABatchThatPanicsFailsAsAWhole(t *testing.T) {
	runtime := penstocktest.StartBatches(t, func(context.Context, []*penstock.Message) error { panic("no database") }, penstocktest.Config{})
	expect(t, "outcomes", penstocktest.Outcomes(runtime.Send(keyed("", "a")...)), times(2, retry))
}

func TestInOrderABatchEndsAtItsFirstFailure(t *testing.T) {
	runtime := penstocktest.StartBatches(t, func(_ context.Context, messages []*penstock.Message) error {
		verdicts := make(penstock.Verdicts, len(messages))
		for index, message := range messages {
			switch string(message.Value) {
			case "0":
				verdicts[index] = penstock.Skip{}
			case "2":
				verdicts[index] = errors.New("busy")
			}
		}
		return verdicts
	}, penstocktest.Config{Order: penstocktest.BatchOrder})
	sent := runtime.Send(keyed("", "", "", "", "")...)
	// The handler says done of the last two, too early.
	expect(t, "outcomes", penstocktest.Outcomes(sent), []penstocktest.Outcome{skip, done, retry, released, released})
}

func TestInOrderACallHasMessagesOfOneBatchOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls []int
		runtime := penstocktest.StartBatches(t, func(_ context.Context, messages []*penstock.Message) error {
			calls = append(calls, len(messages))
			time.Sleep(time.Second)
			return nil
		}, penstocktest.Config{Order: penstocktest.BatchOrder})
		sent := runtime.Send(keyed("")...)
		sent = append(sent, runtime.Send(keyed("", "")...)...)
		sent = append(sent, runtime.Send(keyed("", "", "")...)...)
		penstocktest.Outcomes(sent)
		expect(t, "calls", calls, []int{1, 2, 3})
	})
}

func TestABatchOfKeyOrderedHasAKeyOnce(t *testing.T) {
	runtime := penstocktest.StartBatches(t, func(_ context.Context, messages []*penstock.Message) error {
		keys := map[string]bool{}
		for _, message := range messages {
			if message.Key != nil && keys[string(message.Key)] {
				t.Errorf("%s is there twice", message.Key)
			}
			keys[string(message.Key)] = true
		}
		return nil
	}, penstocktest.Config{Order: penstocktest.KeyOrder})
	sent := runtime.Send(keyed("a", "a", "b", "", "", "b", "a")...)
	expect(t, "outcomes", penstocktest.Outcomes(sent), times(7, done))
}

func TestTheContextOfABatchEndsWithItsLastMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var count int
		runtime := penstocktest.StartBatches(t, func(ctx context.Context, messages []*penstock.Message) error {
			count = len(messages)
			<-ctx.Done()
			return ctx.Err()
		}, penstocktest.Config{Options: penstock.Options{BatchSize: 2, Concurrency: 1}})
		sent := runtime.Send(keyed("", "", "")...)
		synctest.Wait()
		runtime.Cancel(penstocktest.Revoked, sent[0])
		synctest.Wait()
		expect(t, "the third begins", sent[2].HasBegun(), false)
		runtime.Cancel(penstocktest.Revoked, sent[1])
		synctest.Wait()
		expect(t, "the third begins", sent[2].HasBegun(), true)
		expect(t, "messages", count, 1)
	})
}

func TestCreditsGrowWithTheRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		runtime := penstocktest.Start(t, func(context.Context, *penstock.Message) error {
			time.Sleep(50 * time.Millisecond)
			return nil
		}, penstocktest.Config{Options: penstock.Options{Concurrency: 4, Logger: slog.New(slog.DiscardHandler)}})
		runtime.Welcome()
		synctest.Wait()
		expect(t, "at first", runtime.Credits(), 4)
		began := time.Now()
		penstocktest.Outcomes(runtime.Feed(keyed(times(800, "")...)...))
		// 80 a second.
		expect(t, "time", time.Since(began), 10*time.Second)
		if credits := runtime.Credits(); credits < 120 || credits > 200 {
			t.Errorf("%d credits", credits)
		}
	})
}
