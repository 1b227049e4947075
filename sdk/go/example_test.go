package penstock_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"time"

	"penstock.dev/sdk/go"
)

type order struct {
	ID     uint64  `json:"id"`
	Amount float64 `json:"amount"`
}

func handle(_ context.Context, message *penstock.Message) error {
	var o order
	if err := json.Unmarshal(message.Value, &o); err != nil {
		return penstock.Fail{Reason: "no order", Err: err}
	}
	if o.Amount < 0 {
		return penstock.DeadLetter{Reason: "negative amount"}
	}
	fmt.Println(message.IdempotencyKey(), o.Amount)
	return nil
}

func ExampleServe() {
	if err := penstock.Serve(handle, penstock.Options{Concurrency: 64}); err != nil {
		log.Fatal(err)
	}
}

// A handler is a function: a test can call it.
func ExampleHandler() {
	message := &penstock.Message{Group: "billing.orders", Topic: "orders", Offset: 7, Value: []byte(`{"id": 1, "amount": 9.5}`)}
	fmt.Println(handle(context.Background(), message))
	message.Value = []byte(`{"id": 1, "amount": -1}`)
	fmt.Println(handle(context.Background(), message))
	// Output:
	// billing.orders/orders/0/7 9.5
	// <nil>
	// negative amount
}

// Verdicts can be wrapped, and can wrap their cause.
func ExampleSkip() {
	store := func() error { return penstock.Skip{Err: sql.ErrNoRows} }
	err := fmt.Errorf("order 7: %w", store())
	fmt.Println(err)
	fmt.Println(errors.Is(err, penstock.Skip{}), errors.Is(err, sql.ErrNoRows))
	// Output:
	// order 7: sql: no rows in result set
	// true true
}

func ExampleRetry() {
	_ = func(_ context.Context, message *penstock.Message) error {
		return penstock.Retry{Reason: "the database is locked", Delay: 5 * time.Second}
	}
}

// The record is produced in the transaction that commits the message's offset.
func ExampleMessage_Produce() {
	_ = func(_ context.Context, message *penstock.Message) error {
		return message.Produce(penstock.Record{Topic: "totals", Key: message.Key, Value: []byte(`{"sum": 9.50}`)})
	}
}

// Long work asks for more time while it makes progress.
func ExampleMessage_Extend() {
	_ = func(ctx context.Context, message *penstock.Message) error {
		for part := range 100 {
			if err := message.Extend(30 * time.Second); err != nil {
				return err
			}
			if err := process(ctx, part); err != nil {
				return err
			}
		}
		return nil
	}
}

func process(context.Context, int) error { return nil }

// An interceptor is called for each message. This one measures; one for OpenTelemetry
// calls otel.GetTextMapPropagator().Extract(ctx, message.Carrier()) and starts a span.
func ExampleInterceptor() {
	measure := func(next penstock.Handler) penstock.Handler {
		return func(ctx context.Context, message *penstock.Message) error {
			began := time.Now()
			err := next(ctx, message)
			slog.Info("handled", "topic", message.Topic, "took", time.Since(began), "error", err)
			return err
		}
	}
	if err := penstock.Serve(handle, penstock.Options{Interceptors: []penstock.Interceptor{measure}}); err != nil {
		log.Fatal(err)
	}
}

func ExampleServeBatches() {
	insert := func(ctx context.Context, messages []*penstock.Message) error {
		verdicts := make(penstock.Verdicts, len(messages))
		for index, message := range messages {
			if len(message.Value) == 0 {
				verdicts[index] = penstock.Skip{Reason: "empty"}
			}
		}
		return verdicts
	}
	if err := penstock.ServeBatches(insert, penstock.Options{BatchSize: 100, Concurrency: 4}); err != nil {
		log.Fatal(err)
	}
}
