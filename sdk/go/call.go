package penstock

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"time"
)

// What a handler is after its context has ended, before it is reported to ignore that.
const maxLinger = 10 * time.Second

type state int

const (
	waiting state = iota
	running
	over
)

// call is one delivery. The schedule's mutex guards it.
type call struct {
	id      uint64
	message *Message
	// Of the message as it came: a handler may change it.
	place  place
	offset int64
	batch  *batch
	line   *line
	// In the line's queue while it waits.
	element *list.Element
	state   state
	attempt *attempt
	// The runtime has cancelled it while it ran: a verdict has no effect.
	void bool
}

// batch is a batch as the runtime sent it. The schedule's mutex guards it.
type batch struct {
	schedule *schedule
	first    uint64
	calls    []call
	// Calls that are not over.
	open int
	// The last moment to begin a call. Zero: none.
	beginBy time.Time
	expiry  *time.Timer
	// Where nothing more of this batch may begin.
	stopped map[place]struct{}
}

// place names messages of a batch that are in order with each other, if they have a key or
// the whole batch is.
type place struct {
	topic     string
	partition int32
	key       string
	hasKey    bool
}

// line holds messages that are handled one after the other. The schedule's mutex guards it.
type line struct {
	// Empty for messages without a key, each of which has a line for itself.
	name  string
	named bool
	queue list.List // of *call
	ready *list.Element
	busy  bool
}

// attempt is one call of the handler, with one message or several.
type attempt struct {
	calls []*call
	ctx   *attemptContext
	// The number of calls that are void; the context ends with the last.
	void int
	// It does not begin before the report of that is written. If the handler ends the
	// process, the runtime then knows which messages to blame. Very short calls save the
	// time, unless the message has failed before.
	careful bool
	// Zero until the handler is called.
	began  time.Time
	linger *time.Timer
}

func (a *attempt) messages() []*Message {
	messages := make([]*Message, len(a.calls))
	for index, call := range a.calls {
		messages[index] = call.message
	}
	return messages
}

// worker performs attempts until the schedule has ended.
func (s *schedule) worker() {
	ended := false
	defer func() {
		// The handler has called runtime.Goexit, which ends this goroutine.
		if !ended {
			go s.worker()
		}
	}()
	for a := s.next(); a != nil; a = s.next() {
		s.perform(a)
	}
	ended = true
}

// perform reports that an attempt begins, calls the handler, and gives the verdicts.
func (s *schedule) perform(a *attempt) {
	var judged []judgement
	defer func() { s.finish(a, judged) }()
	sent := s.answers.begin(a.calls, a.careful)
	if a.careful {
		select {
		case <-sent:
		case <-s.ctx.Done():
		}
		if !s.start(a) {
			return
		}
	}
	exited := true
	defer func() {
		if exited {
			judged = s.failed(a, "the handler called runtime.Goexit")
		}
	}()
	judged = s.invoke(a)
	exited = false
}

// invoke calls the handler. A panic is a verdict.
func (s *schedule) invoke(a *attempt) (judged []judgement) {
	defer func() {
		if panicked := recover(); panicked != nil {
			judged = s.failed(a, fmt.Sprintf("the handler panicked: %v", panicked))
		}
	}()
	return s.judge(a, s.handle(a.ctx, a.messages()))
}

// failed returns Retry for all, and logs the stack, which is that of the failure when a
// deferred function calls this.
func (s *schedule) failed(a *attempt, reason string) []judgement {
	judged := make([]judgement, len(a.calls))
	for index, call := range a.calls {
		call.message.close()
		judged[index] = Retry{}.judge(clean(reason))
	}
	s.log.failure(slog.LevelError, a.calls[0].message, judged[0], slog.String("stack", string(debug.Stack())))
	return judged
}

// judge returns the judgement of each message.
func (s *schedule) judge(a *attempt, err error) []judgement {
	errs := slices.Repeat(Verdicts{err}, len(a.calls))
	var several Verdicts
	if s.inBatches && errors.As(err, &several) {
		errs = several
		if len(several) != len(a.calls) {
			err = fmt.Errorf("the handler returned %d verdicts on %d messages", len(several), len(a.calls))
			errs = slices.Repeat(Verdicts{err}, len(a.calls))
		}
	}
	judged := make([]judgement, len(errs))
	for index, err := range errs {
		message := a.calls[index].message
		judged[index] = message.close()
		if err != nil {
			judged[index] = judge(err)
		}
		switch judged[index].name {
		case "done":
		case "skip":
			s.log.failure(slog.LevelDebug, message, judged[index])
		default:
			s.log.failure(slog.LevelWarn, message, judged[index])
		}
	}
	return judged
}

// end ends the context of an attempt whose calls are all void, and has it reported if the
// handler does not return.
func (s *schedule) end(a *attempt, err error) {
	a.ctx.cancel(err)
	if a.linger != nil || a.began.IsZero() {
		return
	}
	first := a.calls[0]
	a.linger = time.AfterFunc(maxLinger, func() {
		s.log.Warn("the handler does not return although its context has ended; it holds one of the calls that can run at the same time",
			slog.String("topic", first.place.topic),
			slog.Int("partition", int(first.place.partition)),
			slog.Int64("offset", first.offset),
			slog.Duration("since", maxLinger))
	})
}

// reasonOf returns the error of a context.
func reasonOf(timedOut bool) error {
	if timedOut {
		return context.DeadlineExceeded
	}
	return context.Canceled
}
