package penstock

import (
	"fmt"
	"log/slog"
	"net"
)

const (
	defaultConcurrency = 16
	defaultWindow      = 2000
	defaultBatchSize   = 500
	// More is a mistake, such as a number of bytes.
	maxSetting = 1 << 24
)

// Options configures a [Server]. Zero values stand for defaults.
type Options struct {
	// The maximum number of calls at the same time; 16 by default. Messages with the same
	// key are handled one after the other, and in mode InOrder all are.
	Concurrency int
	// The maximum number of messages in memory, waiting or at work; 2000 by default. The
	// handler takes only as many as it can finish within two seconds.
	Window int
	// The maximum number of messages in one call of a [BatchHandler]; 500 by default.
	BatchSize int
	// Used instead of the listener that the environment asks for.
	Listener net.Listener
	// Wrap each call of a [Handler], the first one outermost.
	Interceptors []Interceptor
	// Logs failures with their stacks; slog.Default() by default.
	Logger *slog.Logger
	Hooks  Hooks
}

// Hooks are called when something happens in a [Server]. They may be nil. They must return
// quickly, and may be called from several goroutines at the same time.
type Hooks struct {
	// The server listens.
	Listening func(net.Addr)
	// The runtime has opened a stream.
	Opened func(Consumer)
	// The stream has ended; the error is nil if it ended in order.
	Closed func(Consumer, error)
	// There is a verdict on a message: done, retry, skip, dead_letter, fail or release.
	Settled func(message *Message, verdict string)
	// The server begins no more messages.
	Stopping func()
}

// Consumer describes the consumer whose messages are handled.
type Consumer struct {
	// The name, kafka_consumer.GROUP_NAME.
	Name string
	// The consumer group.
	Group string
	// In which messages are processed: any, batch or key.
	Order string
}

// complete returns the options with defaults, or what is wrong with them.
func (o Options) complete() (Options, error) {
	for _, setting := range []struct {
		name     string
		value    *int
		standard int
	}{
		{"Concurrency", &o.Concurrency, defaultConcurrency},
		{"Window", &o.Window, defaultWindow},
		{"BatchSize", &o.BatchSize, defaultBatchSize},
	} {
		switch {
		case *setting.value == 0:
			*setting.value = setting.standard
		case *setting.value < 0 || *setting.value > maxSetting:
			return o, fmt.Errorf("Options.%s is %d; it must be from 1 to %d", setting.name, *setting.value, maxSetting)
		}
	}
	for index, interceptor := range o.Interceptors {
		if interceptor == nil {
			return o, fmt.Errorf("Options.Interceptors[%d] is nil", index)
		}
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return o, nil
}

// chain wraps a handler in the interceptors.
func (o Options) chain(handler Handler) (Handler, error) {
	for index := len(o.Interceptors) - 1; index >= 0; index-- {
		if handler = o.Interceptors[index](handler); handler == nil {
			return nil, fmt.Errorf("Options.Interceptors[%d] returned no handler", index)
		}
	}
	return handler, nil
}
