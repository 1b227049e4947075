package penstock

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"sync"
	"time"
)

// The maximum number of failures that are logged in a second. An outage has every message
// fail, and the runtime counts them.
const maxFailures = 10

// log is the handler's log.
type log struct {
	*slog.Logger

	mutex      sync.Mutex
	second     int64
	count      int
	suppressed int
}

// failure logs a verdict other than done.
func (l *log) failure(level slog.Level, message *Message, judged judgement, more ...slog.Attr) {
	l.guard("Options.Logger", func() {
		if !l.Enabled(context.Background(), level) {
			return
		}
		suppressed, ok := l.allow(time.Now().Unix())
		if !ok {
			return
		}
		attrs := append([]slog.Attr{
			slog.String("topic", message.Topic),
			slog.Int("partition", int(message.Partition)),
			slog.Int64("offset", message.Offset),
			slog.Uint64("attempt", uint64(message.Attempt)),
			slog.String("verdict", judged.name),
			slog.String("error", judged.reason),
		}, more...)
		if suppressed > 0 {
			attrs = append(attrs, slog.Int("failures_not_logged", suppressed))
		}
		l.LogAttrs(context.Background(), level, "a message failed", attrs...)
	})
}

// allow returns whether to log another failure, and how many were not logged before it.
func (l *log) allow(second int64) (suppressed int, ok bool) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	if l.second != second {
		l.second, l.count = second, 0
	}
	if l.count == maxFailures {
		l.suppressed++
		return 0, false
	}
	l.count++
	suppressed, l.suppressed = l.suppressed, 0
	return suppressed, true
}

// guard calls code of the program that is no handler, such as a hook or a logger. A panic
// there ends nothing.
func (l *log) guard(what string, f func()) {
	defer func() {
		if panicked := recover(); panicked != nil {
			fmt.Fprintf(os.Stderr, "penstock: %s panicked: %v\n%s\n", what, panicked, debug.Stack())
		}
	}()
	f()
}
