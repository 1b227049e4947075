//go:build unix

package penstock

import (
	"errors"
	"os"
	"syscall"
)

// lockDirectory keeps two processes that start from both removing a socket.
func lockDirectory(path string) (unlock func(), err error) {
	directory, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	for {
		err = syscall.Flock(int(directory.Fd()), syscall.LOCK_EX)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	// Not every file system has locks; the check for a listener remains.
	return func() { directory.Close() }, nil
}

func isRefused(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }
