package penstocktest

import (
	"context"
	"io"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"penstock.dev/sdk/go/handlerv1"
)

// stream is the handler's side of a stream in memory. Messages are encoded and decoded, as
// on a connection.
type stream struct {
	grpc.ServerStream
	ctx context.Context
	// Ends the connection.
	cut context.CancelFunc
	// Not more than one message waits, so that a handler that does not read is noticed.
	toHandler   chan *handlerv1.FromRuntime
	fromHandler chan *handlerv1.FromHandler
	closeOnce   sync.Once
	// Is closed when the handler has ended the stream; err says how.
	ended chan struct{}
	err   error
	// Is closed when all answers are taken.
	read chan struct{}
}

func newStream() *stream {
	ctx, cut := context.WithCancel(context.Background())
	return &stream{
		ctx:         ctx,
		cut:         cut,
		toHandler:   make(chan *handlerv1.FromRuntime),
		fromHandler: make(chan *handlerv1.FromHandler),
		ended:       make(chan struct{}),
		read:        make(chan struct{}),
	}
}

func (s *stream) Context() context.Context { return s.ctx }

func (s *stream) Recv() (*handlerv1.FromRuntime, error) {
	select {
	case message, ok := <-s.toHandler:
		if !ok {
			return nil, io.EOF
		}
		return message, nil
	case <-s.ctx.Done():
		return nil, s.ctx.Err()
	}
}

func (s *stream) Send(message *handlerv1.FromHandler) error {
	copied := &handlerv1.FromHandler{}
	encoded, err := proto.Marshal(message)
	if err == nil {
		err = proto.Unmarshal(encoded, copied)
	}
	if err != nil {
		return err
	}
	select {
	case s.fromHandler <- copied:
		return nil
	case <-s.ctx.Done():
		return s.ctx.Err()
	}
}

// say sends a message to the handler, and returns false if the stream has ended.
func (s *stream) say(message *handlerv1.FromRuntime) bool {
	select {
	case s.toHandler <- message:
		return true
	case <-s.ended:
		return false
	case <-s.ctx.Done():
		return false
	}
}

func (s *stream) closeSend() { s.closeOnce.Do(func() { close(s.toHandler) }) }
