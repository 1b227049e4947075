package penstocktest

import (
	"sync/atomic"
	"time"

	"penstock.dev/sdk/go"
	"penstock.dev/sdk/go/handlerv1"
)

var offsets atomic.Int64

// Message returns a message with a value, at its first attempt, in partition 0 of the
// topic "test". Each has another offset. Its fields can be changed.
func Message(value string) *penstock.Message {
	return &penstock.Message{
		Group:     "test",
		Topic:     "test",
		Epoch:     1,
		Offset:    offsets.Add(1) - 1,
		Timestamp: time.Now().Truncate(time.Millisecond),
		Value:     []byte(value),
		Attempt:   1,
	}
}

// Keyed returns a [Message] with a key.
func Keyed(key, value string) *penstock.Message {
	message := Message(value)
	message.Key = []byte(key)
	return message
}

// Outcome is the kind of a verdict.
type Outcome string

// The outcomes of the contract.
const (
	Done       Outcome = "done"
	Retry      Outcome = "retry"
	Skip       Outcome = "skip"
	DeadLetter Outcome = "dead_letter"
	Fail       Outcome = "fail"
	// The handler did not begin the message, and the runtime sends it again.
	Release Outcome = "release"
)

// Verdict is the result of a delivery as the runtime sees it.
type Verdict struct {
	Outcome Outcome
	Reason  string
	// The minimum delay before the message is sent again.
	Delay time.Duration
	// The records to produce.
	Produced []penstock.Record
}

func decodeVerdict(verdict *handlerv1.Verdict) Verdict {
	switch outcome := verdict.Outcome.(type) {
	case *handlerv1.Verdict_Done:
		return Verdict{Outcome: Done, Produced: decodeRecords(outcome.Done.Produce)}
	case *handlerv1.Verdict_Retry:
		return Verdict{Outcome: Retry, Reason: outcome.Retry.Reason, Delay: milliseconds(outcome.Retry.DelayMs)}
	case *handlerv1.Verdict_Skip:
		return Verdict{Outcome: Skip, Reason: outcome.Skip.Reason}
	case *handlerv1.Verdict_DeadLetter:
		return Verdict{Outcome: DeadLetter, Reason: outcome.DeadLetter.Reason}
	case *handlerv1.Verdict_Fail:
		return Verdict{Outcome: Fail, Reason: outcome.Fail.Reason}
	case *handlerv1.Verdict_Release:
		return Verdict{Outcome: Release, Reason: outcome.Release.Reason, Delay: milliseconds(outcome.Release.DelayMs)}
	}
	return Verdict{}
}

func milliseconds(count uint64) time.Duration { return time.Duration(count) * time.Millisecond }

func decodeRecords(records []*handlerv1.Record) []penstock.Record {
	var decoded []penstock.Record
	for _, record := range records {
		one := penstock.Record{Topic: record.Topic, Partition: record.Partition, Key: record.Key, Value: record.Value}
		for _, header := range record.Headers {
			one.Headers = append(one.Headers, penstock.Header{Name: header.Name, Value: header.Value})
		}
		if record.TimestampMs != nil {
			one.Timestamp = time.UnixMilli(*record.TimestampMs)
		}
		decoded = append(decoded, one)
	}
	return decoded
}

func encodeDelivery(message *penstock.Message) *handlerv1.Delivery {
	delivery := &handlerv1.Delivery{
		Offset:  message.Offset,
		Key:     message.Key,
		Value:   message.Value,
		Attempt: message.Attempt,
	}
	if !message.Timestamp.IsZero() {
		timestamp := message.Timestamp.UnixMilli()
		delivery.TimestampMs = &timestamp
	}
	for _, header := range message.Headers {
		delivery.Headers = append(delivery.Headers, &handlerv1.Header{Name: header.Name, Value: header.Value})
	}
	return delivery
}

// encodeBatch returns a batch with a run for each sequence of messages of one partition.
func encodeBatch(first uint64, beginBy time.Time, messages []*penstock.Message) *handlerv1.Batch {
	batch := &handlerv1.Batch{FirstId: first, BeginByMs: beginBy.UnixMilli()}
	var run *handlerv1.Run
	for _, message := range messages {
		if run == nil || run.Topic != message.Topic || run.Partition != message.Partition || run.Epoch != message.Epoch {
			run = &handlerv1.Run{Topic: message.Topic, Partition: message.Partition, Epoch: message.Epoch}
			batch.Runs = append(batch.Runs, run)
		}
		run.Deliveries = append(run.Deliveries, encodeDelivery(message))
	}
	return batch
}
