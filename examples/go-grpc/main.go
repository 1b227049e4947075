// A Penstock handler over gRPC: the error is the verdict.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"sync/atomic"

	penstock "penstock.dev/sdk/go"
)

type order struct {
	ID     uint64  `json:"id"`
	Amount float64 `json:"amount"`
}

var handled atomic.Uint64

func handle(_ context.Context, message *penstock.Message) error {
	var o order
	if err := json.Unmarshal(message.Value, &o); err != nil {
		return penstock.Fail{Err: err} // another attempt would not help
	}
	if o.Amount < 0 {
		return penstock.DeadLetter{Reason: fmt.Sprintf("order %d has a negative amount", o.ID)}
	}
	if number := handled.Add(1); number%10_000 == 0 {
		fmt.Printf("%d orders, the last %s: %+v\n", number, message.IdempotencyKey(), o)
	}
	return nil
}

func main() {
	if err := penstock.Serve(handle, penstock.Options{Concurrency: 16}); err != nil {
		log.Fatal(err)
	}
}
