package penstock

import (
	"maps"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"penstock.dev/sdk/go/handlerv1"
)

// The size at which an answer is cut, in bytes.
const maxAnswer = 1 << 20

// answers gathers parts of the handler's answers until they are sent. Its mutex is taken
// last of all.
type answers struct {
	// Has an item when there is something to send.
	changed chan struct{}

	mutex      sync.Mutex
	welcome    *handlerv1.Welcome
	credits    uint32
	begun      map[uint64]struct{}
	extensions []*handlerv1.Extension
	done       []uint64
	verdicts   []*handlerv1.Verdict
	// Closed once what is gathered now was sent; nil while nobody waits for that.
	sent chan struct{}
}

func newAnswers(welcome *handlerv1.Welcome) *answers {
	return &answers{
		changed: make(chan struct{}, 1),
		welcome: welcome,
		begun:   map[uint64]struct{}{},
	}
}

// grant grants credits.
func (a *answers) grant(credits uint32) {
	if credits == 0 {
		return
	}
	a.mutex.Lock()
	a.credits += credits
	a.mutex.Unlock()
	a.wake()
}

// begin reports that calls begin. With confirm it returns a channel that is closed once
// the report was sent.
func (a *answers) begin(calls []*call, confirm bool) <-chan struct{} {
	a.mutex.Lock()
	for _, call := range calls {
		a.begun[call.id] = struct{}{}
	}
	if confirm && a.sent == nil {
		a.sent = make(chan struct{})
	}
	sent := a.sent
	a.mutex.Unlock()
	a.wake()
	return sent
}

// settle gives a verdict. It implies begun, unless it is a release.
func (a *answers) settle(id uint64, judged judgement) {
	a.mutex.Lock()
	delete(a.begun, id)
	if judged.verdict == nil {
		a.done = append(a.done, id)
	} else {
		judged.verdict.FirstId, judged.verdict.Count = id, 1
		a.verdicts = append(a.verdicts, judged.verdict)
	}
	a.mutex.Unlock()
	a.wake()
}

// extend gives a delivery that has begun more time.
func (a *answers) extend(id uint64, more time.Duration) {
	a.mutex.Lock()
	a.extensions = append(a.extensions, &handlerv1.Extension{
		Deliveries: &handlerv1.Range{FirstId: id, Count: 1},
		TimeMs:     uint64(more.Milliseconds()),
	})
	a.mutex.Unlock()
	a.wake()
}

func (a *answers) wake() {
	select {
	case a.changed <- struct{}{}:
	default:
	}
}

// take returns the messages to send, cut to size, and the channel to close then, if
// somebody waits.
func (a *answers) take() ([]*handlerv1.FromHandler, chan struct{}) {
	a.mutex.Lock()
	first := &handlerv1.FromHandler{
		Welcome:    a.welcome,
		Begun:      ranges(slices.Sorted(maps.Keys(a.begun))),
		Extensions: a.extensions,
	}
	credits, done, verdicts, sent := a.credits, a.done, a.verdicts, a.sent
	a.welcome, a.credits, a.extensions, a.done, a.verdicts, a.sent = nil, 0, nil, nil, nil, nil
	clear(a.begun)
	a.mutex.Unlock()

	slices.Sort(done)
	for _, ids := range ranges(done) {
		verdicts = append(verdicts, &handlerv1.Verdict{
			FirstId: ids.FirstId,
			Count:   ids.Count,
			Outcome: &handlerv1.Verdict_Done{Done: &handlerv1.Done{}},
		})
	}
	all := cut(first, verdicts)
	last := all[len(all)-1]
	last.Credits = credits
	if len(all) == 1 && credits == 0 && proto.Size(first) == 0 {
		return nil, sent
	}
	return all, sent
}

// cut adds verdicts to the first message, and to others as that is full.
func cut(first *handlerv1.FromHandler, verdicts []*handlerv1.Verdict) []*handlerv1.FromHandler {
	all := []*handlerv1.FromHandler{first}
	last, size := first, proto.Size(first)
	for _, verdict := range verdicts {
		// A tag and a length go in front.
		more := proto.Size(verdict) + 6
		if size > 0 && size+more > maxAnswer {
			last, size = &handlerv1.FromHandler{}, 0
			all = append(all, last)
		}
		last.Verdicts = append(last.Verdicts, verdict)
		size += more
	}
	return all
}

// ranges returns sorted numbers as ranges.
func ranges(ids []uint64) []*handlerv1.Range {
	var all []*handlerv1.Range
	for _, id := range ids {
		if last := len(all) - 1; last >= 0 && all[last].FirstId+all[last].Count == id {
			all[last].Count++
			continue
		}
		all = append(all, &handlerv1.Range{FirstId: id, Count: 1})
	}
	return all
}
