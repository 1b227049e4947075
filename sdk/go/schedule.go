package penstock

import (
	"container/list"
	"context"
	"fmt"
	"sync"
	"time"

	"penstock.dev/sdk/go/handlerv1"
)

// An average call takes at least this long, or it does not wait until the report that it
// begins is written.
const shortCall = 200 * time.Microsecond

// The number of calls before the average is known.
const knownCalls = 1000

// Why messages are released.
const (
	unsettled = "not attempted: an earlier message in order is unsettled"
	expired   = "not attempted: it waited in the handler for too long"
	stopping  = "not attempted: the handler stops"
)

// schedule decides which deliveries of a stream begin when. Messages wait in lines: a line
// is one key, a message without a key, or in mode InOrder the whole stream. At most one
// attempt of a line runs at a time. A line that can begin is in ready.
//
// Its mutex is taken before those of answers, messages and contexts.
type schedule struct {
	order               handlerv1.Order
	slots, batchSize    int
	inBatches           bool
	timeout, maxTimeout time.Duration // zero: none
	wait                time.Duration // zero: none
	handle              func(context.Context, []*Message) error
	// The stream's.
	ctx     context.Context
	answers *answers
	log     *log
	settled func(*Message, string)

	mutex   sync.Mutex
	work    sync.Cond
	batches map[uint64]*batch
	lines   map[string]*line
	ready   list.List // of *line
	running map[*attempt]struct{}
	// The number of calls that wait, and that run.
	waiting, active int
	// Goroutines, and those of them that wait for work.
	workers, idlers int
	flow            flow
	calls           int
	average         time.Duration
	// Whether calls may begin: no call of an earlier stream runs.
	isOpen bool
	// Nothing more begins at all, or only what waits.
	closed, draining bool
	winding          sync.Once
	// Is closed when the last call of a schedule that ends is over.
	idle    chan struct{}
	endIdle func()
	// Is closed then, or when the time of the calls is over.
	quiet chan struct{}
	// For the hook, which is called without the mutex.
	events []event
}

type event struct {
	message *Message
	verdict string
}

// unlock calls the hook for what happened.
func (s *schedule) unlock() {
	events := s.events
	s.events = nil
	s.mutex.Unlock()
	for _, event := range events {
		s.log.guard("Hooks.Settled", func() { s.settled(event.message, event.verdict) })
	}
}

// add takes a batch that the runtime sent.
func (s *schedule) add(sent *handlerv1.Batch, messages []*Message) {
	if len(messages) == 0 {
		return
	}
	now := time.Now()
	b := &batch{schedule: s, first: sent.FirstId, calls: make([]call, len(messages)), open: len(messages)}
	until := time.Duration(-1)
	if s.wait > 0 {
		// By a clock that does not jump.
		until = s.wait
	}
	if sent.BeginByMs > 0 {
		b.beginBy = time.UnixMilli(sent.BeginByMs)
		if left := max(0, b.beginBy.Sub(now)); until < 0 || left < until {
			until = left
		}
	}
	s.mutex.Lock()
	defer s.unlock()
	if s.closed || s.batches[b.first] != nil {
		return
	}
	s.batches[b.first] = b
	s.flow.work(true, now)
	for index, message := range messages {
		c := &b.calls[index]
		*c = call{id: b.first + uint64(index), message: message, offset: message.Offset, batch: b, line: s.lineOf(message)}
		c.place = place{topic: message.Topic, partition: message.Partition, key: string(message.Key), hasKey: message.Key != nil}
		message.call = c
		c.element = c.line.queue.PushBack(c)
		s.waiting++
		if c.line.ready == nil && !c.line.busy {
			s.offer(c.line)
			s.wake()
		}
	}
	if until >= 0 {
		b.expiry = time.AfterFunc(until, func() { s.expire(b) })
	}
}

func (s *schedule) lineOf(message *Message) *line {
	name := string(message.Key)
	switch {
	case s.order == handlerv1.Order_ORDER_BATCH:
		name = ""
	case message.Key == nil:
		return &line{}
	}
	found := s.lines[name]
	if found == nil {
		found = &line{name: name, named: true}
		s.lines[name] = found
	}
	return found
}

// offer makes a line ready, if there is something to begin.
func (s *schedule) offer(line *line) {
	if line.busy || line.ready != nil {
		return
	}
	if line.queue.Len() > 0 {
		line.ready = s.ready.PushBack(line)
	} else if line.named {
		delete(s.lines, line.name)
	}
}

// wake has one more goroutine look for work.
func (s *schedule) wake() {
	switch {
	case !s.isOpen:
	case s.idlers > 0:
		s.idlers--
		s.work.Signal()
	case s.workers < s.slots:
		s.workers++
		go s.worker()
	}
}

// next returns the next attempt, and waits for it; nil at the end.
func (s *schedule) next() *attempt {
	s.mutex.Lock()
	defer s.unlock()
	for !s.closed {
		now, returned := time.Now(), s.flow.returned
		calls := s.takeReady(now)
		if s.flow.returned != returned {
			s.grant(now)
		}
		if len(calls) > 0 {
			return s.begin(calls, now)
		}
		if s.draining && s.waiting == 0 {
			break
		}
		if len(s.events) > 0 {
			s.unlock()
			s.mutex.Lock()
			continue
		}
		s.idlers++
		s.work.Wait()
	}
	return nil
}

// takeReady takes the calls of an attempt out of their lines.
func (s *schedule) takeReady(now time.Time) []*call {
	var calls []*call
	for len(calls) < s.batchSize && s.ready.Len() > 0 {
		line := s.ready.Front().Value.(*line)
		s.ready.Remove(line.ready)
		line.ready = nil
		most := s.batchSize - len(calls)
		if s.order == handlerv1.Order_ORDER_KEY {
			most = 1
		}
		taken := s.takeOf(line, most, now)
		calls = append(calls, taken...)
		line.busy = len(taken) > 0
		s.offer(line)
	}
	return calls
}

// takeOf takes calls from the head of a line, and releases those that must not begin.
func (s *schedule) takeOf(line *line, most int, now time.Time) []*call {
	var calls []*call
	for len(calls) < most && line.queue.Len() > 0 {
		c := line.queue.Front().Value.(*call)
		if s.order == handlerv1.Order_ORDER_BATCH && len(calls) > 0 && calls[0].batch != c.batch {
			break
		}
		if reason := s.refusal(c, now); reason != "" {
			s.release(c, reason)
			continue
		}
		s.unqueue(c)
		calls = append(calls, c)
	}
	return calls
}

// refusal returns why a call must not begin; empty if it may.
func (s *schedule) refusal(c *call, now time.Time) string {
	b := c.batch
	if len(b.stopped) > 0 {
		if here, inOrder := s.orderOf(c); inOrder {
			if _, is := b.stopped[here]; is {
				return unsettled
			}
		}
	}
	if !b.beginBy.IsZero() && now.After(b.beginBy) {
		return expired
	}
	return ""
}

// begin makes an attempt of calls that wait.
func (s *schedule) begin(calls []*call, now time.Time) *attempt {
	a := &attempt{calls: calls, ctx: newAttemptContext(s.ctx)}
	for _, c := range calls {
		c.state, c.attempt = running, a
	}
	s.active += len(calls)
	s.running[a] = struct{}{}
	a.careful = s.inBatches || s.calls < knownCalls || s.average >= shortCall || calls[0].message.Attempt > 1
	if !a.careful {
		s.startTime(a, now)
	}
	return a
}

// start starts the time of an attempt whose report is sent. It returns false if its calls
// are void.
func (s *schedule) start(a *attempt) bool {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if a.void == len(a.calls) {
		return false
	}
	s.startTime(a, time.Now())
	return true
}

func (s *schedule) startTime(a *attempt, now time.Time) {
	a.began = now
	if s.timeout > 0 {
		a.ctx.setDeadline(now.Add(s.timeout))
	}
}

// finish takes the judgements of an attempt; none if the handler was not called.
func (s *schedule) finish(a *attempt, judged []judgement) {
	now := time.Now()
	a.ctx.cancel(context.Canceled)
	s.mutex.Lock()
	defer s.unlock()
	if a.linger != nil {
		a.linger.Stop()
	}
	if judged != nil {
		s.calls++
		s.average += (now.Sub(a.began) - s.average) / 32
	}
	delete(s.running, a)
	s.active -= len(a.calls)
	behind := false
	for index, c := range a.calls {
		c.line.busy = false
		switch {
		case c.void || judged == nil:
			s.over(c, nil)
		case behind:
			// A handler of batches has gone on, or not; the message comes again.
			released := release(unsettled)
			s.over(c, &released)
		default:
			s.over(c, &judged[index])
		}
		if s.order == handlerv1.Order_ORDER_BATCH {
			behind = behind || c.void || judged == nil || !judged[index].passes()
		}
	}
	for index, c := range a.calls {
		s.offer(c.line)
		// This goroutine takes one of them itself.
		if index > 0 && c.line.ready != nil {
			s.wake()
		}
	}
	if judged != nil {
		s.flow.finish(len(a.calls), now)
	}
	s.grant(now)
}

// over ends a call, with a judgement if the runtime wants one.
func (s *schedule) over(c *call, judged *judgement) {
	c.state = over
	if judged == nil || !judged.passes() {
		s.stopBehind(c)
	}
	if judged != nil {
		s.answers.settle(c.id, *judged)
		if s.settled != nil {
			s.events = append(s.events, event{c.message, judged.name})
		}
	}
	s.flow.giveBack(1)
	c.batch.open--
	if c.batch.open == 0 {
		delete(s.batches, c.batch.first)
		if c.batch.expiry != nil {
			c.batch.expiry.Stop()
		}
	}
	if (s.closed || s.draining) && s.waiting+s.active == 0 {
		s.work.Broadcast()
		s.endIdle()
	}
}

// stopBehind keeps what is behind a call in its batch from beginning.
func (s *schedule) stopBehind(c *call) {
	here, inOrder := s.orderOf(c)
	if !inOrder {
		return
	}
	if c.batch.stopped == nil {
		c.batch.stopped = map[place]struct{}{}
	}
	c.batch.stopped[here] = struct{}{}
}

// orderOf returns the place of a call for its order, and whether it is in order with any.
func (s *schedule) orderOf(c *call) (place, bool) {
	switch s.order {
	case handlerv1.Order_ORDER_BATCH:
		return place{}, true
	case handlerv1.Order_ORDER_KEY:
		return c.place, c.place.hasKey
	}
	return place{}, false
}

// unqueue takes a call that waits out of its line.
func (s *schedule) unqueue(c *call) {
	c.line.queue.Remove(c.element)
	c.element = nil
	s.waiting--
}

// release gives back a call that waits.
func (s *schedule) release(c *call, reason string) {
	s.unqueue(c)
	released := release(reason)
	s.over(c, &released)
}

// grant grants the credits that the flow allows now.
func (s *schedule) grant(now time.Time) {
	s.flow.work(s.waiting+s.active > 0, now)
	if s.isOpen && !s.closed && !s.draining {
		s.answers.grant(s.flow.grant())
	}
}

// open lets calls begin, and grants the first credits.
func (s *schedule) open() {
	s.mutex.Lock()
	defer s.unlock()
	s.isOpen = true
	s.grant(time.Now())
	for range s.ready.Len() {
		s.wake()
	}
}

// extend moves the deadline of a call's attempt, and reports that.
func (s *schedule) extend(c *call, more time.Duration) error {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if c.state != running || c.void || c.attempt.ctx.Err() != nil {
		return ErrSettled
	}
	if s.timeout == 0 {
		return nil
	}
	now := time.Now()
	most := max(0, c.attempt.began.Add(max(s.timeout, s.maxTimeout)).Sub(now))
	given := min(more, most)
	if deadline, _ := c.attempt.ctx.Deadline(); now.Add(given).After(deadline) {
		c.attempt.ctx.setDeadline(now.Add(given))
		s.answers.extend(c.id, given)
	}
	if given < more {
		return fmt.Errorf("%w: %v of %v are left", ErrExtension, most, more)
	}
	return nil
}
