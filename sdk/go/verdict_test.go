package penstock

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// nothing is an error whose methods panic when it is a nil pointer.
type nothing struct{ text string }

func (n *nothing) Error() string { return n.text }

func TestEachErrorIsItsVerdict(t *testing.T) {
	var none *nothing
	var noSkip *Skip
	for _, one := range []struct {
		err    error
		name   string
		reason string
	}{
		{Retry{Reason: "busy"}, "retry", "busy"},
		{Skip{Reason: "old"}, "skip", "old"},
		{DeadLetter{Reason: "negative"}, "dead_letter", "negative"},
		{Fail{Reason: "no order"}, "fail", "no order"},
		{&Skip{Reason: "old"}, "skip", "old"},
		{&DeadLetter{Reason: "negative"}, "dead_letter", "negative"},
		{errors.New("busy"), "retry", "busy"},
		{fmt.Errorf("order 7: %w", Fail{Reason: "no amount"}), "fail", "order 7: no amount"},
		{fmt.Errorf("order 7: %w", Skip{}), "skip", "order 7: skip"},
		{errors.Join(errors.New("no"), Skip{Reason: "old"}), "skip", "no\nold"},
		// The outermost counts.
		{Fail{Reason: "no order", Err: Skip{Reason: "old"}}, "fail", "no order: old"},
		{Fail{Err: fs.ErrNotExist}, "fail", "file does not exist"},
		{none, "retry", "the handler returned a *penstock.nothing whose methods panic: runtime error: invalid memory address or nil pointer dereference"},
		{noSkip, "retry", "the handler returned a *penstock.Skip whose methods panic: value method penstock.dev/sdk/go.Skip.Error called using nil *Skip pointer"},
		{errors.New("\xff"), "retry", "\uFFFD"},
		{Skip{Reason: "\xff"}, "skip", "\uFFFD"},
	} {
		if found := judge(one.err); found.name != one.name || found.reason != one.reason {
			t.Errorf("%#v is %s, %q", one.err, found.name, found.reason)
		}
	}
}

func TestVerdictsWorkWithPackageErrors(t *testing.T) {
	wrapped := fmt.Errorf("order 7: %w", Fail{Reason: "unread", Err: fs.ErrNotExist})
	if !errors.Is(wrapped, fs.ErrNotExist) || !errors.Is(wrapped, Fail{}) || errors.Is(wrapped, Skip{}) {
		t.Error("errors.Is")
	}
	var fail Fail
	if !errors.As(wrapped, &fail) || fail.Reason != "unread" {
		t.Error("errors.As")
	}
	for _, one := range []error{Retry{Reason: "a"}, Skip{Reason: "a"}, DeadLetter{Reason: "a"}} {
		if errors.Is(one, Fail{}) || !errors.Is(one, one) {
			t.Errorf("%T", one)
		}
	}
}

func TestTheDelayOfARetryIsInMillisecondsAndNeverNegative(t *testing.T) {
	for delay, milliseconds := range map[time.Duration]uint64{
		0:                       0,
		1500 * time.Millisecond: 1500,
		time.Microsecond:        0,
		-time.Second:            0,
		math.MaxInt64:           9223372036854,
	} {
		for _, retry := range []error{Retry{Delay: delay}, &Retry{Delay: delay}} {
			wrapped := fmt.Errorf("busy: %w", retry)
			if found := judge(wrapped).verdict.GetRetry().DelayMs; found != milliseconds {
				t.Errorf("%v is %d", delay, found)
			}
		}
	}
}

func TestALongReasonIsCutAtACharacter(t *testing.T) {
	for shift := range 4 {
		reason := judge(errors.New(strings.Repeat("a", shift) + strings.Repeat("€", maxReason))).reason
		if len(reason) > maxReason+len("…") || len(reason) < maxReason-utf8.UTFMax || strings.Contains(reason, "\uFFFD") {
			t.Errorf("%d bytes, ending in %q", len(reason), reason[len(reason)-8:])
		}
	}
}
