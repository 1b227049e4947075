package penstock

import (
	"context"
	"sync"

	"google.golang.org/grpc"

	"penstock.dev/sdk/go/handlerv1"
)

// openStream is one stream, from hello to its end.
type openStream struct {
	*service
	stream  grpc.BidiStreamingServer[handlerv1.FromRuntime, handlerv1.FromHandler]
	answers *answers
	// Batches that may still be at work, by their first number.
	mutex   sync.Mutex
	batches map[uint64]*batch
	lanes   *lanes
	group   string
}

func newOpenStream(s *service, stream grpc.BidiStreamingServer[handlerv1.FromRuntime, handlerv1.FromHandler]) *openStream {
	return &openStream{
		service: s,
		stream:  stream,
		answers: newAnswers(),
		batches: map[uint64]*batch{},
	}
}

// run serves the stream. It ends once the runtime has ended its side, or with a stop;
// whoever is at work then is let finish.
func (o *openStream) run() error {
	read := make(chan struct{})
	go func() {
		defer close(read)
		for {
			message, err := o.stream.Recv()
			if err != nil {
				return
			}
			o.take(message)
		}
	}()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		select {
		case <-read:
		case <-o.stop.Done():
		}
		o.mutex.Lock()
		lanes := o.lanes
		o.lanes = nil
		o.mutex.Unlock()
		if lanes != nil {
			lanes.finish()
		}
	}()
	for {
		select {
		case <-o.answers.changed:
			if err := o.send(); err != nil {
				return err
			}
		case <-ended:
			return o.send()
		}
	}
}

func (o *openStream) send() error {
	if answer := o.answers.take(); answer != nil {
		return o.stream.Send(answer)
	}
	return nil
}

func (o *openStream) take(message *handlerv1.FromRuntime) {
	switch {
	case message.GetHello() != nil:
		hello := message.GetHello()
		o.mutex.Lock()
		o.group = hello.Group
		o.lanes = startLanes(o, hello.Order)
		o.mutex.Unlock()
		o.answers.grant(o.options.Window)
	case message.GetBatch() != nil:
		o.begin(message.GetBatch())
	case message.GetCancel() != nil:
		for _, deliveries := range message.GetCancel().Deliveries {
			o.cancel(deliveries.FirstId, deliveries.Count)
		}
	}
}

func (o *openStream) begin(given *handlerv1.Batch) {
	messages := messages(o.group, given)
	o.mutex.Lock()
	defer o.mutex.Unlock()
	if o.lanes == nil {
		return
	}
	// The context is not used once the last message is settled.
	ctx, void := context.WithDeadline(o.stream.Context(), messages[0].Deadline)
	b := &batch{end: given.FirstId + uint64(len(messages)), ctx: ctx, void: void}
	b.open.Store(int64(len(messages)))
	b.closed = func() {
		void()
		o.mutex.Lock()
		delete(o.batches, given.FirstId)
		o.mutex.Unlock()
	}
	o.batches[given.FirstId] = b
	o.lanes.give(b, messages)
}

// cancel voids the batches that these deliveries are of. What is named of a batch is all
// of it that has no verdict.
func (o *openStream) cancel(first, count uint64) {
	o.mutex.Lock()
	defer o.mutex.Unlock()
	for begin, b := range o.batches {
		if begin < first+count && first < b.end {
			b.void()
		}
	}
}
