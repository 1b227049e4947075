package penstock

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"penstock.dev/sdk/go/handlerv1"
)

const (
	anyOrder = handlerv1.Order_ORDER_UNSPECIFIED
	byKey    = handlerv1.Order_ORDER_KEY
	inOrder  = handlerv1.Order_ORDER_BATCH
)

var keys = []string{"a", "b", "a", "c", "b", "a", "", ""}

// held is a handler each of whose calls says that it has begun, and waits.
type held struct {
	begun chan *Message
	goOn  chan struct{}
}

func newHeld() *held {
	return &held{begun: make(chan *Message, 1000), goOn: make(chan struct{})}
}

func (h *held) handle(_ context.Context, message *Message) error {
	h.begun <- message
	<-h.goOn
	return nil
}

// next is the next call that has begun.
func (h *held) next(test *testing.T) *Message {
	test.Helper()
	select {
	case message := <-h.begun:
		return message
	case <-time.After(limit):
		test.Fatal("no call was begun")
		return nil
	}
}

func TestTheWindowIsGrantedAtHello(t *testing.T) {
	runtime := start(t, Options{Window: 7}, func(context.Context, *Message) error { return nil })
	runtime.say(hello(anyOrder))
	said := runtime.until(func(said said) bool { return said.credits > 0 })
	if said.credits != 7 || len(said.outcomes) != 0 {
		t.Errorf("%+v", said)
	}
}

func TestEachMessageGivesItsCreditBackWhateverBecameOfIt(t *testing.T) {
	runtime := start(t, Options{Window: 10}, func(_ context.Context, message *Message) error {
		switch message.Offset % 5 {
		case 0:
			return DeadLetter{Reason: "a fifth"}
		case 1:
			return errors.New("busy")
		case 2:
			panic("at the third")
		}
		return nil
	})
	runtime.say(hello(anyOrder), give(1, keys...), give(9, keys...))
	said := runtime.settled(16)
	if said.credits != 10+16 {
		t.Errorf("%d credits", said.credits)
	}
	var wanted []string
	for id := 1; id <= 16; id++ {
		wanted = append(wanted, []string{"dead letter", "retry", "retry", "done", "done"}[id%5])
	}
	expect(t, said.inOrder(), wanted, slices.Equal)
}

func TestCallsRunAtOnceUpToTheConcurrency(t *testing.T) {
	var running, most atomic.Int32
	held := newHeld()
	runtime := start(t, Options{Concurrency: 3}, func(ctx context.Context, message *Message) error {
		now := running.Add(1)
		defer running.Add(-1)
		for seen := most.Load(); now > seen && !most.CompareAndSwap(seen, now); seen = most.Load() {
		}
		return held.handle(ctx, message)
	})
	runtime.say(hello(anyOrder), give(1, make([]string, 12)...))
	for range 3 {
		held.next(t)
	}
	close(held.goOn)
	expect(t, runtime.settled(12).inOrder(), repeated("done", 12), slices.Equal)
	if most.Load() != 3 {
		t.Errorf("%d at once", most.Load())
	}
}

func TestMessagesOfOneKeyKeepTheirOrderOverBatches(t *testing.T) {
	var mutex sync.Mutex
	running, begun := map[string]bool{}, map[string][]int64{}
	runtime := start(t, Options{Concurrency: 4}, func(_ context.Context, message *Message) error {
		key := string(message.Key)
		mutex.Lock()
		if running[key] {
			t.Errorf("two of %s at once", key)
		}
		running[key] = true
		begun[key] = append(begun[key], message.Offset)
		mutex.Unlock()
		time.Sleep(time.Millisecond)
		mutex.Lock()
		running[key] = false
		mutex.Unlock()
		return nil
	})
	var many []string
	for number := range 60 {
		many = append(many, strconv.Itoa(number*7%5))
	}
	runtime.say(hello(byKey), give(1, many[:20]...), give(21, many[20:]...))
	expect(t, runtime.settled(60).inOrder(), repeated("done", 60), slices.Equal)
	if len(begun) != 5 {
		t.Errorf("%d keys", len(begun))
	}
	for key, offsets := range begun {
		if !slices.IsSorted(offsets) {
			t.Errorf("%s: %v", key, offsets)
		}
	}
}

func TestInOrderNothingIsHandledBehindAFailure(t *testing.T) {
	var handled []int64
	runtime := start(t, Options{}, func(_ context.Context, message *Message) error {
		handled = append(handled, message.Offset)
		if message.Offset == 3 {
			return Retry{Reason: "busy"}
		}
		return nil
	})
	runtime.say(hello(inOrder), give(1, keys...), give(9, "a", "b"))
	said := runtime.settled(10)
	expect(t, handled, []int64{1, 2, 3, 9, 10}, slices.Equal)
	wanted := slices.Concat(repeated("done", 2), repeated("retry", 6), repeated("done", 2))
	expect(t, said.inOrder(), wanted, slices.Equal)
	if said.credits != 2000+10 {
		t.Errorf("%d credits", said.credits)
	}
}

func TestNothingOfAKeyIsHandledBehindAFailure(t *testing.T) {
	var mutex sync.Mutex
	var begun []int64
	runtime := start(t, Options{Concurrency: 2}, func(_ context.Context, message *Message) error {
		mutex.Lock()
		defer mutex.Unlock()
		begun = append(begun, message.Offset)
		switch message.Offset {
		case 1:
			return Skip{Reason: "not ours"}
		case 2, 8:
			return Retry{Reason: "busy"}
		}
		return nil
	})
	batch := give(1, "a", "a", "b", "a", "a", "a", "a", "", "", "", "")
	deliveries := batch.GetBatch().Runs[0].Deliveries
	// The keys of another partition are others, and no key is not the empty key.
	batch.GetBatch().Runs = []*handlerv1.Run{
		{Topic: "orders", Partition: 3, Deliveries: deliveries[:5]},
		{Topic: "orders", Partition: 4, Deliveries: deliveries[5:]},
	}
	deliveries[7].Key, deliveries[8].Key = []byte{}, []byte{}
	runtime.say(hello(byKey), batch, give(12, "a", "a"))
	said := runtime.settled(13)
	slices.Sort(begun)
	expect(t, begun, []int64{1, 2, 3, 6, 7, 8, 10, 11, 12, 13}, slices.Equal)
	wanted := []string{"skip", "retry", "done", "retry", "retry", "done", "done", "retry", "retry"}
	wanted = append(wanted, repeated("done", 4)...)
	expect(t, said.inOrder(), wanted, slices.Equal)
	if said.credits != 2000+13 {
		t.Errorf("%d credits", said.credits)
	}
}

func TestWhatIsVoidIsNotBegunAndGivesItsCreditBack(t *testing.T) {
	var begun []int64
	first := make(chan struct{})
	runtime := start(t, Options{Concurrency: 1}, func(ctx context.Context, message *Message) error {
		begun = append(begun, message.Offset)
		if message.Offset != 1 {
			return nil
		}
		close(first)
		<-ctx.Done()
		return ctx.Err()
	})
	runtime.say(hello(anyOrder), give(1, make([]string, 5)...), give(6, ""))
	<-first
	runtime.say(void(1, 5))
	said := runtime.settled(2)
	expect(t, said.inOrder(), []string{"retry", "done"}, slices.Equal)
	expect(t, begun, []int64{1, 6}, slices.Equal)
	if said.credits != 2000+6 {
		t.Errorf("%d credits", said.credits)
	}
}

func TestOnlyTheBatchThatIsNamedIsVoid(t *testing.T) {
	voided, goOn := make(chan int64, 3), make(chan struct{})
	var begun sync.WaitGroup
	begun.Add(3)
	runtime := start(t, Options{Concurrency: 3}, func(ctx context.Context, message *Message) error {
		begun.Done()
		select {
		case <-ctx.Done():
			voided <- message.Offset
		case <-goOn:
		}
		return nil
	})
	runtime.say(hello(anyOrder), give(1, ""), give(2, ""), give(3, ""))
	begun.Wait()
	runtime.say(void(2, 1))
	if offset := <-voided; offset != 2 {
		t.Errorf("%d", offset)
	}
	close(goOn)
	runtime.settled(3)
	if len(voided) != 0 {
		t.Errorf("%d too", <-voided)
	}
}

func TestACallEndsAtItsDeadline(t *testing.T) {
	runtime := start(t, Options{}, func(ctx context.Context, message *Message) error {
		if deadline, ok := ctx.Deadline(); !ok || !deadline.Equal(message.Deadline) {
			t.Errorf("%v, and not %v", deadline, message.Deadline)
		}
		<-ctx.Done()
		return ctx.Err()
	})
	batch := give(1, "")
	batch.GetBatch().BeginByMs = time.Now().Add(50 * time.Millisecond).UnixMilli()
	runtime.say(hello(anyOrder), batch)
	expect(t, runtime.settled(1).inOrder(), []string{"retry"}, slices.Equal)
}

func TestAReasonMayBeAnyBytes(t *testing.T) {
	runtime := start(t, Options{}, func(_ context.Context, message *Message) error {
		switch message.Offset {
		case 1:
			return errors.New("\xff")
		case 2:
			return Skip{Reason: "\xff"}
		case 3:
			panic("\xff")
		}
		return nil
	})
	runtime.say(hello(anyOrder), give(1, make([]string, 4)...))
	wanted := []string{"retry", "skip", "retry", "done"}
	expect(t, runtime.settled(4).inOrder(), wanted, slices.Equal)
}

func TestAStopLetsRunningCallsFinishAndBeginsNoOther(t *testing.T) {
	held := newHeld()
	runtime := start(t, Options{Concurrency: 2}, held.handle)
	runtime.say(hello(anyOrder), give(1, make([]string, 6)...))
	first, second := held.next(t), held.next(t)
	runtime.stop()
	close(held.goOn)
	said := runtime.rest()
	expect(t, said.inOrder(), repeated("done", 2), slices.Equal)
	for _, message := range []*Message{first, second} {
		if said.outcomes[uint64(message.Offset)] != "done" {
			t.Errorf("no verdict on %d: %+v", message.Offset, said)
		}
	}
	if len(held.begun) != 0 {
		t.Errorf("%d was begun too", (<-held.begun).Offset)
	}
	if err := <-runtime.served; err != nil {
		t.Error(err)
	}
}

func TestWhenTheRuntimeEndsItsSideWhatWasGivenIsDoneFirst(t *testing.T) {
	runtime := start(t, Options{}, func(context.Context, *Message) error { return nil })
	runtime.say(hello(anyOrder), give(1, keys...))
	if err := runtime.stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	expect(t, runtime.rest().inOrder(), repeated("done", 8), slices.Equal)
}

func TestAStopBeforeHelloEndsTheStream(t *testing.T) {
	runtime := start(t, Options{}, func(context.Context, *Message) error { return nil })
	runtime.stop()
	if err := <-runtime.served; err != nil {
		t.Error(err)
	}
}
