package penstock

import (
	"fmt"
	"time"

	"penstock.dev/sdk/go/handlerv1"
)

// Message is one message of Kafka, given once.
type Message struct {
	// Group is the consumer group.
	Group     string
	Topic     string
	Partition int32
	// Epoch counts the assignments of partitions to the runtime. What is done for a
	// partition by a lower epoch than it had meanwhile is done too late.
	Epoch  uint64
	Offset int64
	// Timestamp is zero where the message has no time.
	Timestamp time.Time
	// Key is nil where there is none; an empty one is not nil.
	Key []byte
	// Value is nil in a tombstone; an empty one is not nil.
	Value   []byte
	Headers []Header
	// Attempt says which attempt at the message this is, from 1.
	Attempt uint32
	// Deadline is when the time for this attempt is over.
	Deadline time.Time
	id       uint64
	produced []*handlerv1.Record
}

// Record is one to be produced.
type Record struct {
	// Topic must exist.
	Topic string
	// Partition is nil where the key decides, as with any producer.
	Partition *int32
	// Key is nil where there is none.
	Key []byte
	// Value is nil in a tombstone.
	Value   []byte
	Headers []Header
	// Timestamp is zero for now.
	Timestamp time.Time
}

// Produce has a record produced in the transaction that commits this message, if the
// handler returns nil. It takes commit: Transactional in the manifest. Records keep the
// order of the calls, which must not run side by side.
func (m *Message) Produce(record Record) {
	produced := &handlerv1.Record{
		Topic:     record.Topic,
		Partition: record.Partition,
		Key:       record.Key,
		Value:     record.Value,
	}
	for _, header := range record.Headers {
		produced.Headers = append(produced.Headers, &handlerv1.Header{Name: header.Name, Value: header.Value})
	}
	if !record.Timestamp.IsZero() {
		timestamp := record.Timestamp.UnixMilli()
		produced.TimestampMs = &timestamp
	}
	m.produced = append(m.produced, produced)
}

// Header is one of a message's headers, which are in its order.
type Header struct {
	Name string
	// Value is nil where there is none.
	Value []byte
}

// IdempotencyKey names the message for good: the same at every attempt, in whichever
// process.
func (m *Message) IdempotencyKey() string {
	return fmt.Sprintf("%s/%s/%d/%d", m.Group, m.Topic, m.Partition, m.Offset)
}

// messages are those of a batch, in its order.
func messages(group string, batch *handlerv1.Batch) []*Message {
	deadline := time.UnixMilli(batch.BeginByMs)
	id := batch.FirstId
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
				Attempt:   delivery.Attempt,
				Deadline:  deadline,
				id:        id,
			}
			if delivery.TimestampMs != nil {
				message.Timestamp = time.UnixMilli(*delivery.TimestampMs)
			}
			for _, header := range delivery.Headers {
				message.Headers = append(message.Headers, Header{Name: header.Name, Value: header.Value})
			}
			all = append(all, message)
			id++
		}
	}
	return all
}
