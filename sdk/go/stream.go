package penstock

import (
	"errors"
	"io"
	"log/slog"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"penstock.dev/sdk/go/handlerv1"
)

// The version of the protocol that this SDK speaks. A higher one of the runtime only adds.
const protocolVersion = 2

// The maximum size of a message from the runtime: any. It sends no more than a batch of
// 1 MiB, or one long message.
const maxMessage = 1<<31 - 1

// The frame of a message on a gRPC stream.
const messageFrame = 5

var orders = map[handlerv1.Order]string{
	handlerv1.Order_ORDER_UNSPECIFIED: "any",
	handlerv1.Order_ORDER_BATCH:       "batch",
	handlerv1.Order_ORDER_KEY:         "key",
}

type handlerStream = grpc.BidiStreamingServer[handlerv1.FromRuntime, handlerv1.FromHandler]

// session is one stream, from hello to its end.
type session struct {
	server   *Server
	stream   handlerStream
	consumer Consumer
	answers  *answers
	schedule *schedule
	// Nil if the connection is another server's; then what was sent counts as written.
	wire *wire
	sent uint64
	// Is closed when a newer stream has come.
	superseded chan struct{}
	// Is closed when no call of this stream or an earlier one runs, or their time is over.
	free chan struct{}
}

func welcome() *handlerv1.Welcome {
	w := &handlerv1.Welcome{
		Version:         protocolVersion,
		SdkName:         "penstock-go",
		SdkVersion:      Version,
		MaxMessageBytes: maxMessage,
		Features: []handlerv1.Feature{
			handlerv1.Feature_FEATURE_BEGUN,
			handlerv1.Feature_FEATURE_EXTEND,
			handlerv1.Feature_FEATURE_CANCEL,
		},
	}
	for order := range orders {
		w.Orders = append(w.Orders, order)
	}
	slices.Sort(w.Orders)
	return w
}

// greet waits for hello. It returns nil if the stream ends first, or the server stops.
func (s *Server) greet(stream handlerStream) (*handlerv1.Hello, error) {
	type received struct {
		message *handlerv1.FromRuntime
		err     error
	}
	first := make(chan received, 1)
	go func() {
		message, err := stream.Recv()
		first <- received{message, err}
	}()
	select {
	case <-s.stopping:
		return nil, nil
	case received := <-first:
		if received.err != nil {
			return nil, nil
		}
		if hello := received.message.GetHello(); hello != nil {
			return hello, nil
		}
		return nil, status.Error(codes.FailedPrecondition, "the first message on the stream is not hello")
	}
}

// Handle serves a stream of the runtime.
func (s *Server) Handle(stream handlerStream) error {
	hello, err := s.greet(stream)
	if hello == nil || err != nil {
		return err
	}
	consumer := Consumer{Name: hello.Consumer, Group: hello.Group, Order: orders[hello.Order]}
	if consumer.Order == "" {
		return s.refuse(stream, hello)
	}
	o := &session{
		server:     s,
		stream:     stream,
		consumer:   consumer,
		answers:    newAnswers(welcome()),
		wire:       wireOf(stream.Context()),
		superseded: make(chan struct{}),
		free:       make(chan struct{}),
	}
	o.schedule = s.newSchedule(o, hello)
	attrs := []any{slog.String("consumer", consumer.Name), slog.String("group", consumer.Group), slog.String("order", consumer.Order)}
	s.log.Info("the runtime has opened a stream", attrs...)
	s.hook(func() { s.options.Hooks.Opened(consumer) }, s.options.Hooks.Opened != nil)
	go o.open(s.replace(o))
	o.answers.wake()
	err = o.run()
	if err != nil {
		attrs = append(attrs, slog.String("error", err.Error()))
	}
	s.log.Info("the stream has ended", attrs...)
	s.hook(func() { s.options.Hooks.Closed(consumer, err) }, s.options.Hooks.Closed != nil)
	return err
}

// refuse ends a stream whose order this SDK does not keep.
func (s *Server) refuse(stream handlerStream, hello *handlerv1.Hello) error {
	err := status.Errorf(codes.FailedPrecondition,
		"the handler's SDK, penstock-go %s, does not know the order %d that consumer %s needs; update the SDK in the handler's image, or change spec.mode",
		Version, hello.Order, hello.Consumer)
	s.log.Error("refused the runtime's stream", slog.String("consumer", hello.Consumer), slog.String("error", err.Error()))
	// So that the runtime can name it.
	_ = stream.Send(&handlerv1.FromHandler{Welcome: welcome()})
	return err
}

func (s *Server) newSchedule(o *session, hello *handlerv1.Hello) *schedule {
	slots := s.options.Concurrency
	if hello.Order == handlerv1.Order_ORDER_BATCH {
		slots = 1
	}
	schedule := &schedule{
		order:      hello.Order,
		slots:      slots,
		batchSize:  1,
		inBatches:  s.inBatches,
		timeout:    milliseconds(hello.TimeoutMs),
		maxTimeout: milliseconds(hello.MaxTimeoutMs),
		wait:       milliseconds(hello.WaitMs),
		handle:     s.handle,
		ctx:        o.stream.Context(),
		answers:    o.answers,
		log:        &s.log,
		settled:    s.options.Hooks.Settled,
		batches:    map[uint64]*batch{},
		lines:      map[string]*line{},
		running:    map[*attempt]struct{}{},
		idle:       make(chan struct{}),
		quiet:      make(chan struct{}),
	}
	if s.inBatches {
		schedule.batchSize = s.options.BatchSize
	}
	schedule.flow = newFlow(slots, s.options.Window, schedule.wait)
	schedule.work.L = &schedule.mutex
	schedule.endIdle = sync.OnceFunc(func() { close(schedule.idle) })
	return schedule
}

// milliseconds returns a time of the contract, at most a year.
func milliseconds(count uint64) time.Duration {
	const year = 365 * 24 * time.Hour
	return time.Duration(min(count, uint64(year.Milliseconds()))) * time.Millisecond
}

// open lets calls begin when those of earlier streams have ended: a key is never handled
// twice at the same time.
func (o *session) open(earlier *session) {
	defer close(o.free)
	if earlier != nil {
		select {
		case <-earlier.free:
			o.schedule.open()
		case <-o.schedule.quiet:
			<-earlier.free
		}
	} else {
		o.schedule.open()
	}
	<-o.schedule.quiet
}

// run serves the stream. It ends when the runtime ends its side, at a stop, or when a newer
// stream has come; calls that run are finished first.
func (o *session) run() error {
	read := make(chan error, 1)
	go func() { read <- o.read() }()
	stopping, superseded := o.server.stopping, o.superseded
	for {
		select {
		case <-o.answers.changed:
			if err := o.send(); err != nil {
				o.schedule.abort()
				return err
			}
		case err := <-read:
			if err != nil {
				o.schedule.abort()
				return err
			}
			o.schedule.drain()
		case <-stopping:
			stopping = nil
			o.schedule.stop()
		case <-superseded:
			superseded = nil
			o.schedule.stop()
		case <-o.schedule.quiet:
			return o.send()
		}
	}
}

// read takes what the runtime sends. It returns nil when the runtime has ended its side.
func (o *session) read() error {
	for {
		message, err := o.stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		switch {
		case message.GetHello() != nil:
			return status.Error(codes.FailedPrecondition, "there is a second hello on the stream")
		case message.GetBatch() != nil:
			batch := message.GetBatch()
			o.schedule.add(batch, decode(o.consumer.Group, batch))
		case message.GetCancel() != nil:
			o.schedule.cancel(message.GetCancel())
		}
	}
}

// send sends what was gathered, and confirms that to the calls that wait for it.
func (o *session) send() error {
	messages, sent := o.answers.take()
	if sent != nil {
		defer close(sent)
	}
	for _, message := range messages {
		if err := o.stream.Send(message); err != nil {
			return err
		}
		if o.wire != nil {
			o.sent += messageFrame + uint64(proto.Size(message))
		}
	}
	if sent != nil && o.wire != nil {
		o.wire.await(o.sent, o.stream.Context().Done())
	}
	return nil
}
