//go:build unix

package main

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"patchagent/examples/load/openloop"
)

// The test binary is the server where it is asked to be.
func TestMain(m *testing.M) {
	if os.Getenv("ROLE") == "server" {
		main()
		return
	}
	os.Exit(m.Run())
}

// patience is how long a busy machine may take for one step.
const patience = 2 * time.Minute

// start starts the server on a socket that is open in it, and with file as what it
// answers.
func start(t *testing.T, socket *os.File, file string) *exec.Cmd {
	t.Helper()
	// The shell becomes the server: so its pid is known in time.
	cmd := exec.Command("/bin/sh", "-c", `LISTEN_PID=$$ exec "$0" "$@"`, os.Args[0], "-file", file)
	cmd.Env = []string{"ROLE=server", "LISTEN_FDS=1"}
	cmd.ExtraFiles = []*os.File{socket}
	cmd.Stderr = t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	})
	return cmd
}

// Servers that follow one another on one socket lose no connection between them,
// though each is told to end in the middle of many.
func TestServersFollowOneAnother(t *testing.T) {
	const servers, rate, some = 8, 400, 20
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	socket, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	ask := openloop.HTTP{Address: l.Addr().String(), Path: "/", Want: []string{"200"}}
	var answered atomic.Int32
	load := openloop.Load{Rate: rate, Count: 300 * rate, Timeout: patience, Ask: func(ctx context.Context) error {
		err := ask.Ask(ctx)
		if err == nil {
			answered.Add(1)
		}
		return err
	}}
	ctx, end := context.WithCancel(t.Context())
	var sum openloop.Summary
	var loading sync.WaitGroup
	loading.Go(func() { sum = load.Run(ctx).Summary() })
	defer loading.Wait()
	defer end()

	for i := range servers {
		server := start(t, socket, "site/build.txt")
		enough := answered.Load() + some
		if !eventually(t.Context(), func() bool { return answered.Load() >= enough }) {
			t.Fatalf("server %d does not answer", i)
		}
		if i == servers-1 { // it answers those that wait
			end()
			loading.Wait()
		}
		if err := errors.Join(server.Process.Signal(syscall.SIGTERM), server.Wait()); err != nil {
			t.Errorf("server %d: %v", i, err)
		}
	}
	if sum.Failed() > 0 {
		t.Error(sum)
	}
}

func eventually(ctx context.Context, yes func() bool) bool {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	look := time.NewTicker(time.Millisecond)
	defer look.Stop()
	for !yes() {
		select {
		case <-ctx.Done():
			return false
		case <-look.C:
		}
	}
	return true
}
