package penstock

import (
	"context"
	"log/slog"
	"time"

	"penstock.dev/sdk/go/handlerv1"
)

// expire releases the calls of a batch that wait when its time to begin is over.
func (s *schedule) expire(b *batch) {
	s.mutex.Lock()
	defer s.unlock()
	s.releaseWaiting(b, expired)
	s.grant(time.Now())
}

func (s *schedule) releaseWaiting(b *batch, reason string) {
	for index := range b.calls {
		if c := &b.calls[index]; c.state == waiting && c.element != nil {
			s.release(c, reason)
			s.tidy(c.line)
		}
	}
}

// tidy forgets a line that is empty.
func (s *schedule) tidy(line *line) {
	if line.queue.Len() == 0 && line.ready != nil {
		s.ready.Remove(line.ready)
		line.ready = nil
	}
	s.offer(line)
}

// cancel withdraws deliveries. The context ends for those that run.
func (s *schedule) cancel(cancel *handlerv1.Cancel) {
	reason := reasonOf(cancel.Reason == handlerv1.Cancel_REASON_TIMED_OUT)
	s.mutex.Lock()
	defer s.unlock()
	for _, deliveries := range cancel.Deliveries {
		for _, b := range s.batches {
			s.cancelOf(b, deliveries, reason)
		}
	}
	s.grant(time.Now())
}

func (s *schedule) cancelOf(b *batch, deliveries *handlerv1.Range, reason error) {
	first, length := deliveries.FirstId, uint64(len(b.calls))
	if first >= b.first+length {
		return
	}
	skipped := max(first, b.first) - b.first
	count := deliveries.Count - min(deliveries.Count, b.first-min(first, b.first))
	for index := skipped; index < length && index-skipped < count; index++ {
		switch c := &b.calls[index]; c.state {
		case waiting:
			s.unqueue(c)
			s.over(c, nil)
			s.tidy(c.line)
		case running:
			s.void(c, reason)
		}
	}
}

func (s *schedule) void(c *call, reason error) {
	if c.void {
		return
	}
	c.void = true
	c.attempt.void++
	if c.attempt.void == len(c.attempt.calls) {
		s.end(c.attempt, reason)
	}
}

// stop releases what waits and begins nothing more.
func (s *schedule) stop() {
	s.mutex.Lock()
	defer s.unlock()
	s.closed = true
	for _, b := range s.batches {
		s.releaseWaiting(b, stopping)
	}
	s.wind()
}

// drain ends the schedule once what waits was handled.
func (s *schedule) drain() {
	s.mutex.Lock()
	defer s.unlock()
	s.draining = true
	s.wind()
}

// abort ends the schedule of a stream that is lost: nobody wants its verdicts.
func (s *schedule) abort() {
	s.mutex.Lock()
	defer s.unlock()
	s.closed = true
	for _, b := range s.batches {
		s.cancelOf(b, &handlerv1.Range{FirstId: b.first, Count: uint64(len(b.calls))}, context.Canceled)
	}
	s.wind()
}

// wind lets goroutines without work end, and has the end awaited.
func (s *schedule) wind() {
	s.work.Broadcast()
	s.idlers = 0
	if s.waiting+s.active == 0 {
		s.endIdle()
	}
	s.winding.Do(func() { go s.awaitQuiet() })
}

// awaitQuiet waits until no call is left, or the time of those that are is over: the
// runtime has cancelled them by then.
func (s *schedule) awaitQuiet() {
	defer close(s.quiet)
	for {
		wait := time.Second
		if deadline, known := s.lastDeadline(); known {
			wait = time.Until(deadline)
		}
		if wait <= 0 {
			s.log.Error("calls did not return although their time is over", slog.Int("calls", s.left()))
			return
		}
		timer := time.NewTimer(wait)
		select {
		case <-s.idle:
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

// lastDeadline returns the time at which that of every call is over, if it is known.
func (s *schedule) lastDeadline() (time.Time, bool) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	var last time.Time
	for a := range s.running {
		deadline, known := a.ctx.Deadline()
		if !known {
			return last, false
		}
		if deadline.After(last) {
			last = deadline
		}
	}
	return last, s.waiting == 0 && s.active > 0
}

// left returns the number of calls that run.
func (s *schedule) left() int {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return s.active
}
