package penstock

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"

	"penstock.dev/sdk/go/handlerv1"
)

// How long a stop waits for the runtime to end its streams after the last verdict.
const maxGoodbye = time.Second

// Server serves a handler. Most programs call [Serve] instead.
//
// It implements handlerv1.HandlerServer, so a program can register it on a gRPC server of
// its own.
type Server struct {
	handlerv1.UnimplementedHandlerServer
	options   Options
	inBatches bool
	handle    func(context.Context, []*Message) error
	log       log
	stopping  chan struct{}
	stop      func()

	mutex sync.Mutex
	last  *session
}

// NewServer returns a server for a handler.
func NewServer(handler Handler, options Options) (*Server, error) {
	if handler == nil {
		return nil, errors.New("the handler is nil")
	}
	options, err := options.complete()
	if err != nil {
		return nil, err
	}
	if handler, err = options.chain(handler); err != nil {
		return nil, err
	}
	return newServer(options, func(ctx context.Context, messages []*Message) error {
		return handler(ctx, messages[0])
	}), nil
}

// NewBatchServer returns a server for a handler of batches.
func NewBatchServer(handler BatchHandler, options Options) (*Server, error) {
	if handler == nil {
		return nil, errors.New("the handler is nil")
	}
	if len(options.Interceptors) > 0 {
		return nil, errors.New("Options.Interceptors wrap calls of a Handler; wrap a BatchHandler before it is served")
	}
	options, err := options.complete()
	if err != nil {
		return nil, err
	}
	server := newServer(options, handler)
	server.inBatches = true
	return server, nil
}

func newServer(options Options, handle func(context.Context, []*Message) error) *Server {
	s := &Server{options: options, handle: handle, stopping: make(chan struct{})}
	s.log.Logger = options.Logger
	s.stop = sync.OnceFunc(func() { close(s.stopping) })
	return s
}

// Stop has the server begin no more messages. Streams end when their calls have ended.
func (s *Server) Stop() { s.stop() }

// Run listens and serves until the context ends, and then as [Serve] does at a signal. It
// returns nil after an orderly stop.
func (s *Server) Run(ctx context.Context) error {
	listener := s.options.Listener
	if listener == nil {
		var err error
		if listener, err = listen(); err != nil {
			return fmt.Errorf("the handler can't listen: %w", err)
		}
	}
	server := grpc.NewServer(
		grpc.Creds(newPlaintext()),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}),
	)
	handlerv1.RegisterHandlerServer(server, s)
	healthy := health.NewServer()
	grpc_health_v1.RegisterHealthServer(server, healthy)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	s.log.Info("the handler listens", slog.String("address", listener.Addr().String()))
	s.hook(func() { s.options.Hooks.Listening(listener.Addr()) }, s.options.Hooks.Listening != nil)
	select {
	case err := <-served:
		return fmt.Errorf("the handler can't listen any longer: %w", err)
	case <-ctx.Done():
	}
	s.hook(func() { s.options.Hooks.Stopping() }, s.options.Hooks.Stopping != nil)
	healthy.Shutdown()
	s.Stop()
	left := s.Wait()
	ended := make(chan struct{})
	go func() {
		server.GracefulStop()
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(maxGoodbye):
		// A health check that watches does not end by itself.
		server.Stop()
	}
	if left > 0 {
		return fmt.Errorf("%d calls of the handler did not return by their deadline", left)
	}
	return nil
}

// Wait waits after [Server.Stop] until no call runs or their time is over. It returns the
// number of calls that are left.
func (s *Server) Wait() int {
	s.mutex.Lock()
	last := s.last
	s.mutex.Unlock()
	if last == nil {
		return 0
	}
	<-last.free
	return last.schedule.left()
}

// replace makes a session the last one, and has the one before end.
func (s *Server) replace(o *session) *session {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	earlier := s.last
	s.last = o
	if earlier != nil {
		close(earlier.superseded)
	}
	return earlier
}

func (s *Server) hook(call func(), is bool) {
	if is {
		s.log.guard("Hooks", call)
	}
}
