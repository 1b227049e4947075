package penstock

import (
	"testing"
	"time"
)

// simulate has calls of a duration handled, as many at a time as there are slots, for as
// long as given; it returns the time then.
func simulate(f *flow, slots int, call, total time.Duration, now time.Time) time.Time {
	f.work(true, now)
	for end := now.Add(total); now.Before(end); {
		now = now.Add(call)
		count := min(slots, open(f))
		f.giveBack(count)
		f.finish(count, now)
		f.grant()
	}
	return now
}

func open(f *flow) int { return f.granted - f.returned }

func TestCreditsFollowTheRate(t *testing.T) {
	for _, one := range []struct {
		call        time.Duration
		slots       int
		least, most int
	}{
		{100 * time.Microsecond, 16, 2000, 2000},
		{5 * time.Millisecond, 16, 2000, 2000},
		{50 * time.Millisecond, 16, 500, 700},
		{50 * time.Millisecond, 1, 30, 50},
		{500 * time.Millisecond, 16, 50, 80},
		{10 * time.Second, 16, 16, 16},
		{10 * time.Second, 1, 1, 1},
	} {
		f := newFlow(one.slots, 2000, time.Minute)
		if first := f.grant(); int(first) != one.slots {
			t.Errorf("%d credits at first", first)
		}
		simulate(&f, one.slots, one.call, max(10*time.Second, 5*one.call), time.Now())
		if open(&f) < one.least || open(&f) > one.most {
			t.Errorf("%d calls of %v: %d messages at a time", one.slots, one.call, open(&f))
		}
	}
}

func TestFewCallsSayLittleAboutTheRate(t *testing.T) {
	f := newFlow(4, 2000, 0)
	f.grant()
	now := time.Now()
	f.work(true, now)
	f.giveBack(1)
	f.finish(1, now.Add(time.Microsecond))
	f.grant()
	if open(&f) != 4+2 {
		t.Error(open(&f))
	}
}

func TestAQuietMinuteChangesNothing(t *testing.T) {
	f := newFlow(16, 2000, 0)
	f.grant()
	now := simulate(&f, 16, 5*time.Millisecond, 10*time.Second, time.Now())
	f.work(false, now)
	simulate(&f, 16, 5*time.Millisecond, time.Second, now.Add(time.Minute))
	if open(&f) != 2000 {
		t.Error(open(&f))
	}
}

func TestAStallTakesCreditsAwayOnlyUntilItIsOver(t *testing.T) {
	f := newFlow(16, 2000, 0)
	f.grant()
	now := simulate(&f, 16, 5*time.Millisecond, 10*time.Second, time.Now())
	now = simulate(&f, 16, 16*time.Second, 32*time.Second, now)
	if open(&f) > 2000 {
		t.Error(open(&f))
	}
	simulate(&f, 16, 5*time.Millisecond, 3*time.Second, now)
	if open(&f) != 2000 {
		t.Error(open(&f))
	}
}

func TestCreditsStayWithinTheWindowAndTheTimeToWait(t *testing.T) {
	f := newFlow(16, 8, 0)
	f.grant()
	simulate(&f, 16, time.Millisecond, time.Second, time.Now())
	if open(&f) != 8 {
		t.Errorf("%d in a window of 8", open(&f))
	}
	f = newFlow(1, 2000, 400*time.Millisecond)
	f.grant()
	simulate(&f, 1, 10*time.Millisecond, 2*time.Second, time.Now())
	if open(&f) > 11 {
		t.Errorf("%d messages wait longer than a quarter of 400 ms", open(&f))
	}
}
