// Package penstocktest tests handlers of package penstock without Kafka or a connection.
//
// [Handle] calls a handler with one message and returns its verdict. [Start] runs it
// against a fake runtime, for tests of order, deadlines, cancellation and stops. Both also
// work in a bubble of package testing/synctest, in which time does not pass by itself.
package penstocktest

import (
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"penstock.dev/sdk/go"
	"penstock.dev/sdk/go/handlerv1"
)

// Order is the order in which messages are processed.
type Order = handlerv1.Order

// The orders of the contract.
const (
	AnyOrder Order = handlerv1.Order_ORDER_UNSPECIFIED
	// Mode InOrder.
	BatchOrder Order = handlerv1.Order_ORDER_BATCH
	// Mode KeyOrdered.
	KeyOrder Order = handlerv1.Order_ORDER_KEY
)

// Reason is the reason for a cancellation.
type Reason = handlerv1.Cancel_Reason

// The reasons of the contract.
const (
	Revoked  Reason = handlerv1.Cancel_REASON_REVOKED
	TimedOut Reason = handlerv1.Cancel_REASON_TIMED_OUT
	NotBegun Reason = handlerv1.Cancel_REASON_NOT_BEGUN
)

// Config configures a fake runtime. Zero values stand for defaults.
type Config struct {
	Options penstock.Options
	Order   Order
	// The time of an attempt; 10 seconds by default.
	Timeout time.Duration
	// The time of an attempt with all extensions; Timeout by default.
	MaxTimeout time.Duration
	// The time that a message may wait in the handler; a minute by default.
	Wait time.Duration
	// The time after which a test fails that waits for the handler; 10 seconds by default,
	// and never less than Timeout.
	Limit time.Duration
}

// Runtime is a fake runtime with a stream to a handler. It fails the test if the answers
// break the contract.
type Runtime struct {
	test    testing.TB
	config  Config
	server  *penstock.Server
	batches bool
	stream  *stream

	mutex sync.Mutex
	// Is closed and replaced when something has changed.
	changed    chan struct{}
	welcome    *handlerv1.Welcome
	credits    int
	nextID     uint64
	deliveries map[uint64]*Delivery
}

// Handle has a handler process one message, and returns its verdict.
func Handle(test testing.TB, handler penstock.Handler, message *penstock.Message) Verdict {
	test.Helper()
	runtime := Start(test, handler, Config{})
	defer runtime.Stop()
	return runtime.Send(message)[0].Verdict()
}

// Start serves a handler to a fake runtime until the test ends.
func Start(test testing.TB, handler penstock.Handler, config Config) *Runtime {
	test.Helper()
	config = config.complete(test)
	server, err := penstock.NewServer(handler, config.Options)
	if err != nil {
		test.Fatal(err)
	}
	return start(test, server, config, false)
}

// StartBatches is like [Start] for a handler of batches.
func StartBatches(test testing.TB, handler penstock.BatchHandler, config Config) *Runtime {
	test.Helper()
	config = config.complete(test)
	server, err := penstock.NewBatchServer(handler, config.Options)
	if err != nil {
		test.Fatal(err)
	}
	return start(test, server, config, true)
}

func (c Config) complete(test testing.TB) Config {
	if c.Timeout == 0 {
		c.Timeout = 10 * time.Second
	}
	if c.MaxTimeout == 0 {
		c.MaxTimeout = c.Timeout
	}
	if c.Wait == 0 {
		c.Wait = time.Minute
	}
	if c.Limit == 0 {
		c.Limit = max(10*time.Second, c.MaxTimeout+c.Wait)
	}
	if c.Options.Logger == nil {
		c.Options.Logger = slog.New(slog.NewTextHandler(newOutput(test), nil))
	}
	return c
}

func start(test testing.TB, server *penstock.Server, config Config, batches bool) *Runtime {
	r := &Runtime{test: test, config: config, server: server, batches: batches}
	r.connect()
	test.Cleanup(func() {
		server.Stop()
		r.stream.cut()
		<-r.stream.read
		server.Wait()
	})
	return r
}

// connect opens a stream.
func (r *Runtime) connect() {
	s := newStream()
	r.mutex.Lock()
	r.stream, r.changed, r.welcome, r.credits = s, make(chan struct{}), nil, 0
	r.nextID, r.deliveries = 1, map[uint64]*Delivery{}
	r.mutex.Unlock()
	go func() {
		s.err = r.server.Handle(s)
		close(s.ended)
	}()
	go r.read(s)
	s.say(&handlerv1.FromRuntime{Message: &handlerv1.FromRuntime_Hello{Hello: &handlerv1.Hello{
		Version:      2,
		Consumer:     "kafka_consumer.test",
		Group:        "test",
		TimeoutMs:    uint64(r.config.Timeout.Milliseconds()),
		MaxTimeoutMs: uint64(r.config.MaxTimeout.Milliseconds()),
		WaitMs:       uint64(r.config.Wait.Milliseconds()),
		Order:        r.config.Order,
		MaxBatch:     1000,
		MaxBatches:   16,
	}}})
}

// Reconnect loses the stream, and opens another one while calls of the first may run.
func (r *Runtime) Reconnect() {
	r.Break()
	r.connect()
}

// Break loses the stream, as a runtime that is killed does.
func (r *Runtime) Break() {
	r.stream.cut()
	<-r.stream.read
}

// read takes the handler's answers until the stream ends.
func (r *Runtime) read(s *stream) {
	for {
		select {
		case answer := <-s.fromHandler:
			r.note(s, func() { r.take(answer) })
		case <-s.ended:
			close(s.read)
			return
		}
	}
}

// note changes what is known of a stream, if it is the current one.
func (r *Runtime) note(s *stream, change func()) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	if r.stream == s {
		change()
		close(r.changed)
		r.changed = make(chan struct{})
	}
}

// until waits for something of the current stream; the message says what.
func (r *Runtime) until(what string, is func() bool) {
	r.test.Helper()
	limit := time.NewTimer(r.config.Limit)
	defer limit.Stop()
	for {
		r.mutex.Lock()
		ok, changed, s := is(), r.changed, r.stream
		r.mutex.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-s.read:
			r.mutex.Lock()
			ok := is()
			r.mutex.Unlock()
			if !ok {
				r.test.Fatalf("the handler ended the stream (%v) without %s", s.err, what)
			}
			return
		case <-limit.C:
			r.test.Fatalf("within %v there was not %s", r.config.Limit, what)
		}
	}
}

// Send sends messages as one batch, even if the handler has granted fewer credits.
func (r *Runtime) Send(messages ...*penstock.Message) []*Delivery {
	r.test.Helper()
	return r.SendBy(time.Now().Add(r.config.Wait), messages...)
}

// SendBy is like [Runtime.Send] with a last moment at which the messages may begin.
func (r *Runtime) SendBy(beginBy time.Time, messages ...*penstock.Message) []*Delivery {
	r.test.Helper()
	r.mutex.Lock()
	first := r.nextID
	r.nextID += uint64(len(messages))
	sent := make([]*Delivery, len(messages))
	for index, message := range messages {
		sent[index] = &Delivery{ID: first + uint64(index), Message: message, runtime: r}
		r.deliveries[sent[index].ID] = sent[index]
	}
	r.credits -= len(messages)
	s := r.stream
	r.mutex.Unlock()
	batch := encodeBatch(first, beginBy, messages)
	s.say(&handlerv1.FromRuntime{Message: &handlerv1.FromRuntime_Batch{Batch: batch}})
	return sent
}

// Feed sends messages in batches for which the handler has granted credits, as the runtime
// does.
func (r *Runtime) Feed(messages ...*penstock.Message) []*Delivery {
	r.test.Helper()
	var sent []*Delivery
	for len(messages) > 0 {
		r.until("a credit", func() bool { return r.credits > 0 })
		count := min(r.Credits(), len(messages))
		sent = append(sent, r.Send(messages[:count]...)...)
		messages = messages[count:]
	}
	return sent
}

// Credits returns the number of messages that the handler takes now.
func (r *Runtime) Credits() int {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	return r.credits
}

// Welcome waits for the handler's first message, and returns its description.
func (r *Runtime) Welcome() *handlerv1.Welcome {
	r.test.Helper()
	r.until("welcome", func() bool { return r.welcome != nil })
	return r.welcome
}

// Cancel withdraws deliveries.
func (r *Runtime) Cancel(reason Reason, deliveries ...*Delivery) {
	cancel := &handlerv1.Cancel{Reason: reason}
	for _, delivery := range deliveries {
		cancel.Deliveries = append(cancel.Deliveries, &handlerv1.Range{FirstId: delivery.ID, Count: 1})
	}
	r.stream.say(&handlerv1.FromRuntime{Message: &handlerv1.FromRuntime_Cancel{Cancel: cancel}})
}

// Stop stops the handler as SIGTERM does, waits until it ends the stream, and returns the
// stream's error.
func (r *Runtime) Stop() error {
	r.test.Helper()
	r.server.Stop()
	return r.Ended()
}

// Close ends the runtime's side of the stream: it sends nothing more.
func (r *Runtime) Close() { r.stream.closeSend() }

// Ended waits until the handler has ended the stream, and returns the stream's error.
func (r *Runtime) Ended() error {
	r.test.Helper()
	limit := time.NewTimer(r.config.Limit)
	defer limit.Stop()
	select {
	case <-r.stream.read:
	case <-limit.C:
		r.test.Fatalf("the handler did not end the stream within %v", r.config.Limit)
	}
	return r.stream.err
}

// take takes an answer. The mutex is held.
func (r *Runtime) take(answer *handlerv1.FromHandler) {
	if answer.Welcome != nil {
		r.check(r.welcome == nil, "a second welcome")
		r.welcome = answer.Welcome
	}
	r.check(r.welcome != nil, "an answer before welcome")
	for _, begun := range answer.Begun {
		r.each(begun, "begun", (*Delivery).takeBegun)
	}
	for _, extension := range answer.Extensions {
		r.each(extension.Deliveries, "an extension", func(d *Delivery) {
			r.check(d.begun, fmt.Sprintf("an extension of %d, which has not begun", d.ID))
			d.extensions = append(d.extensions, milliseconds(extension.TimeMs))
		})
	}
	for _, verdict := range answer.Verdicts {
		deliveries := &handlerv1.Range{FirstId: verdict.FirstId, Count: max(1, verdict.Count)}
		r.each(deliveries, "a verdict", func(d *Delivery) { d.takeVerdict(decodeVerdict(verdict)) })
	}
	r.credits += int(answer.Credits)
}

func (r *Runtime) each(deliveries *handlerv1.Range, what string, take func(*Delivery)) {
	for id := deliveries.FirstId; id < deliveries.FirstId+deliveries.Count; id++ {
		delivery := r.deliveries[id]
		r.check(delivery != nil, fmt.Sprintf("%s on %d, which was not sent", what, id))
		if delivery != nil {
			take(delivery)
		}
	}
}

// check fails the test if an answer breaks the contract.
func (r *Runtime) check(ok bool, what string) {
	if !ok {
		r.test.Errorf("the handler's answer breaks the contract: %s", what)
	}
}

// Delivery is a message that was sent.
type Delivery struct {
	ID      uint64
	Message *penstock.Message

	runtime    *Runtime
	begun      bool
	verdict    *Verdict
	extensions []time.Duration
}

func (d *Delivery) takeBegun() {
	d.runtime.check(!d.begun, fmt.Sprintf("%d begins twice", d.ID))
	d.runtime.check(d.verdict == nil, fmt.Sprintf("%d begins after its verdict", d.ID))
	d.begun = true
}

func (d *Delivery) takeVerdict(verdict Verdict) {
	r := d.runtime
	r.check(d.verdict == nil, fmt.Sprintf("a second verdict on %d", d.ID))
	// A handler of batches begins all of them, and stops behind a failure.
	r.check(verdict.Outcome != Release || !d.begun || r.batches, fmt.Sprintf("%d has begun and is released", d.ID))
	d.verdict = &verdict
}

// Verdict waits for the verdict.
func (d *Delivery) Verdict() Verdict {
	d.runtime.test.Helper()
	d.runtime.until(fmt.Sprintf("a verdict on delivery %d", d.ID), func() bool { return d.verdict != nil })
	return *d.verdict
}

// Begun waits until the handler reports that it begins the message, or has settled it.
func (d *Delivery) Begun() {
	d.runtime.test.Helper()
	d.runtime.until(fmt.Sprintf("begun of delivery %d", d.ID), d.hasBegun)
}

func (d *Delivery) hasBegun() bool {
	return d.begun || d.verdict != nil && d.verdict.Outcome != Release
}

// HasBegun returns true if the handler has reported that it begins the message.
func (d *Delivery) HasBegun() bool {
	d.runtime.mutex.Lock()
	defer d.runtime.mutex.Unlock()
	return d.hasBegun()
}

// IsSettled returns true if there is a verdict.
func (d *Delivery) IsSettled() bool {
	d.runtime.mutex.Lock()
	defer d.runtime.mutex.Unlock()
	return d.verdict != nil
}

// Extensions waits for a number of extensions, and returns all.
func (d *Delivery) Extensions(count int) []time.Duration {
	d.runtime.test.Helper()
	d.runtime.until(fmt.Sprintf("%d extensions of delivery %d", count, d.ID), func() bool { return len(d.extensions) >= count })
	return slices.Clone(d.extensions)
}

// Outcomes waits for the verdicts on deliveries, and returns their outcomes.
func Outcomes(deliveries []*Delivery) []Outcome {
	outcomes := make([]Outcome, len(deliveries))
	for index, delivery := range deliveries {
		delivery.runtime.test.Helper()
		outcomes[index] = delivery.Verdict().Outcome
	}
	return outcomes
}
