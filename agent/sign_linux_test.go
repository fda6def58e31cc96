package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// newTerminal is a terminal of somebody's who types, and what a program has of it.
func newTerminal(t *testing.T) (somebody, program *os.File) {
	t.Helper()
	somebody, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { _ = somebody.Close() })
	if err := unix.IoctlSetPointerInt(int(somebody.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(int(somebody.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	program, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = program.Close() })
	return somebody, program
}

// What is typed is not shown, the terminal is as it was afterwards, and Ctrl-C, Ctrl-D
// and a signal end it with nothing written.
func TestPassphraseOnATerminal(t *testing.T) {
	for _, c := range []struct{ typed, says string }{
		{"secret\rother\r", "the two passphrases are not the same"},
		{"\r", "an empty passphrase protects nothing"},
		{"\x04", "interrupted; nothing was written"},
		{"secret\r\x04", "interrupted; nothing was written"},
		{"\x03", "interrupted; nothing was written"},
		{"sec\x03", "interrupted; nothing was written"},
		{"", "interrupted; nothing was written"}, // by a signal
	} {
		somebody, program := newTerminal(t)
		before, err := unix.IoctlGetTermios(int(program.Fd()), unix.TCGETS)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		dir := t.TempDir()
		var out, errs bytes.Buffer
		asked := false
		var mu sync.Mutex // who waits for somebody to type is left behind by a signal
		screen := writerFunc(func(p []byte) (int, error) {
			mu.Lock()
			defer mu.Unlock()
			n, _ := errs.Write(p)
			if asked || !strings.Contains(errs.String(), "New passphrase: ") {
				return n, nil
			}
			asked = true
			if c.typed == "" {
				cancel()
			}
			_, err := somebody.WriteString(c.typed)
			return n, err
		})
		status := Run(ctx, []string{"keygen", "-p", filepath.Join(dir, "p"), "-s", filepath.Join(dir, "s")}, Program{In: program, Out: &out, Err: screen})
		cancel()
		mu.Lock()
		said := errs.String()
		mu.Unlock()
		if status != exitFailed || !strings.Contains(said, c.says) || strings.Contains(said, "sec") || out.Len() > 0 {
			t.Errorf("%q: status %d\n%s%s", c.typed, status, out.String(), said)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("%q: %v, %v", c.typed, left, err)
		}
		after, err := unix.IoctlGetTermios(int(program.Fd()), unix.TCGETS)
		if err != nil || *after != *before {
			t.Errorf("%q: the terminal was %+v and is %+v, %v", c.typed, before, after, err)
		}
	}
}

// A key that is being derived is not waited for when somebody has had enough.
func TestKeygenInterrupted(t *testing.T) {
	if testing.Short() {
		t.Skip("a passphrase takes a second and a gigabyte each time")
	}
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	var out bytes.Buffer
	errs := writerFunc(func(p []byte) (int, error) {
		if strings.Contains(string(p), "Deriving a key") {
			cancel()
		}
		return len(p), nil
	})
	status := Run(ctx, []string{"keygen", "-p", filepath.Join(dir, "p"), "-s", filepath.Join(dir, "s")},
		Program{In: strings.NewReader("secret\nsecret\n"), Out: &out, Err: errs})
	if left, err := os.ReadDir(dir); status != exitFailed || out.Len() > 0 || err != nil || len(left) > 0 {
		t.Errorf("status %d, %q, %v, %v", status, out.String(), left, err)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
