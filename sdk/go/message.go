package penstock

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"penstock.dev/sdk/go/handlerv1"
)

// Message is one Kafka message, delivered once. A test may make one as a literal.
type Message struct {
	// The consumer group.
	Group     string
	Topic     string
	Partition int32
	// Counts the partition assignments of the runtime. Work done under an epoch below the
	// partition's current one comes too late.
	Epoch  uint64
	Offset int64
	// Zero where the message has no timestamp.
	Timestamp time.Time
	// Nil where there is none; an empty one is not nil.
	Key []byte
	// Nil in a tombstone; an empty one is not nil.
	Value []byte
	// In the message's order; a name may occur more than once.
	Headers []Header
	// The number of this attempt, from 1.
	Attempt uint32

	call *call

	mutex    sync.Mutex
	settled  bool
	produced []*handlerv1.Record
	size     int
	refused  error
}

// ErrExtension is the error of an extension beyond handler.maxTimeout in the manifest. The
// attempt has the time up to that limit.
var ErrExtension = errors.New("the attempt can't be extended that far; see handler.maxTimeout")

// IdempotencyKey returns GROUP/TOPIC/PARTITION/OFFSET. It identifies the message for good,
// at every attempt and in every process.
func (m *Message) IdempotencyKey() string {
	return fmt.Sprintf("%s/%s/%d/%d", m.Group, m.Topic, m.Partition, m.Offset)
}

// Header returns the value of the last header of a name, and whether there is one.
func (m *Message) Header(name string) ([]byte, bool) {
	for _, header := range slices.Backward(m.Headers) {
		if header.Name == name {
			return header.Value, true
		}
	}
	return nil, false
}

// Extend gives the attempt at least this time from now on, within handler.maxTimeout of
// the manifest. The context's deadline moves. A handler with long work calls it
// periodically.
func (m *Message) Extend(time time.Duration) error {
	if time <= 0 {
		return fmt.Errorf("%v is no time to extend an attempt by", time)
	}
	if m.call == nil {
		return nil
	}
	return m.call.batch.schedule.extend(m.call, time)
}

// decode returns the messages of a batch, in its order.
func decode(group string, batch *handlerv1.Batch) []*Message {
	var all []*Message
	for _, run := range batch.Runs {
		for _, delivery := range run.Deliveries {
			message := &Message{
				Group:     group,
				Topic:     run.Topic,
				Partition: run.Partition,
				Epoch:     run.Epoch,
				Offset:    delivery.Offset,
				Key:       delivery.Key,
				Value:     delivery.Value,
				Headers:   decodeHeaders(delivery.Headers),
				Attempt:   delivery.Attempt,
			}
			if delivery.TimestampMs != nil {
				message.Timestamp = time.UnixMilli(*delivery.TimestampMs)
			}
			all = append(all, message)
		}
	}
	return all
}
