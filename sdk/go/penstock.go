// Package penstock serves handlers that speak gRPC with Penstock's runtime: [Serve] is
// all there is to call.
package penstock

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net"
	"os"
	"os/signal"
	"syscall"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"

	"penstock.dev/sdk/go/handlerv1"
)

const defaultSocket = "/run/penstock/handler.sock"

// Handler handles one message. Its context ends when the message is void: its time is
// over, or its partition went to another consumer. An error is a [Retry] unless it wraps
// one of the other verdicts.
type Handler func(ctx context.Context, message *Message) error

// Options of [Serve]; what is zero has its default.
type Options struct {
	// Calls at once, 16. Messages with one key are handled one after the other, and in
	// mode InOrder all are.
	Concurrency int
	// Messages that are taken at once, handled or waiting, 2000. They lie in memory.
	Window uint32
	// Listener, instead of the one that the environment asks for.
	Listener net.Listener
}

// Serve calls the handler for each message, until SIGTERM or SIGINT; then no message is
// begun, and those that are being handled are finished. It listens on the Unix socket in
// PENSTOCK_HANDLER_SOCKET, or on all addresses at PORT.
func Serve(handler Handler, options Options) error {
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer cancel()
	return ServeUntil(ctx, handler, options)
}

// ServeUntil is as [Serve], until the context ends.
func ServeUntil(ctx context.Context, handler Handler, options Options) error {
	if options.Concurrency < 1 {
		options.Concurrency = 16
	}
	if options.Window < 1 {
		options.Window = 2000
	}
	listener := options.Listener
	if listener == nil {
		var err error
		if listener, err = listen(); err != nil {
			return fmt.Errorf("the handler can't listen: %w", err)
		}
	}
	// Any length: the runtime sends no more than a batch of 1 MiB, or one long message.
	server := grpc.NewServer(grpc.MaxRecvMsgSize(math.MaxInt32))
	handlerv1.RegisterHandlerServer(server, &service{handler: handler, options: options, stop: ctx})
	grpc_health_v1.RegisterHealthServer(server, health.NewServer())
	go func() {
		<-ctx.Done()
		// Streams end by themselves, once the calls that run are finished.
		server.GracefulStop()
	}()
	return server.Serve(listener)
}

func listen() (net.Listener, error) {
	socket, port := os.Getenv("PENSTOCK_HANDLER_SOCKET"), os.Getenv("PORT")
	if socket == "" && port != "" {
		return net.Listen("tcp", ":"+port)
	}
	if socket == "" {
		socket = defaultSocket
	}
	// Left there by one that was killed.
	if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return net.Listen("unix", socket)
}

type service struct {
	handlerv1.UnimplementedHandlerServer
	handler Handler
	options Options
	stop    context.Context
}

func (s *service) Handle(stream grpc.BidiStreamingServer[handlerv1.FromRuntime, handlerv1.FromHandler]) error {
	return newOpenStream(s, stream).run()
}
