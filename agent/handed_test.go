package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// serveHanded answers every connection to the sockets of LISTEN_FDS with the version,
// one after the other, until the end; then none is in the middle of its answer.
func serveHanded() (end func()) {
	const first = 3
	count, _ := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	if os.Getenv("LISTEN_PID") != strconv.Itoa(os.Getpid()) {
		count = 0
	}
	version, _ := os.ReadFile("version")
	var serving sync.WaitGroup
	var all []net.Listener
	for i := range count {
		l, err := net.FileListener(os.NewFile(uintptr(first+i), "handed"))
		if err != nil {
			os.Exit(8)
		}
		all = append(all, l)
		serving.Go(func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = fmt.Fprintf(conn, "%s\n", strings.TrimSpace(string(version)))
				_ = conn.Close()
			}
		})
	}
	return func() {
		for _, l := range all {
			_ = l.Close()
		}
		serving.Wait()
	}
}

// clients connect to the unix socket that is the first argument, one after the other,
// until there is the file that is the second one, and print each answer that is not
// the one before. One who is refused or gets none is an error.
func clients() {
	var last string
	for {
		answer, err := askSocket(os.Args[1])
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		if answer != last {
			fmt.Println(answer)
			last = answer
		}
		if _, err := os.Stat(os.Args[2]); !errors.Is(err, fs.ErrNotExist) {
			return
		}
		time.Sleep(time.Millisecond) // the rate, not a synchronisation
	}
}

func askSocket(path string) (string, error) {
	conn, err := net.DialTimeout("unix", path, patience)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return strings.TrimSpace(line), err
}

// conditions of the stories: [tracing] says whether sockets can be copied from a
// process that is no child (see ptrace(2), ptrace_scope).
func conditions(name string) (bool, error) {
	if name != "tracing" {
		return false, fmt.Errorf("there is no condition %s", name)
	}
	scope, err := os.ReadFile("/proc/sys/kernel/yama/ptrace_scope")
	return err != nil || os.Getuid() == 0 || bytes.HasPrefix(scope, []byte("0")), nil
}
