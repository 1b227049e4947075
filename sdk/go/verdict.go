package penstock

import (
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"penstock.dev/sdk/go/handlerv1"
)

// The maximum length of a reason in bytes. The rest of a longer one is cut off.
const maxReason = 16 << 10

// Retry is the error of an attempt that failed in a way that may pass. The runtime tries
// again while spec.delivery leaves attempts. Any error that is no verdict counts as Retry.
type Retry struct {
	Reason string
	// The minimum delay before the next attempt; backoff.max limits it.
	Delay time.Duration
	// The cause, if any. It is what Unwrap returns.
	Err error
}

// Skip is the error of a message that is not to be handled. The runtime logs it, counts
// it as skipped, and commits past it.
type Skip struct {
	Reason string
	// The cause, if any. It is what Unwrap returns.
	Err error
}

// DeadLetter is the error of a message that goes to the dead-letter topic at once. If the
// manifest names no such topic, it is the same as [Fail].
type DeadLetter struct {
	Reason string
	// The cause, if any. It is what Unwrap returns.
	Err error
}

// Fail is the error of a message that can't be handled, where another attempt would not
// help. The manifest's spec.delivery.onFailure decides what follows.
type Fail struct {
	Reason string
	// The cause, if any. It is what Unwrap returns.
	Err error
}

// Error returns the reason and the cause.
func (e Retry) Error() string { return text("retry", e.Reason, e.Err) }

// Error returns the reason and the cause.
func (e Skip) Error() string { return text("skip", e.Reason, e.Err) }

// Error returns the reason and the cause.
func (e DeadLetter) Error() string { return text("dead letter", e.Reason, e.Err) }

// Error returns the reason and the cause.
func (e Fail) Error() string { return text("fail", e.Reason, e.Err) }

// Unwrap returns the cause.
func (e Retry) Unwrap() error { return e.Err }

// Unwrap returns the cause.
func (e Skip) Unwrap() error { return e.Err }

// Unwrap returns the cause.
func (e DeadLetter) Unwrap() error { return e.Err }

// Unwrap returns the cause.
func (e Fail) Unwrap() error { return e.Err }

// Is returns true if the target is Retry{}, which stands for any Retry.
func (e Retry) Is(target error) bool { return target == Retry{} }

// Is returns true if the target is Skip{}, which stands for any Skip.
func (e Skip) Is(target error) bool { return target == Skip{} }

// Is returns true if the target is DeadLetter{}, which stands for any DeadLetter.
func (e DeadLetter) Is(target error) bool { return target == DeadLetter{} }

// Is returns true if the target is Fail{}, which stands for any Fail.
func (e Fail) Is(target error) bool { return target == Fail{} }

func text(verdict, reason string, err error) string {
	switch {
	case reason == "" && err == nil:
		return verdict
	case reason == "":
		return err.Error()
	case err == nil:
		return reason
	}
	return reason + ": " + err.Error()
}

// kind is one of the errors above. Pointers to them have its methods too.
type kind interface {
	error
	judge(reason string) judgement
}

// judgement is an outcome without the delivery that it is of.
type judgement struct {
	verdict *handlerv1.Verdict
	// name is one of the names of the contract.
	name   string
	reason string
}

func (e Retry) judge(reason string) judgement {
	delay := uint64(max(0, e.Delay.Milliseconds()))
	outcome := &handlerv1.Verdict_Retry{Retry: &handlerv1.Retry{Reason: reason, DelayMs: delay}}
	return judgement{&handlerv1.Verdict{Outcome: outcome}, "retry", reason}
}

func (e Skip) judge(reason string) judgement {
	outcome := &handlerv1.Verdict_Skip{Skip: &handlerv1.Skip{Reason: reason}}
	return judgement{&handlerv1.Verdict{Outcome: outcome}, "skip", reason}
}

func (e DeadLetter) judge(reason string) judgement {
	outcome := &handlerv1.Verdict_DeadLetter{DeadLetter: &handlerv1.DeadLetter{Reason: reason}}
	return judgement{&handlerv1.Verdict{Outcome: outcome}, "dead_letter", reason}
}

func (e Fail) judge(reason string) judgement {
	outcome := &handlerv1.Verdict_Fail{Fail: &handlerv1.Fail{Reason: reason}}
	return judgement{&handlerv1.Verdict{Outcome: outcome}, "fail", reason}
}

// done has no verdict: such deliveries share one.
var done = judgement{name: "done"}

func doneWith(records []*handlerv1.Record) judgement {
	outcome := &handlerv1.Verdict_Done{Done: &handlerv1.Done{Produce: records}}
	return judgement{&handlerv1.Verdict{Outcome: outcome}, "done", ""}
}

func release(reason string) judgement {
	outcome := &handlerv1.Verdict_Release{Release: &handlerv1.Release{Reason: reason}}
	return judgement{&handlerv1.Verdict{Outcome: outcome}, "release", reason}
}

// passes returns true if the messages behind one with this judgement may begin.
func (j judgement) passes() bool { return j.name == "done" || j.name == "skip" }

// judge returns the judgement of an error that is not nil: that of the outermost verdict
// in its tree, with the whole text of the error. An error whose methods panic is a Retry.
func judge(err error) (judged judgement) {
	defer func() {
		if panicked := recover(); panicked != nil {
			reason := fmt.Sprintf("the handler returned a %T whose methods panic: %v", err, panicked)
			judged = Retry{}.judge(clean(reason))
		}
	}()
	reason := clean(err.Error())
	var found kind
	if errors.As(err, &found) {
		return found.judge(reason)
	}
	return Retry{}.judge(reason)
}

// clean returns a text that can be sent: any other would break the stream for all of its
// messages.
func clean(reason string) string {
	if len(reason) <= maxReason {
		return strings.ToValidUTF8(reason, "\uFFFD")
	}
	end := maxReason
	for end > maxReason-utf8.UTFMax && !utf8.RuneStart(reason[end]) {
		end--
	}
	return strings.ToValidUTF8(reason[:end], "\uFFFD") + "…"
}
