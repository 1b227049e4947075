package penstock

import (
	"context"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/peer"
)

// How long a call waits until the report that it begins is written. It is never so long,
// unless the runtime does not read.
const maxWriteWait = time.Second

// wire is a connection that knows how much of each stream it has written. gRPC's Send
// returns before that; but a report of a call that ends the process must leave it first.
type wire struct {
	net.Conn

	// Of the frame that is being written.
	header [9]byte
	have   int
	left   int
	stream uint32
	isData bool

	mutex sync.Mutex
	// The bytes of data by stream, of those that have not ended.
	data    map[uint32]uint64
	changed chan struct{}
}

// The types and flags of HTTP/2 frames, RFC 9113.
const (
	frameData     = 0x0
	frameHeaders  = 0x1
	frameReset    = 0x3
	flagEndStream = 0x1
)

func (w *wire) Write(bytes []byte) (int, error) {
	count, err := w.Conn.Write(bytes)
	w.mutex.Lock()
	defer w.mutex.Unlock()
	w.note(bytes[:count])
	if w.changed != nil {
		close(w.changed)
		w.changed = nil
	}
	return count, err
}

func (w *wire) note(bytes []byte) {
	for len(bytes) > 0 {
		if w.left > 0 {
			count := min(w.left, len(bytes))
			if w.isData {
				w.data[w.stream] += uint64(count)
			}
			w.left -= count
			bytes = bytes[count:]
			continue
		}
		count := copy(w.header[w.have:], bytes)
		w.have += count
		bytes = bytes[count:]
		if w.have < len(w.header) {
			return
		}
		w.have = 0
		h := w.header
		w.left = int(h[0])<<16 | int(h[1])<<8 | int(h[2])
		w.stream = (uint32(h[5])<<24 | uint32(h[6])<<16 | uint32(h[7])<<8 | uint32(h[8])) & 0x7fffffff
		w.isData = h[3] == frameData
		// A server ends a stream with headers or a reset.
		if h[3] == frameReset || h[3] == frameHeaders && h[4]&flagEndStream != 0 {
			delete(w.data, w.stream)
		}
	}
}

// await waits until some stream has written so many bytes, or at most maxWriteWait. The
// handler's stream is the one that writes most: the others are health checks.
func (w *wire) await(bytes uint64, ended <-chan struct{}) {
	limit := time.NewTimer(maxWriteWait)
	defer limit.Stop()
	for {
		w.mutex.Lock()
		for _, data := range w.data {
			if data >= bytes {
				w.mutex.Unlock()
				return
			}
		}
		if w.changed == nil {
			w.changed = make(chan struct{})
		}
		changed := w.changed
		w.mutex.Unlock()
		select {
		case <-changed:
		case <-ended:
			return
		case <-limit.C:
			return
		}
	}
}

// plaintext is no encryption, as the contract has it, with a [wire] for each connection.
type plaintext struct {
	credentials.TransportCredentials
}

func newPlaintext() plaintext { return plaintext{insecure.NewCredentials()} }

func (plaintext) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	w := &wire{Conn: conn, data: map[uint32]uint64{}}
	level := credentials.CommonAuthInfo{SecurityLevel: credentials.NoSecurity}
	return w, wireInfo{level, w}, nil
}

func (p plaintext) Clone() credentials.TransportCredentials {
	return plaintext{p.TransportCredentials.Clone()}
}

type wireInfo struct {
	credentials.CommonAuthInfo
	wire *wire
}

func (wireInfo) AuthType() string { return "insecure" }

// wireOf returns the connection of a stream; nil if it is another server's.
func wireOf(ctx context.Context) *wire {
	if peer, ok := peer.FromContext(ctx); ok {
		if info, ok := peer.AuthInfo.(wireInfo); ok {
			return info.wire
		}
	}
	return nil
}
