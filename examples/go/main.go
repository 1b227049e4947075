// A Penstock handler: each message is one POST, the status is the verdict.
package main

import (
	"encoding/json"
	"errors"
	"log"
	"net/http"
	"os"
	"sync/atomic"
)

// errRetry is what the work returns for a failure that may pass.
var errRetry = errors.New("try again")

var handled atomic.Int64

// handle is the work.
func handle(order map[string]any, meta http.Header) error {
	if n := handled.Add(1); n%10_000 == 0 {
		log.Printf("%d orders, the last from %s/%s@%s: %v", n,
			meta.Get("ce-kafkatopic"), meta.Get("ce-kafkapartition"), meta.Get("ce-kafkaoffset"), order)
	}
	return nil
}

func receive(w http.ResponseWriter, r *http.Request) {
	var order map[string]any
	err := json.NewDecoder(r.Body).Decode(&order)
	if err == nil {
		err = handle(order, r.Header)
	}
	switch {
	case err == nil:
		w.WriteHeader(http.StatusNoContent) // handled
	case errors.Is(err, errRetry):
		w.WriteHeader(http.StatusServiceUnavailable) // try again, up to delivery.maxAttempts times
	default:
		w.WriteHeader(http.StatusUnprocessableEntity) // no use trying again
	}
}

func main() {
	port := os.Getenv("PORT")
	if port == "" {
		port = "8080"
	}
	// On all addresses: the kubelet asks at the pod's own.
	log.Fatal(http.ListenAndServe(":"+port, http.HandlerFunc(receive)))
}
