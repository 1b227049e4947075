package penstock

import (
	"errors"
	"strings"
	"time"

	"penstock.dev/sdk/go/handlerv1"
)

// Retry is the error of a message that may pass: it is tried again while attempts are
// left. Any error that is none of these verdicts counts as one.
type Retry struct {
	Reason string
	// Wait at least so long.
	Delay time.Duration
}

// Skip is the error of a message that is not to be handled: it is logged, counted and
// left behind.
type Skip struct{ Reason string }

// DeadLetter is the error of a message that is to go to the dead-letter topic at once.
type DeadLetter struct{ Reason string }

// Fail is the error of a message that will not pass: onFailure says what follows.
type Fail struct{ Reason string }

func (e Retry) Error() string      { return e.Reason }
func (e Skip) Error() string       { return e.Reason }
func (e DeadLetter) Error() string { return e.Reason }
func (e Fail) Error() string       { return e.Reason }

var done = &handlerv1.Verdict_Done{Done: &handlerv1.Done{}}

// verdict is that on one delivery. It shows the whole text of an error that wraps one of
// ours.
func verdict(id uint64, err error) *handlerv1.Verdict {
	verdict := &handlerv1.Verdict{FirstId: id, Count: 1}
	if err == nil {
		verdict.Outcome = done
		return verdict
	}
	// Any other text would break the stream, for all of its messages.
	reason := strings.ToValidUTF8(err.Error(), "\uFFFD")
	switch {
	case is[Skip](err):
		verdict.Outcome = &handlerv1.Verdict_Skip{Skip: &handlerv1.Skip{Reason: reason}}
	case is[DeadLetter](err):
		verdict.Outcome = &handlerv1.Verdict_DeadLetter{DeadLetter: &handlerv1.DeadLetter{Reason: reason}}
	case is[Fail](err):
		verdict.Outcome = &handlerv1.Verdict_Fail{Fail: &handlerv1.Fail{Reason: reason}}
	default:
		retry, _ := find[Retry](err)
		verdict.Outcome = &handlerv1.Verdict_Retry{Retry: &handlerv1.Retry{
			Reason:  reason,
			DelayMs: uint64(max(0, retry.Delay.Milliseconds())),
		}}
	}
	return verdict
}

// pointer is an error that is given by pointer.
type pointer[E error] interface {
	*E
	error
}

// find is the error of a kind that err is or wraps, given by value or by pointer.
func find[E error, P pointer[E]](err error) (E, bool) {
	var value E
	if errors.As(err, &value) {
		return value, true
	}
	var given P
	if errors.As(err, &given) && given != nil {
		return *given, true
	}
	return value, false
}

func is[E error, P pointer[E]](err error) bool {
	_, found := find[E, P](err)
	return found
}
