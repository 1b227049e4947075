package penstock

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"penstock.dev/sdk/go/handlerv1"
)

func TestEachErrorIsItsVerdict(t *testing.T) {
	for _, one := range []struct {
		err  error
		name string
	}{
		{nil, "done"},
		{Retry{Reason: "busy"}, "retry"},
		{Skip{Reason: "busy"}, "skip"},
		{DeadLetter{Reason: "busy"}, "dead letter"},
		{Fail{Reason: "busy"}, "fail"},
		{errors.New("busy"), "retry"},
		{fmt.Errorf("order 7: %w", Fail{Reason: "busy"}), "fail"},
		{errors.Join(errors.New("no"), Skip{Reason: "old"}), "skip"},
		{&Skip{Reason: "busy"}, "skip"},
		{fmt.Errorf("order 7: %w", &DeadLetter{Reason: "busy"}), "dead letter"},
		{&Retry{Reason: "busy"}, "retry"},
	} {
		if found := outcome(verdict(1, one.err)); found != one.name {
			t.Errorf("%v is %s", one.err, found)
		}
	}
}

func TestAVerdictShowsTheWholeTextOfItsError(t *testing.T) {
	wrapped := fmt.Errorf("order 7: %w", Fail{Reason: "no amount"})
	if reason := verdict(1, wrapped).GetFail().Reason; reason != "order 7: no amount" {
		t.Error(reason)
	}
}

func TestTheDelayOfARetryIsInMillisecondsAndNoneIsBelowZero(t *testing.T) {
	for delay, milliseconds := range map[time.Duration]uint64{
		0:                       0,
		1500 * time.Millisecond: 1500,
		time.Microsecond:        0,
		-time.Second:            0,
		math.MaxInt64:           9223372036854,
	} {
		for _, retry := range []error{Retry{Delay: delay}, &Retry{Delay: delay}} {
			wrapped := fmt.Errorf("busy: %w", retry)
			if found := verdict(1, wrapped).GetRetry().DelayMs; found != milliseconds {
				t.Errorf("%v is %d", delay, found)
			}
		}
	}
}

func TestWhatIsDoneOneAfterTheOtherIsOneVerdict(t *testing.T) {
	answers := newAnswers()
	for _, id := range []uint64{5, 6, 7, 9} {
		answers.settle(id, nil)
	}
	answers.settle(10, Skip{Reason: "old"})
	for _, id := range []uint64{11, 3} {
		answers.settle(id, nil)
	}
	answer := answers.take()
	var ranges [][2]uint64
	for _, verdict := range answer.Verdicts {
		ranges = append(ranges, [2]uint64{verdict.FirstId, verdict.Count})
	}
	expect(t, ranges, [][2]uint64{{5, 3}, {9, 1}, {10, 1}, {11, 1}, {3, 1}}, slices.Equal)
	if answer.Credits != 7 {
		t.Errorf("%d credits", answer.Credits)
	}
	if again := answers.take(); again != nil {
		t.Errorf("%v is sent again", again)
	}
}

func TestRecordsToProduceGoWithAVerdictOfTheirOwnInTheirOrder(t *testing.T) {
	partition := int32(2)
	message := &Message{}
	message.Produce(Record{Topic: "out", Partition: &partition, Key: []byte("k"), Value: []byte("1")})
	message.Produce(Record{
		Topic:     "gone",
		Headers:   []Header{{Name: "a", Value: []byte("x")}, {Name: "b"}},
		Timestamp: time.UnixMilli(5),
	})
	answers := newAnswers()
	answers.settle(5, nil)
	answers.settleWith(6, message.produced)
	answers.settle(7, nil)
	answer := answers.take()
	if len(answer.Verdicts) != 3 || answer.Credits != 3 {
		t.Fatalf("%v", answer)
	}
	produce := answer.Verdicts[1].GetDone().Produce
	if len(produce) != 2 || produce[0].Topic != "out" || *produce[0].Partition != 2 {
		t.Errorf("%v", produce)
	}
	gone := produce[1]
	if gone.Topic != "gone" || gone.Value != nil || gone.Partition != nil || *gone.TimestampMs != 5 {
		t.Errorf("%v", gone)
	}
	if len(gone.Headers) != 2 || gone.Headers[1].Value != nil {
		t.Errorf("%v", gone.Headers)
	}
}

func TestAMessageHasEachFieldAndAbsentIsNotEmpty(t *testing.T) {
	time0, batch := int64(0), give(4, "k").GetBatch()
	delivery := batch.Runs[0].Deliveries[0]
	delivery.TimestampMs = &time0
	delivery.Headers = []*handlerv1.Header{{Name: "a", Value: []byte("1")}, {Name: "b"}, {Name: "a", Value: []byte{}}}
	batch.Runs[0].Deliveries = append(batch.Runs[0].Deliveries, &handlerv1.Delivery{Offset: 5}, &handlerv1.Delivery{Key: []byte{}, Value: []byte{}})
	all := messages("shop.orders", batch)
	one, absent, empty := all[0], all[1], all[2]
	if one.IdempotencyKey() != "shop.orders/orders/3/4" || one.Epoch != 7 || one.Attempt != 1 {
		t.Errorf("%+v", one)
	}
	if string(one.Key) != "k" || string(one.Value) != "{}" || !one.Timestamp.Equal(time.UnixMilli(0)) {
		t.Errorf("%+v", one)
	}
	if len(one.Headers) != 3 || one.Headers[1].Value != nil || one.Headers[2].Value == nil {
		t.Errorf("%+v", one.Headers)
	}
	if absent.Key != nil || absent.Value != nil || !absent.Timestamp.IsZero() || absent.id != 5 {
		t.Errorf("%+v", absent)
	}
	if empty.Key == nil || empty.Value == nil {
		t.Errorf("%+v", empty)
	}
}
