package penstock

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"penstock.dev/sdk/go/handlerv1"
)

func TestProduceCopiesTheRecord(t *testing.T) {
	partition, key, value, header := int32(2), []byte("k"), []byte("1"), []byte("x")
	record := Record{
		Topic: "out", Partition: &partition, Key: key, Value: value,
		Headers: []Header{{"a", header}, {"b", nil}, {"c", []byte{}}}, Timestamp: time.UnixMilli(5),
	}
	message := &Message{}
	if err := message.Produce(record); err != nil {
		t.Fatal(err)
	}
	partition, key[0], value[0], header[0], record.Headers[0].Name = 9, 'z', 'z', 'z', "z"
	if err := message.Produce(Record{Topic: "gone"}); err != nil {
		t.Fatal(err)
	}
	produced := message.close().verdict.GetDone().Produce
	wanted := []*handlerv1.Record{
		{
			Topic: "out", Partition: proto.Int32(2), Key: []byte("k"), Value: []byte("1"), TimestampMs: proto.Int64(5),
			Headers: []*handlerv1.Header{{Name: "a", Value: []byte("x")}, {Name: "b"}, {Name: "c", Value: []byte{}}},
		},
		{Topic: "gone"},
	}
	if len(produced) != 2 || !proto.Equal(produced[0], wanted[0]) || !proto.Equal(produced[1], wanted[1]) {
		t.Errorf("%v", produced)
	}
	if err := message.Produce(Record{Topic: "late"}); !errors.Is(err, ErrSettled) {
		t.Errorf("after the verdict: %v", err)
	}
}

func TestARecordThatKafkaWouldRefuseIsAFailure(t *testing.T) {
	negative := int32(-1)
	for _, record := range []Record{
		{},
		{Topic: "a b"},
		{Topic: ".."},
		{Topic: "\xff"},
		{Topic: strings.Repeat("a", 250)},
		{Topic: "out", Partition: &negative},
		{Topic: "out", Headers: []Header{{Name: "\xff"}}},
		{Topic: "out", Timestamp: time.UnixMilli(-1)},
		{Topic: "out", Timestamp: time.UnixMilli(math.MinInt64)},
		{Topic: "out", Value: make([]byte, maxProduced)},
	} {
		message := &Message{}
		if err := message.Produce(Record{Topic: "out"}); err != nil {
			t.Fatal(err)
		}
		err := message.Produce(record)
		if err == nil {
			t.Errorf("%.100v is produced", record)
			continue
		}
		if again := message.Produce(Record{Topic: "out"}); again == nil {
			t.Error("a later record is produced")
		}
		if judged := message.close(); judged.name != "fail" || judged.reason != err.Error() {
			t.Errorf("%v is %s", err, judged.name)
		}
	}
}

func TestAMessageHasEachFieldAndAbsentIsNotEmpty(t *testing.T) {
	run := &handlerv1.Run{Topic: "orders", Partition: 3, Epoch: 7, Deliveries: []*handlerv1.Delivery{
		{
			Offset: 4, Attempt: 2, Key: []byte("k"), Value: []byte("{}"), TimestampMs: proto.Int64(0),
			Headers: []*handlerv1.Header{{Name: "a", Value: []byte("1")}, {Name: "b"}, {Name: "a", Value: []byte{}}},
		},
		{Offset: 5},
		{Key: []byte{}, Value: []byte{}},
	}}
	all := decode("shop.orders", &handlerv1.Batch{FirstId: 4, Runs: []*handlerv1.Run{run}})
	one, absent, empty := all[0], all[1], all[2]
	if one.IdempotencyKey() != "shop.orders/orders/3/4" || one.Epoch != 7 || one.Attempt != 2 {
		t.Errorf("%v", one.IdempotencyKey())
	}
	if string(one.Key) != "k" || string(one.Value) != "{}" || !one.Timestamp.Equal(time.UnixMilli(0)) {
		t.Errorf("%s, %s, %v", one.Key, one.Value, one.Timestamp)
	}
	if len(one.Headers) != 3 || one.Headers[1].Value != nil || one.Headers[2].Value == nil {
		t.Errorf("%v", one.Headers)
	}
	if value, ok := one.Header("a"); !ok || value == nil || len(value) != 0 {
		t.Errorf("%v, %v", value, ok)
	}
	if _, ok := one.Header("c"); ok {
		t.Error("there is a header c")
	}
	if absent.Key != nil || absent.Value != nil || !absent.Timestamp.IsZero() || absent.Headers != nil {
		t.Errorf("%v, %v, %v", absent.Key, absent.Value, absent.Timestamp)
	}
	if empty.Key == nil || empty.Value == nil {
		t.Error("empty is absent")
	}
}

// textMapCarrier is propagation.TextMapCarrier of OpenTelemetry.
type textMapCarrier interface {
	Get(key string) string
	Set(key string, value string)
	Keys() []string
}

func TestHeadersCarryATrace(t *testing.T) {
	message := &Message{Headers: []Header{{"traceparent", []byte("00-a")}, {"b", nil}, {"traceparent", []byte("00-c")}}}
	var carrier textMapCarrier = message.Carrier()
	if carrier.Get("traceparent") != "00-c" || carrier.Get("b") != "" || carrier.Get("c") != "" {
		t.Error(carrier.Get("traceparent"))
	}
	if keys := strings.Join(carrier.Keys(), " "); keys != "traceparent b" {
		t.Error(keys)
	}
	record := Record{Headers: message.Headers}
	carrier = record.Carrier()
	carrier.Set("traceparent", "00-d")
	if carrier.Get("traceparent") != "00-d" || len(record.Headers) != 2 || len(message.Headers) != 3 {
		t.Errorf("%v, %v", record.Headers, message.Headers)
	}
}
