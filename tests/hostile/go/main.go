// A handler that does what the header "behaviour" of a message says, and nothing without one.
//
// --list prints the behaviours. Each call writes partition, offset and attempt to
// HOSTILE_JOURNAL.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"

	penstock "penstock.dev/sdk/go"
)

type call = func(ctx context.Context, message *penstock.Message) error

// kept is never freed.
var kept [][]byte

// unreadable is an error that panics when it is asked for its text.
type unreadable struct{ text string }

func (e *unreadable) Error() string { return e.text }

func recurse(depth int) int { return recurse(depth+1) + 1 }

var behaviours = map[string]call{
	// Errors and panics.
	"raise":            func(context.Context, *penstock.Message) error { return errors.New("no database") },
	"panic":            func(context.Context, *penstock.Message) error { panic("no database") },
	"throw-nothing":    func(context.Context, *penstock.Message) error { panic(nil) },
	"unreadable-error": func(context.Context, *penstock.Message) error { var err *unreadable; return err },
	"allocate-too-much": func(_ context.Context, message *penstock.Message) error {
		kept = append(kept, make([]byte, int64(message.Attempt)<<61))
		return nil
	},
	"exit-its-goroutine": func(context.Context, *penstock.Message) error { runtime.Goexit(); return nil },

	// Verdicts.
	"return-retry": func(context.Context, *penstock.Message) error { return penstock.Retry{Reason: "still busy"} },
	"return-skip":  func(context.Context, *penstock.Message) error { return penstock.Skip{Reason: "a test message"} },
	"return-dead-letter": func(context.Context, *penstock.Message) error {
		return penstock.DeadLetter{Reason: "a negative amount"}
	},
	"return-fail": func(context.Context, *penstock.Message) error { return penstock.Fail{Reason: "no such order"} },
	"wrapped-verdict": func(context.Context, *penstock.Message) error {
		return fmt.Errorf("order 7: %w", penstock.DeadLetter{Reason: "a negative amount"})
	},
	"huge-reason": func(context.Context, *penstock.Message) error {
		return penstock.Fail{Reason: strings.Repeat("x", 8<<20)}
	},
	"reason-not-text": func(context.Context, *penstock.Message) error { return penstock.Fail{Reason: "odd \xff\xfe"} },
	"reason-with-lines": func(context.Context, *penstock.Message) error {
		return penstock.Fail{Reason: "first\r\nsecond\x00 \x1b[31mred"}
	},
	"reason-empty": func(context.Context, *penstock.Message) error { return penstock.Fail{} },
	"negative-delay": func(context.Context, *penstock.Message) error {
		return penstock.Retry{Reason: "busy", Delay: -5 * time.Second}
	},
	"endless-delay": func(context.Context, *penstock.Message) error {
		return penstock.Retry{Reason: "much later", Delay: 1<<63 - 1}
	},

	// Records.
	"produce": func(_ context.Context, message *penstock.Message) error {
		return message.Produce(penstock.Record{Topic: "out", Value: []byte("1")})
	},
	"produce-too-much": func(_ context.Context, message *penstock.Message) error {
		for range 20 {
			_ = message.Produce(penstock.Record{Topic: "out", Value: make([]byte, 1<<20)})
		}
		return nil
	},
	"produce-nonsense": func(_ context.Context, message *penstock.Message) error {
		_ = message.Produce(penstock.Record{Value: []byte("1")})
		return nil
	},
	"produce-late": func(_ context.Context, message *penstock.Message) error {
		time.AfterFunc(100*time.Millisecond, func() {
			_ = message.Produce(penstock.Record{Topic: "out", Value: []byte("1")})
		})
		return nil
	},

	// Time.
	"take-too-long": func(ctx context.Context, _ *penstock.Message) error {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(3 * time.Second):
			return nil
		}
	},
	"ignore-cancel": func(context.Context, *penstock.Message) error { time.Sleep(4 * time.Second); return nil },
	"answer-too-late": func(ctx context.Context, _ *penstock.Message) error {
		<-ctx.Done()
		// The SDK's clock and the runtime's end within moments of each other.
		time.Sleep(500 * time.Millisecond)
		return nil
	},
	"wait-forever": func(context.Context, *penstock.Message) error { select {} },
	"extend": func(_ context.Context, message *penstock.Message) error {
		err := message.Extend(3500 * time.Millisecond)
		time.Sleep(2500 * time.Millisecond)
		return err
	},
	"extend-forever": func(ctx context.Context, message *penstock.Message) error {
		for ctx.Err() == nil {
			_ = message.Extend(time.Hour)
			time.Sleep(100 * time.Millisecond)
		}
		return nil
	},
	"extend-nonsense": func(_ context.Context, message *penstock.Message) error { return message.Extend(-1) },

	// What it leaves behind.
	"outlive": func(context.Context, *penstock.Message) error {
		until := time.Now().Add(2 * time.Second)
		for range 100 {
			go func() {
				for time.Now().Before(until) {
					time.Sleep(time.Millisecond)
				}
			}()
		}
		return nil
	},
	"change-message": func(_ context.Context, message *penstock.Message) error {
		message.Topic, message.Key, message.Headers, message.Offset, message.Attempt = "", nil, nil, -1, 0
		return nil
	},
	"close-output": func(context.Context, *penstock.Message) error { _ = os.Stdout.Close(); return nil },
	"flood-output": func(context.Context, *penstock.Message) error {
		for range 2000 {
			_, _ = os.Stderr.Write(append(bytes.Repeat([]byte("flood "), 170), '\n'))
		}
		return nil
	},
	"leak": func(context.Context, *penstock.Message) error {
		kept = append(kept, bytes.Repeat([]byte("x"), 32<<20))
		return nil
	},
	"start-a-process": func(context.Context, *penstock.Message) error {
		command := exec.Command("sleep", "30")
		command.Stdout, command.Stderr = os.Stdout, os.Stderr
		return command.Start()
	},
	"exhaust-files": func(context.Context, *penstock.Message) error {
		var limit syscall.Rlimit
		if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
			return err
		}
		low := limit
		low.Cur = 256
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &low); err != nil {
			return err
		}
		var files []*os.File
		defer func() {
			time.Sleep(300 * time.Millisecond)
			_ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
			for _, file := range files {
				_ = file.Close()
			}
		}()
		for {
			file, err := os.Open("/dev/null")
			if err != nil {
				return err
			}
			files = append(files, file)
		}
	},

	// The process ends.
	"exit-with-0":        func(context.Context, *penstock.Message) error { os.Exit(0); return nil },
	"exit-with-1":        func(context.Context, *penstock.Message) error { os.Exit(1); return nil },
	"abort":              func(context.Context, *penstock.Message) error { return kill(syscall.SIGABRT) },
	"kill-itself":        func(context.Context, *penstock.Message) error { return kill(syscall.SIGKILL) },
	"segfault":           func(context.Context, *penstock.Message) error { return kill(syscall.SIGSEGV) },
	"exit-and-stay-away": func(context.Context, *penstock.Message) error { os.Exit(75); return nil },
	"overflow-the-stack": func(context.Context, *penstock.Message) error {
		debug.SetMaxStack(1 << 20)
		recurse(0)
		return nil
	},
	"terminate-itself": func(context.Context, *penstock.Message) error {
		return syscall.Kill(os.Getpid(), syscall.SIGTERM)
	},
	"exit-later": func(context.Context, *penstock.Message) error {
		time.AfterFunc(20*time.Millisecond, func() { os.Exit(1) })
		return nil
	},
	"exit-in-a-finalizer": func(context.Context, *penstock.Message) error {
		runtime.SetFinalizer(&unreadable{text: "garbage"}, func(*unreadable) { os.Exit(1) })
		time.AfterFunc(20*time.Millisecond, runtime.GC)
		return nil
	},
	"panic-in-the-background": func(context.Context, *penstock.Message) error {
		go func() {
			time.Sleep(20 * time.Millisecond)
			panic("in the background")
		}()
		return nil
	},

	// The process stands still.
	"freeze": func(context.Context, *penstock.Message) error {
		script := fmt.Sprintf("sleep 3; kill -CONT %d", os.Getpid())
		if err := exec.Command("sh", "-c", script).Start(); err != nil {
			return err
		}
		return syscall.Kill(os.Getpid(), syscall.SIGSTOP)
	},
}

// kill sends a signal that ends the process, and waits for it.
func kill(signal syscall.Signal) error {
	if err := syscall.Kill(os.Getpid(), signal); err != nil {
		return err
	}
	select {}
}

func handler(journal *os.File) call {
	return func(ctx context.Context, message *penstock.Message) error {
		place := fmt.Sprintf("%d %d %d\n", message.Partition, message.Offset, message.Attempt)
		if _, err := journal.WriteString(place); err != nil {
			return err
		}
		name, found := message.Header("behaviour")
		if found {
			if times, limited := message.Header("times"); limited {
				limit, err := strconv.Atoi(string(times))
				if err != nil {
					return err
				}
				found = int(message.Attempt) <= limit
			}
		}
		if !found {
			// Some are at work whenever another one ends the process.
			time.Sleep(3 * time.Millisecond)
			return nil
		}
		return behaviours[string(name)](ctx, message)
	}
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == "--list" {
		for name := range behaviours {
			fmt.Println(name)
		}
		return
	}
	journal, err := os.OpenFile(os.Getenv("HOSTILE_JOURNAL"), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err != nil {
		log.Fatal(err)
	}
	if err := penstock.Serve(handler(journal), penstock.Options{}); err != nil {
		log.Fatal(err)
	}
}
