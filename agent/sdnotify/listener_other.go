//go:build !linux

package sdnotify

import (
	"context"
	"errors"
	"io/fs"
	"time"
)

// MaxPath is how long the path of a socket may be.
const MaxPath = 103

var errSystem = errors.New("this version receives messages of sd_notify on Linux only")

// Listener exists on Linux only.
type Listener struct{}

// Listen fails.
func Listen(string, fs.FileMode) (*Listener, error) { return nil, errSystem }

// Path is empty.
func (*Listener) Path() string { return "" }

// Close does nothing.
func (*Listener) Close() error { return nil }

// Leave does nothing.
func (*Listener) Leave() error { return nil }

// Serve returns at once.
func (*Listener) Serve(func(*Received), func(Sender, error)) {}

// Flush fails.
func (*Listener) Flush(context.Context) error { return errSystem }

// Now is 0.
func Now() time.Duration { return 0 }
