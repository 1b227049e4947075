// Package penstock serves handlers of Kafka messages to Penstock's runtime over gRPC.
//
// A handler is a function. Its error is the verdict on the message: nil means done, and
// [Retry], [Skip], [DeadLetter] and [Fail] say what else is to happen, also when they are
// wrapped. Any other error, a panic and runtime.Goexit count as Retry.
//
//	func main() {
//		if err := penstock.Serve(handle, penstock.Options{}); err != nil {
//			log.Fatal(err)
//		}
//	}
//
// Package penstocktest tests handlers without Kafka.
package penstock

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
)

// Version is the version of this SDK. The runtime logs it.
const Version = "0.1.0"

// Handler handles one message. The context ends when the time of the attempt is over, or
// when the message's partition was assigned to another consumer; a verdict has no effect
// then. A stop does not end it.
type Handler func(ctx context.Context, message *Message) error

// BatchHandler handles several messages in one call. A nil error means that all are done.
// [Verdicts] has an error for each of them; any other error is the verdict on all.
//
// In mode InOrder the handler must process the messages in their order and stop at the
// first that is neither done nor skipped: those behind it come again, whatever their
// verdicts say. In KeyOrdered no two of them have the same key.
type BatchHandler func(ctx context.Context, messages []*Message) error

// Verdicts is the error of a [BatchHandler] that has a verdict for each message, in their
// order. It has as many elements as there are messages; nil means done.
type Verdicts []error

// Error returns how many messages failed, and the first error.
func (v Verdicts) Error() string {
	var first error
	count := 0
	for _, err := range v {
		if err != nil {
			if first == nil {
				first = err
			}
			count++
		}
	}
	if first == nil {
		return "no message failed"
	}
	return fmt.Sprintf("%d of %d messages failed, the first with: %v", count, len(v), first)
}

// Interceptor wraps a handler, as for tracing, metrics or a check of each message.
type Interceptor func(next Handler) Handler

// Serve calls the handler for each message until SIGTERM or SIGINT. It then begins no
// other message, waits for the calls that run, and returns nil. A second signal ends the
// process at once.
//
// Serve listens on the Unix socket in PENSTOCK_HANDLER_SOCKET, or on all addresses at
// PORT.
func Serve(handler Handler, options Options) error {
	server, err := NewServer(handler, options)
	if err != nil {
		return err
	}
	return server.runUntilSignal()
}

// ServeBatches is like [Serve] for a handler of batches.
func ServeBatches(handler BatchHandler, options Options) error {
	server, err := NewBatchServer(handler, options)
	if err != nil {
		return err
	}
	return server.runUntilSignal()
}

// ServeUntil is like [Serve] until the context ends. It does not handle signals.
func ServeUntil(ctx context.Context, handler Handler, options Options) error {
	server, err := NewServer(handler, options)
	if err != nil {
		return err
	}
	return server.Run(ctx)
}

// runUntilSignal runs the server until the first signal; the second ends the process.
func (s *Server) runUntilSignal() error {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, os.Interrupt)
	defer signal.Stop(signals)
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		for range 2 {
			select {
			case <-ended:
				return
			case received := <-signals:
				if ctx.Err() != nil {
					s.log.Error("ending at once", slog.String("signal", received.String()))
					os.Exit(exitCode(received))
				}
				s.log.Info("stopping; a second signal ends the process at once", slog.String("signal", received.String()))
				stop()
			}
		}
	}()
	return s.Run(ctx)
}

// exitCode returns a shell's exit code for a process that a signal ended.
func exitCode(received os.Signal) int {
	if number, ok := received.(syscall.Signal); ok {
		return 128 + int(number)
	}
	return 1
}
