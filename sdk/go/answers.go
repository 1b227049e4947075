package penstock

import (
	"sync"

	"penstock.dev/sdk/go/handlerv1"
)

// answers gathers verdicts and credits until they are sent.
type answers struct {
	mutex   sync.Mutex
	next    *handlerv1.FromHandler
	changed chan struct{}
}

func newAnswers() *answers {
	return &answers{next: &handlerv1.FromHandler{}, changed: make(chan struct{}, 1)}
}

// grant grants credits.
func (a *answers) grant(credits uint32) {
	a.mutex.Lock()
	a.next.Credits += credits
	a.mutex.Unlock()
	a.wake()
}

// settle gives a verdict, and the message's credit anew.
func (a *answers) settle(id uint64, err error) {
	a.mutex.Lock()
	a.next.Credits++
	if last := a.last(); err == nil && last != nil && last.Outcome == done && last.FirstId+last.Count == id {
		last.Count++
	} else {
		a.next.Verdicts = append(a.next.Verdicts, verdict(id, err))
	}
	a.mutex.Unlock()
	a.wake()
}

// settleWith gives the verdict done with records to produce, and the message's credit anew.
func (a *answers) settleWith(id uint64, produce []*handlerv1.Record) {
	a.mutex.Lock()
	a.next.Credits++
	a.next.Verdicts = append(a.next.Verdicts, &handlerv1.Verdict{
		FirstId: id,
		Count:   1,
		Outcome: &handlerv1.Verdict_Done{Done: &handlerv1.Done{Produce: produce}},
	})
	a.mutex.Unlock()
	a.wake()
}

func (a *answers) last() *handlerv1.Verdict {
	if len(a.next.Verdicts) == 0 {
		return nil
	}
	return a.next.Verdicts[len(a.next.Verdicts)-1]
}

func (a *answers) wake() {
	select {
	case a.changed <- struct{}{}:
	default:
	}
}

// take is what is to be sent; nil if there is nothing.
func (a *answers) take() *handlerv1.FromHandler {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	if a.next.Credits == 0 && len(a.next.Verdicts) == 0 {
		return nil
	}
	taken := a.next
	a.next = &handlerv1.FromHandler{}
	return taken
}
