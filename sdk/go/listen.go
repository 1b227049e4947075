package penstock

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

const (
	defaultSocket = "/run/penstock/handler.sock"
	// The maximum length of a Unix socket's path on Linux; macOS takes 103.
	maxSocket = 107
)

// listen listens where the environment says.
func listen() (net.Listener, error) {
	socket, port := os.Getenv("PENSTOCK_HANDLER_SOCKET"), os.Getenv("PORT")
	if socket != "" {
		return listenUnix(socket)
	}
	if port != "" {
		number, err := strconv.ParseUint(port, 10, 16)
		if err != nil {
			return nil, fmt.Errorf("PORT is %q; it must be a number up to 65535", port)
		}
		// All addresses, of IPv4 and IPv6, or of the one that the pod has.
		return net.Listen("tcp", ":"+strconv.FormatUint(number, 10))
	}
	listener, err := listenUnix(defaultSocket)
	if err != nil {
		return nil, fmt.Errorf("%w; outside of a pod set PENSTOCK_HANDLER_SOCKET or PORT, as penstock dev does", err)
	}
	return listener, nil
}

// listenUnix listens on a socket, and removes one that a killed process has left. It
// touches neither a socket on which somebody listens nor a file of another kind.
func listenUnix(path string) (net.Listener, error) {
	if len(path) > maxSocket {
		return nil, fmt.Errorf("the path of a socket has at most %d bytes: %s", maxSocket, path)
	}
	unlock, err := lockDirectory(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := removeStale(path); err != nil {
		return nil, err
	}
	return net.Listen("unix", path)
}

func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%s is not a socket; remove it, or choose another path", path)
	}
	connection, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		connection.Close()
		return fmt.Errorf("another process listens on %s", path)
	}
	if !isRefused(err) {
		return fmt.Errorf("it is unknown whether another process listens on %s: %w", path, err)
	}
	return os.Remove(path)
}
