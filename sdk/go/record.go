package penstock

import (
	"bytes"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	"penstock.dev/sdk/go/handlerv1"
)

// The maximum size of all records of a message in bytes. The runtime reads answers of up
// to 16 MiB.
const maxProduced = 15 << 20

// The maximum length of a topic's name in Kafka.
const maxTopic = 249

// ErrSettled is the error of a call on a message whose handler has returned, or whose
// delivery was cancelled.
var ErrSettled = errors.New("the handler is no longer at work on this message")

// Header is a header of a message or a record. A name may occur more than once.
type Header struct {
	Name string
	// Nil where there is none; an empty one is not nil.
	Value []byte
}

// Record is a Kafka record to be produced.
type Record struct {
	// The topic must exist.
	Topic string
	// Nil where the key selects the partition, as with any producer.
	Partition *int32
	// Nil where there is none.
	Key []byte
	// Nil in a tombstone.
	Value   []byte
	Headers []Header
	// Zero for now.
	Timestamp time.Time
}

// check returns an error if the runtime or Kafka would refuse the record.
func (r Record) check() error {
	if len(r.Topic) == 0 || len(r.Topic) > maxTopic || !isTopic(r.Topic) {
		return fmt.Errorf("%.60q is no name of a topic", r.Topic)
	}
	if r.Partition != nil && *r.Partition < 0 {
		return fmt.Errorf("there is no partition %d", *r.Partition)
	}
	for _, header := range r.Headers {
		if !utf8.ValidString(header.Name) {
			return fmt.Errorf("the header name %.60q is not UTF-8", header.Name)
		}
	}
	if !r.Timestamp.IsZero() && r.Timestamp.UnixMilli() < 0 {
		return fmt.Errorf("the timestamp %v is before 1970", r.Timestamp)
	}
	return nil
}

func isTopic(name string) bool {
	for _, c := range []byte(name) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case c == '.', c == '_', c == '-':
		default:
			return false
		}
	}
	return name != "." && name != ".."
}

// encode returns the record for the stream. It shares no memory with the record.
func (r Record) encode() *handlerv1.Record {
	encoded := &handlerv1.Record{
		Topic: r.Topic,
		Key:   bytes.Clone(r.Key),
		Value: bytes.Clone(r.Value),
	}
	if r.Partition != nil {
		encoded.Partition = proto.Int32(*r.Partition)
	}
	for _, header := range r.Headers {
		encoded.Headers = append(encoded.Headers, &handlerv1.Header{
			Name:  header.Name,
			Value: bytes.Clone(header.Value),
		})
	}
	if !r.Timestamp.IsZero() {
		encoded.TimestampMs = proto.Int64(r.Timestamp.UnixMilli())
	}
	return encoded
}

// Produce adds a record to the transaction that commits this message's offset. The runtime
// produces it if the handler returns nil. This requires commit: Transactional in the
// manifest. Records keep the order of the calls.
//
// The record is copied, so its slices can be used again. If Produce returns an error, the
// message is a [Fail] even if the handler ignores it, except for [ErrSettled].
func (m *Message) Produce(record Record) error {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	if m.settled {
		return ErrSettled
	}
	if m.refused != nil {
		return m.refused
	}
	if err := record.check(); err != nil {
		return m.refuse(fmt.Errorf("a record can't be produced: %w", err))
	}
	encoded := record.encode()
	m.size += proto.Size(encoded)
	if m.size > maxProduced {
		return m.refuse(fmt.Errorf("the records of one message exceed %d MiB", maxProduced>>20))
	}
	m.produced = append(m.produced, encoded)
	return nil
}

func (m *Message) refuse(err error) error {
	m.refused, m.produced = err, nil
	return err
}

func decodeHeaders(headers []*handlerv1.Header) []Header {
	if len(headers) == 0 {
		return nil
	}
	decoded := make([]Header, len(headers))
	for index, header := range headers {
		decoded[index] = Header{Name: header.Name, Value: header.Value}
	}
	return decoded
}

// close ends the time for Produce, and returns what the handler's nil stands for.
func (m *Message) close() judgement {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	m.settled = true
	switch {
	case m.refused != nil:
		return Fail{}.judge(clean(m.refused.Error()))
	case len(m.produced) > 0:
		return doneWith(m.produced)
	}
	return done
}
