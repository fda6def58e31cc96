//go:build unix

package main

import (
	"fmt"
	"net"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// speaker is a service that says what it does to NOTIFY_SOCKET, and writes it to
// speaker.log: "ready N", "reloaded N", "stop N", where N is the content of the file
// "version" then. A version that says "slow" is not ready before there is a file "go";
// one that says "curt" says only that it is ready when it is told. At SIGUSR1 it calls
// the watchdog, which it satisfies otherwise.
func speaker() {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGTERM, syscall.SIGUSR1)
	every, err := strconv.Atoi(os.Getenv("WATCHDOG_USEC"))
	if err != nil || os.Getenv("WATCHDOG_PID") != strconv.Itoa(os.Getpid()) {
		os.Exit(9)
	}
	version := func() string {
		data, _ := os.ReadFile("version")
		return strings.TrimSpace(string(data))
	}
	put := func(what string) {
		f, err := os.OpenFile("speaker.log", os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
		if err == nil {
			_, err = fmt.Fprintln(f, what, version())
		}
		if err != nil || f.Close() != nil {
			os.Exit(7)
		}
	}
	say := func(text string) {
		// Anew each time, as sd_notify does: the next agent has another socket there.
		conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: os.Getenv("NOTIFY_SOCKET"), Net: "unixgram"})
		if err != nil { // there is no agent just now
			return
		}
		_, _ = conn.Write([]byte(text))
		_ = conn.Close()
	}
	if strings.Contains(version(), "slow") {
		put("waits")
		for missing := true; missing; time.Sleep(time.Millisecond) {
			_, err := os.Stat("go")
			missing = err != nil
		}
	}
	put("ready")
	say("READY=1\nSTATUS=version " + version())
	alive := time.NewTicker(time.Duration(every) * time.Microsecond / 4)
	defer alive.Stop()
	for {
		select {
		case <-alive.C:
			say("WATCHDOG=1")
		case s := <-signals:
			switch s {
			case syscall.SIGTERM:
				say("STOPPING=1")
				put("stop")
				os.Exit(0)
			case syscall.SIGUSR1:
				say("WATCHDOG=trigger")
			default:
				put("reloaded")
				if !strings.Contains(version(), "curt") {
					say("RELOADING=1")
				}
				say("READY=1\nSTATUS=version " + version())
			}
		}
	}
}
