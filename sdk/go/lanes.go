package penstock

import (
	"context"
	"fmt"
	"hash/maphash"
	"sync"
	"sync/atomic"
)

var seed = maphash.MakeSeed()

// batch is what the messages of a batch share.
type batch struct {
	end  uint64
	ctx  context.Context
	void context.CancelFunc
	// Messages without a verdict; with the last, closed is called.
	open   atomic.Int64
	closed func()
	// What follows a message that is not done must not be handled.
	inOrder bool
	failed  atomic.Bool
}

// share is what one lane has of a batch.
type share struct {
	batch    *batch
	messages []*Message
}

// lanes is where messages are handled: in each one message after the other. A key has its
// lane, so that its messages keep their order.
type lanes struct {
	stream  *openStream
	lanes   []chan share
	tasks   sync.WaitGroup
	next    int
	inOrder bool
}

func startLanes(stream *openStream, inOrder bool) *lanes {
	count := stream.options.Concurrency
	if inOrder {
		count = 1
	}
	l := &lanes{stream: stream, lanes: make([]chan share, count), inOrder: inOrder}
	for number := range l.lanes {
		// No more shares than messages, and of these no more than the window.
		l.lanes[number] = make(chan share, stream.options.Window)
		l.tasks.Go(func() { l.work(l.lanes[number]) })
	}
	return l
}

func (l *lanes) give(b *batch, messages []*Message) {
	shares := make([][]*Message, len(l.lanes))
	for _, message := range messages {
		lane := l.laneOf(message)
		shares[lane] = append(shares[lane], message)
	}
	for lane, messages := range shares {
		if len(messages) > 0 {
			l.lanes[lane] <- share{batch: b, messages: messages}
		}
	}
}

func (l *lanes) laneOf(message *Message) int {
	if message.Key != nil {
		return int(maphash.Bytes(seed, message.Key) % uint64(len(l.lanes)))
	}
	l.next = (l.next + 1) % len(l.lanes)
	return l.next
}

// finish waits until every lane is at its end: what it has, or with a stop the message
// that it is at.
func (l *lanes) finish() {
	for _, lane := range l.lanes {
		close(lane)
	}
	l.tasks.Wait()
}

func (l *lanes) work(lane chan share) {
	for share := range lane {
		for _, message := range share.messages {
			if l.stream.stop.Err() != nil {
				return
			}
			l.handle(share.batch, message)
			if share.batch.open.Add(-1) == 0 {
				share.batch.closed()
			}
		}
	}
}

func (l *lanes) handle(b *batch, message *Message) {
	if b.ctx.Err() != nil {
		l.stream.answers.grant(1)
		return
	}
	if b.inOrder && b.failed.Load() {
		l.stream.answers.settle(message.id, Retry{Reason: "a message before it in the batch was not done"})
		return
	}
	err := l.call(b.ctx, message)
	if err != nil {
		b.failed.Store(true)
	}
	if err == nil && len(message.produced) > 0 {
		l.stream.answers.settleWith(message.id, message.produced)
		return
	}
	l.stream.answers.settle(message.id, err)
}

func (l *lanes) call(ctx context.Context, message *Message) (err error) {
	defer func() {
		if panicked := recover(); panicked != nil {
			err = fmt.Errorf("the handler panicked: %v", panicked)
		}
	}()
	return l.stream.handler(ctx, message)
}
