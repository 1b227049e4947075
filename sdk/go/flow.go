package penstock

import (
	"math"
	"time"
)

// The time in which a handler should finish the messages that it holds.
const horizon = 2 * time.Second

// The time over which the rate is measured, of time with work.
const measured = 250 * time.Millisecond

// flow decides how many credits to grant: so many that the messages in the handler can be
// finished within the horizon, at the rate of late. It starts with one for each call that
// can run, and at most doubles with the messages that were finished.
type flow struct {
	// The number of calls that can run at the same time.
	floor, window int
	horizon       time.Duration

	granted, returned int
	finished          int

	// Of the current measurement. Time without work does not count: a quiet minute says
	// nothing about the rate.
	busySince time.Time // zero: idle
	busy      time.Duration
	count     int
	// In messages per second; zero until the first measurement is complete.
	rate float64
}

func newFlow(slots, window int, wait time.Duration) flow {
	f := flow{floor: min(slots, window), window: window, horizon: horizon}
	if wait > 0 {
		f.horizon = min(f.horizon, wait/4)
	}
	return f
}

// work notes whether there is work from now on.
func (f *flow) work(is bool, now time.Time) {
	switch {
	case is && f.busySince.IsZero():
		f.busySince = now
	case !is && !f.busySince.IsZero():
		f.busy += now.Sub(f.busySince)
		f.busySince = time.Time{}
	}
}

// finish notes that messages were finished.
func (f *flow) finish(count int, now time.Time) {
	f.finished += count
	f.count += count
	if !f.busySince.IsZero() {
		f.busy += now.Sub(f.busySince)
		f.busySince = now
	}
	if f.busy < measured {
		return
	}
	rate := float64(f.count) / f.busy.Seconds()
	if f.rate > 0 {
		rate = (f.rate + rate) / 2
	}
	f.rate, f.busy, f.count = rate, 0, 0
}

// giveBack returns the credits of deliveries, whatever became of them.
func (f *flow) giveBack(count int) { f.returned += count }

// grant returns the number of credits to grant now.
func (f *flow) grant() uint32 {
	// The credits that are left, and the messages in the handler.
	open := f.granted - f.returned
	more := max(0, f.target()-open)
	f.granted += more
	return uint32(more)
}

func (f *flow) target() int {
	rate := f.rate
	if rate == 0 && f.count > 0 {
		rate = float64(f.count) / max(f.busy, time.Microsecond).Seconds()
	}
	wanted := math.Ceil(rate * f.horizon.Seconds())
	// The first few are too few to tell.
	known := float64(f.floor) + 2*float64(f.finished)
	return max(f.floor, int(min(wanted, known, float64(f.window))))
}
