package penstock

import (
	"context"
	"sync"
	"time"
)

// attemptContext is the context of a call. Its deadline can move, which the standard
// library's contexts can't. The timer starts when somebody waits for the end.
type attemptContext struct {
	// For its values only: the stream's end cancels the calls one by one.
	parent context.Context

	mutex    sync.Mutex
	deadline time.Time // zero: none
	err      error
	done     chan struct{} // made at the first Done
	timer    *time.Timer   // runs if somebody waits and there is a deadline
	after    map[*func()]struct{}
}

func newAttemptContext(parent context.Context) *attemptContext {
	return &attemptContext{parent: parent}
}

func (c *attemptContext) Deadline() (time.Time, bool) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	return c.deadline, !c.deadline.IsZero()
}

func (c *attemptContext) Done() <-chan struct{} {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if c.done == nil {
		c.done = make(chan struct{})
		if c.err != nil {
			close(c.done)
		}
	}
	c.watch()
	return c.done
}

func (c *attemptContext) Err() error {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if c.err == nil && !c.deadline.IsZero() && !time.Now().Before(c.deadline) {
		c.end(context.DeadlineExceeded)
	}
	return c.err
}

func (c *attemptContext) Value(key any) any { return c.parent.Value(key) }

// AfterFunc lets package context derive contexts without a goroutine for each.
func (c *attemptContext) AfterFunc(f func()) (stop func() bool) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if c.err != nil {
		go f()
		return func() bool { return false }
	}
	if c.after == nil {
		c.after = map[*func()]struct{}{}
	}
	c.after[&f] = struct{}{}
	c.watch()
	return func() bool {
		c.mutex.Lock()
		defer c.mutex.Unlock()
		_, waits := c.after[&f]
		delete(c.after, &f)
		return waits
	}
}

// cancel ends the context, unless it has ended.
func (c *attemptContext) cancel(err error) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if c.err == nil {
		c.end(err)
	}
}

// setDeadline moves the deadline, unless the context has ended.
func (c *attemptContext) setDeadline(deadline time.Time) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if c.err != nil {
		return
	}
	c.deadline = deadline
	if c.timer != nil {
		c.timer.Reset(time.Until(deadline))
	} else if c.done != nil || len(c.after) > 0 {
		c.watch()
	}
}

func (c *attemptContext) watch() {
	if c.err == nil && c.timer == nil && !c.deadline.IsZero() {
		// Err ends the context if the deadline did not move meanwhile.
		c.timer = time.AfterFunc(time.Until(c.deadline), func() { _ = c.Err() })
	}
}

func (c *attemptContext) end(err error) {
	c.err = err
	if c.timer != nil {
		c.timer.Stop()
	}
	if c.done != nil {
		close(c.done)
	}
	for f := range c.after {
		go (*f)()
	}
	c.after = nil
}
