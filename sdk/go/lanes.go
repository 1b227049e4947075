package penstock

import (
	"context"
	"fmt"
	"hash/maphash"
	"sync"
	"sync/atomic"

	"penstock.dev/sdk/go/handlerv1"
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
}

// place names messages of a share that are in order with each other: all, or those with a
// key.
type place struct {
	topic     string
	partition int32
	key       string
}

// share is what one lane has of a batch.
type share struct {
	batch    *batch
	messages []*Message
}

// lanes is where messages are handled: in each one message after the other. A key has its
// lane, so that its messages keep their order; and all that a batch has of a key lies in
// one share.
type lanes struct {
	stream *openStream
	lanes  []chan share
	tasks  sync.WaitGroup
	next   int
	order  handlerv1.Order
}

func startLanes(stream *openStream, order handlerv1.Order) *lanes {
	count := stream.options.Concurrency
	if order == handlerv1.Order_ORDER_BATCH {
		count = 1
	}
	l := &lanes{stream: stream, lanes: make([]chan share, count), order: order}
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
		stopped := map[place]bool{}
		for _, message := range share.messages {
			if l.stream.stop.Err() != nil {
				return
			}
			l.handle(share.batch, message, stopped)
			if share.batch.open.Add(-1) == 0 {
				share.batch.closed()
			}
		}
	}
}

// handle handles a message, unless it is void, or behind one that was not done.
func (l *lanes) handle(b *batch, message *Message, stopped map[place]bool) {
	if b.ctx.Err() != nil {
		l.stream.answers.grant(1)
		return
	}
	// Most shares have nothing that failed.
	if len(stopped) > 0 && l.isBehind(message, stopped) {
		l.stream.answers.settle(message.id, Retry{Reason: "a message before it was not done"})
		return
	}
	err := l.call(b.ctx, message)
	if err != nil && l.stopsAt(err) {
		if place, inOrder := l.placeOf(message); inOrder {
			stopped[place] = true
		}
	}
	if err == nil && len(message.produced) > 0 {
		l.stream.answers.settleWith(message.id, message.produced)
		return
	}
	l.stream.answers.settle(message.id, err)
}

func (l *lanes) isBehind(message *Message, stopped map[place]bool) bool {
	place, inOrder := l.placeOf(message)
	return inOrder && stopped[place]
}

// placeOf is a message's place, if it is in order with any.
func (l *lanes) placeOf(message *Message) (place, bool) {
	switch {
	case l.order == handlerv1.Order_ORDER_BATCH:
		return place{}, true
	case l.order == handlerv1.Order_ORDER_KEY && message.Key != nil:
		return place{topic: message.Topic, partition: message.Partition, key: string(message.Key)}, true
	}
	return place{}, false
}

// stopsAt is whether what follows a message that was not done must not be handled.
func (l *lanes) stopsAt(err error) bool {
	// One that is skipped never comes again.
	return l.order == handlerv1.Order_ORDER_BATCH || !is[Skip](err)
}

func (l *lanes) call(ctx context.Context, message *Message) (err error) {
	defer func() {
		if panicked := recover(); panicked != nil {
			err = fmt.Errorf("the handler panicked: %v", panicked)
		}
	}()
	return l.stream.handler(ctx, message)
}
