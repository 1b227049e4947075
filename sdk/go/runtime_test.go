package penstock

import (
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"penstock.dev/sdk/go/handlerv1"
)

// What the tests wait for comes within this time, or never.
const limit = 30 * time.Second

// runtime is the runtime's side of a stream to a handler that is served on a socket.
type runtime struct {
	test   *testing.T
	stream grpc.BidiStreamingClient[handlerv1.FromRuntime, handlerv1.FromHandler]
	said   said
	// stop ends the handler, as SIGTERM does; served tells how it did.
	stop   context.CancelFunc
	served chan error
}

// said is what a handler has said so far.
type said struct {
	credits  uint32
	outcomes map[uint64]string
}

func start(test *testing.T, options Options, handler Handler) *runtime {
	test.Helper()
	socket := filepath.Join(test.TempDir(), "handler.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		test.Fatal(err)
	}
	options.Listener = listener
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- ServeUntil(ctx, handler, options) }()
	test.Cleanup(stop)

	connection, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		test.Fatal(err)
	}
	test.Cleanup(func() { connection.Close() })
	call, end := context.WithTimeout(context.Background(), limit)
	test.Cleanup(end)
	stream, err := handlerv1.NewHandlerClient(connection).Handle(call)
	if err != nil {
		test.Fatal(err)
	}
	return &runtime{
		test:   test,
		stream: stream,
		said:   said{outcomes: map[uint64]string{}},
		stop:   stop,
		served: served,
	}
}

func (r *runtime) say(messages ...*handlerv1.FromRuntime) {
	r.test.Helper()
	for _, message := range messages {
		if err := r.stream.Send(message); err != nil {
			r.test.Fatal(err)
		}
	}
}

// until reads what the handler says until that is as wanted.
func (r *runtime) until(wanted func(said) bool) said {
	r.test.Helper()
	for !wanted(r.said) {
		answer, err := r.stream.Recv()
		if err != nil {
			r.test.Fatalf("%v; said: %+v", err, r.said)
		}
		r.take(answer)
	}
	return r.said
}

// settled reads until there are so many verdicts.
func (r *runtime) settled(count int) said {
	r.test.Helper()
	return r.until(func(said said) bool { return len(said.outcomes) >= count })
}

// rest reads until the handler ends the stream, which must be in order.
func (r *runtime) rest() said {
	r.test.Helper()
	for {
		answer, err := r.stream.Recv()
		if errors.Is(err, io.EOF) {
			return r.said
		}
		if err != nil {
			r.test.Fatalf("%v; said: %+v", err, r.said)
		}
		r.take(answer)
	}
}

func (r *runtime) take(answer *handlerv1.FromHandler) {
	r.said.credits += answer.Credits
	for _, verdict := range answer.Verdicts {
		for id := verdict.FirstId; id < verdict.FirstId+max(1, verdict.Count); id++ {
			if before, twice := r.said.outcomes[id]; twice {
				r.test.Errorf("a second verdict on %d, after %s", id, before)
			}
			r.said.outcomes[id] = outcome(verdict)
		}
	}
}

func outcome(verdict *handlerv1.Verdict) string {
	switch verdict.Outcome.(type) {
	case *handlerv1.Verdict_Done:
		return "done"
	case *handlerv1.Verdict_Retry:
		return "retry"
	case *handlerv1.Verdict_Skip:
		return "skip"
	case *handlerv1.Verdict_DeadLetter:
		return "dead letter"
	case *handlerv1.Verdict_Fail:
		return "fail"
	}
	return "none"
}

// inOrder is the outcomes by the numbers of their deliveries.
func (s said) inOrder() []string {
	var ids []uint64
	for id := range s.outcomes {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	var outcomes []string
	for _, id := range ids {
		outcomes = append(outcomes, s.outcomes[id])
	}
	return outcomes
}

func hello(order handlerv1.Order) *handlerv1.FromRuntime {
	return &handlerv1.FromRuntime{Message: &handlerv1.FromRuntime_Hello{
		Hello: &handlerv1.Hello{Version: 1, Group: "shop.orders", Order: order},
	}}
}

// give is a batch with a message for each key, whose offset is its delivery's number.
func give(firstID uint64, keys ...string) *handlerv1.FromRuntime {
	run := &handlerv1.Run{Topic: "orders", Partition: 3, Epoch: 7}
	for place, key := range keys {
		delivery := &handlerv1.Delivery{Offset: int64(firstID) + int64(place), Value: []byte("{}"), Attempt: 1}
		if key != "" {
			delivery.Key = []byte(key)
		}
		run.Deliveries = append(run.Deliveries, delivery)
	}
	return &handlerv1.FromRuntime{Message: &handlerv1.FromRuntime_Batch{Batch: &handlerv1.Batch{
		FirstId:    firstID,
		BeginByMs: time.Now().Add(time.Hour).UnixMilli(),
		Runs:       []*handlerv1.Run{run},
	}}}
}

func void(firstID, count uint64) *handlerv1.FromRuntime {
	return &handlerv1.FromRuntime{Message: &handlerv1.FromRuntime_Cancel{Cancel: &handlerv1.Cancel{
		Deliveries: []*handlerv1.Range{{FirstId: firstID, Count: count}},
	}}}
}

func expect[T any](test *testing.T, found, wanted T, equal func(T, T) bool) {
	test.Helper()
	if !equal(found, wanted) {
		test.Errorf("found %v, wanted %v", found, wanted)
	}
}

// repeated is so many of one thing.
func repeated(what string, count int) []string {
	return slices.Repeat([]string{what}, count)
}
