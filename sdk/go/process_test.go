//go:build unix

package penstock_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"

	"penstock.dev/sdk/go"
	"penstock.dev/sdk/go/handlerv1"
)

// What these tests wait for comes within this time, or never.
const limit = 30 * time.Second

// TestMain runs the tests, or serves a handler if a test has started this process for that.
func TestMain(m *testing.M) {
	if os.Getenv("PENSTOCK_TEST_HANDLER") == "" {
		os.Exit(m.Run())
	}
	if err := penstock.Serve(obey, penstock.Options{Concurrency: 8}); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

// obey does what the message says.
func obey(ctx context.Context, message *penstock.Message) error {
	switch string(message.Value) {
	case "exit":
		os.Exit(3)
	case "crash":
		// A panic in a goroutine of the handler ends the process.
		go panic("crash")
		select {}
	case "second":
		fmt.Println("at work")
		time.Sleep(time.Second)
	case "block":
		fmt.Println("at work")
		select {}
	}
	return nil
}

// program is a handler in a process of its own.
type program struct {
	test    *testing.T
	command *exec.Cmd
	lines   chan string
	address string
}

func startProgram(t *testing.T, variables ...string) *program {
	t.Helper()
	command := exec.Command(os.Args[0])
	command.Env = append(os.Environ(), "PENSTOCK_TEST_HANDLER=1", "PENSTOCK_HANDLER_SOCKET=", "PORT=")
	command.Env = append(command.Env, variables...)
	output, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	command.Stderr = command.Stdout
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	p := &program{test: t, command: command, lines: make(chan string, 10_000)}
	go func() {
		defer close(p.lines)
		for scanner := bufio.NewScanner(output); scanner.Scan(); {
			p.lines <- scanner.Text()
		}
	}()
	t.Cleanup(func() {
		_ = command.Process.Kill()
		_ = command.Wait()
	})
	return p
}

// onSocket starts a program that listens on a socket.
func onSocket(t *testing.T) *program {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "handler.sock")
	p := startProgram(t, "PENSTOCK_HANDLER_SOCKET="+socket)
	p.address = "unix:" + socket
	p.await("the handler listens")
	return p
}

// await waits for a line of output that contains a text.
func (p *program) await(text string) string {
	p.test.Helper()
	var seen []string
	expired := time.After(limit)
	for {
		select {
		case line, ok := <-p.lines:
			if !ok {
				p.test.Fatalf("the program ended without %q:\n%s", text, strings.Join(seen, "\n"))
			}
			if strings.Contains(line, text) {
				return line
			}
			seen = append(seen, line)
		case <-expired:
			p.test.Fatalf("there is no %q:\n%s", text, strings.Join(seen, "\n"))
		}
	}
}

// exit waits until the program ends, and returns its code.
func (p *program) exit() int {
	p.test.Helper()
	killer := time.AfterFunc(limit, func() { _ = p.command.Process.Kill() })
	defer killer.Stop()
	for range p.lines {
	}
	_ = p.command.Wait()
	return p.command.ProcessState.ExitCode()
}

func (p *program) signal(signal os.Signal) {
	p.test.Helper()
	if err := p.command.Process.Signal(signal); err != nil {
		p.test.Fatal(err)
	}
}

// freeze stops the program, and waits until all of its threads are.
func (p *program) freeze() {
	p.test.Helper()
	p.signal(syscall.SIGSTOP)
	var status syscall.WaitStatus
	for {
		_, err := syscall.Wait4(p.command.Process.Pid, &status, syscall.WUNTRACED, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil || !status.Stopped() {
			p.test.Fatalf("the program is not stopped: %v, %v", status, err)
		}
		return
	}
}

func connect(t *testing.T, address string) *grpc.ClientConn {
	t.Helper()
	connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { connection.Close() })
	return connection
}

// client is the runtime's side of a stream over a connection.
type client struct {
	test   *testing.T
	stream grpc.BidiStreamingClient[handlerv1.FromRuntime, handlerv1.FromHandler]
	next   uint64
	begun  map[uint64]bool
	done   map[uint64]bool
}

// open opens a stream, and reads until there are credits.
func (p *program) open() *client {
	p.test.Helper()
	ctx, end := context.WithTimeout(context.Background(), limit)
	p.test.Cleanup(end)
	stream, err := handlerv1.NewHandlerClient(connect(p.test, p.address)).Handle(ctx)
	if err != nil {
		p.test.Fatal(err)
	}
	c := &client{test: p.test, stream: stream, next: 1, begun: map[uint64]bool{}, done: map[uint64]bool{}}
	c.say(&handlerv1.FromRuntime{Message: &handlerv1.FromRuntime_Hello{Hello: &handlerv1.Hello{
		Version: 2, Consumer: "kafka_consumer.test", Group: "test", TimeoutMs: 60_000, WaitMs: 60_000,
	}}})
	for credits := uint32(0); credits == 0; {
		answer, err := stream.Recv()
		if err != nil {
			p.test.Fatal(err)
		}
		credits += answer.Credits
	}
	return c
}

func (c *client) say(message *handlerv1.FromRuntime) {
	c.test.Helper()
	if err := c.stream.Send(message); err != nil {
		c.test.Fatal(err)
	}
}

// send sends messages with these values as one batch, and returns the first number.
func (c *client) send(attempt uint32, values ...string) uint64 {
	c.test.Helper()
	return c.sendBy(time.Now().Add(time.Hour), attempt, values...)
}

// sendBy is like send with a last moment at which the messages may begin.
func (c *client) sendBy(beginBy time.Time, attempt uint32, values ...string) uint64 {
	c.test.Helper()
	first := c.next
	run := &handlerv1.Run{Topic: "test", Epoch: 1}
	for _, value := range values {
		run.Deliveries = append(run.Deliveries, &handlerv1.Delivery{Offset: int64(c.next), Value: []byte(value), Attempt: attempt})
		c.next++
	}
	c.say(&handlerv1.FromRuntime{Message: &handlerv1.FromRuntime_Batch{Batch: &handlerv1.Batch{
		FirstId: first, BeginByMs: beginBy.UnixMilli(), Runs: []*handlerv1.Run{run},
	}}})
	return first
}

// until reads answers until a condition holds or the stream ends.
func (c *client) until(is func() bool) error {
	for !is() {
		answer, err := c.stream.Recv()
		if err != nil {
			return err
		}
		for _, begun := range answer.Begun {
			for id := begun.FirstId; id < begun.FirstId+begun.Count; id++ {
				c.begun[id] = true
			}
		}
		for _, verdict := range answer.Verdicts {
			for id := verdict.FirstId; id < verdict.FirstId+verdict.Count; id++ {
				c.done[id] = verdict.GetDone() != nil
			}
		}
	}
	return nil
}

func never() bool { return false }

func TestTheReportOfACallThatEndsTheProcessLeavesBefore(t *testing.T) {
	for name, one := range map[string]struct {
		before  int
		attempt uint32
		values  []string
		poison  int
	}{
		"alone":                      {0, 1, []string{"exit"}, 0},
		"a crash":                    {0, 1, []string{"crash"}, 0},
		"among others":               {0, 1, []string{"", "", "second", "", "exit", "", "second"}, 4},
		"again, after many in short": {5000, 2, []string{"exit"}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			for range 5 {
				p := onSocket(t)
				c := p.open()
				for range one.before / 100 {
					c.send(1, times(100, "")...)
				}
				if err := c.until(func() bool { return len(c.done) == one.before }); err != nil {
					t.Fatal(err)
				}
				first := c.send(one.attempt, one.values...)
				if err := c.until(never); errors.Is(err, io.EOF) {
					t.Error("the stream ended in order")
				}
				if !c.begun[first+uint64(one.poison)] {
					t.Error("the poison has not begun")
				}
			}
		})
	}
}

func TestASignalFinishesWhatRunsAndExitsWithZero(t *testing.T) {
	for _, signal := range []os.Signal{syscall.SIGTERM, os.Interrupt} {
		p := onSocket(t)
		c := p.open()
		first := c.send(1, "second")
		p.await("at work")
		p.signal(signal)
		if err := c.until(never); !errors.Is(err, io.EOF) {
			t.Errorf("%v: the stream ended with %v", signal, err)
		}
		expect(t, "done", c.done[first], true)
		expect(t, "exit code", p.exit(), 0)
	}
}

func TestASecondSignalEndsAtOnce(t *testing.T) {
	p := onSocket(t)
	p.open().send(1, "block")
	p.await("at work")
	p.signal(syscall.SIGTERM)
	p.await("stopping")
	p.signal(syscall.SIGTERM)
	expect(t, "exit code", p.exit(), 128+int(syscall.SIGTERM))
}

func TestWhatExpiredWhileTheProcessWasFrozenDoesNotBegin(t *testing.T) {
	p := onSocket(t)
	c := p.open()
	p.freeze()
	beginBy := time.Now().Add(200 * time.Millisecond)
	// It would end the process.
	expired := c.sendBy(beginBy, 1, "exit")
	<-time.After(time.Until(beginBy) + time.Millisecond)
	p.signal(syscall.SIGCONT)
	next := c.send(1, "")
	if err := c.until(func() bool { return len(c.done) == 2 }); err != nil {
		t.Fatal(err)
	}
	if c.begun[expired] || c.done[expired] || !c.done[next] {
		t.Errorf("begun %v, done %v", c.begun, c.done)
	}
}

func TestALiveSocketIsNotTaken(t *testing.T) {
	p := onSocket(t)
	second := startProgram(t, "PENSTOCK_HANDLER_SOCKET="+strings.TrimPrefix(p.address, "unix:"))
	second.await("another process listens on")
	expect(t, "exit code", second.exit(), 1)
	c := p.open()
	c.send(1, "")
	if err := c.until(func() bool { return len(c.done) == 1 }); err != nil {
		t.Error(err)
	}
}

func TestTheSocketOfAKilledProcessIsTaken(t *testing.T) {
	p := onSocket(t)
	p.signal(syscall.SIGKILL)
	p.exit()
	next := startProgram(t, "PENSTOCK_HANDLER_SOCKET="+strings.TrimPrefix(p.address, "unix:"))
	next.await("the handler listens")
}

func TestAFileThatIsNoSocketIsKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "precious")
	if err := os.WriteFile(path, []byte("data"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := startProgram(t, "PENSTOCK_HANDLER_SOCKET="+path)
	p.await("is not a socket")
	expect(t, "exit code", p.exit(), 1)
	if text, err := os.ReadFile(path); string(text) != "data" {
		t.Errorf("%q, %v", text, err)
	}
}

func TestWhereItCannotListenTheErrorSaysWhatToDo(t *testing.T) {
	for variable, wanted := range map[string]string{
		"PORT=http": "it must be a number up to 65535",
		"PORT=-1":   "it must be a number up to 65535",
		"PENSTOCK_HANDLER_SOCKET=/" + strings.Repeat("a", 108): "has at most 107 bytes",
		"PENSTOCK_HANDLER_SOCKET=/nowhere/handler.sock":        "no such file or directory",
	} {
		p := startProgram(t, variable)
		p.await(wanted)
		expect(t, "exit code", p.exit(), 1)
	}
}

func TestAPortIsServedOnAllAddresses(t *testing.T) {
	var addresses []string
	for _, host := range []string{"127.0.0.1", "::1"} {
		if listener, err := net.Listen("tcp", net.JoinHostPort(host, "0")); err == nil {
			listener.Close()
			addresses = append(addresses, host)
		}
	}
	p := startProgram(t, "PORT=0")
	line := p.await("the handler listens")
	port := line[strings.LastIndex(line, ":")+1:]
	for _, host := range addresses {
		p.address = "passthrough:///" + net.JoinHostPort(host, port)
		p.open()
	}
}

func TestTheHealthServiceAnswers(t *testing.T) {
	p := onSocket(t)
	ctx, end := context.WithTimeout(context.Background(), limit)
	defer end()
	health := grpc_health_v1.NewHealthClient(connect(t, p.address))
	watch, err := health.Watch(ctx, &grpc_health_v1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, wanted := range []grpc_health_v1.HealthCheckResponse_ServingStatus{
		grpc_health_v1.HealthCheckResponse_SERVING, grpc_health_v1.HealthCheckResponse_NOT_SERVING,
	} {
		answer, err := watch.Recv()
		if err != nil {
			t.Fatal(err)
		}
		expect(t, "status", answer.Status, wanted)
		if wanted == grpc_health_v1.HealthCheckResponse_SERVING {
			p.signal(syscall.SIGTERM)
		}
	}
	// The watch does not end by itself, and does not keep the process.
	expect(t, "exit code", p.exit(), 0)
}

func TestRunReturnsNilAfterAStop(t *testing.T) {
	listener, err := net.Listen("unix", filepath.Join(t.TempDir(), "handler.sock"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	listening := make(chan net.Addr, 1)
	options := penstock.Options{
		Listener: listener,
		Logger:   slog.New(slog.DiscardHandler),
		Hooks:    penstock.Hooks{Listening: func(address net.Addr) { listening <- address }, Stopping: func() { close(listening) }},
	}
	served := make(chan error, 1)
	go func() { served <- penstock.ServeUntil(ctx, succeed, options) }()
	expect(t, "address", <-listening, listener.Addr())
	stop()
	if err := <-served; err != nil {
		t.Error(err)
	}
	if _, open := <-listening; open {
		t.Error("the hook was not called")
	}
}
