// Goserver is a plain HTTP server that can be patched without a request being lost:
//
//   - It takes the socket that it finds open (LISTEN_FDS), and listens on -listen
//     only where there is none. Clients wait in the held socket's backlog while one
//     version ends and the next one starts.
//   - It says READY=1 to NOTIFY_SOCKET once it serves.
//   - On SIGTERM it takes no more connections, answers all that it has taken, and ends.
//   - On SIGHUP it reads the file again that it answers from: RELOADING=1, then READY=1.
//
// It answers / with the content of -file and /healthz with ok, if that content is a
// number; another content is served and not healthy.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:8080", "the `address` to serve on where no socket is handed over")
	file := flag.String("file", "build.txt", "what is answered")
	flag.Parse()
	if err := run(*listen, *file); err != nil {
		fmt.Fprintln(os.Stderr, "goserver:", err)
		os.Exit(1)
	}
}

// grace is how long requests may take to finish.
const grace = 5 * time.Second

func run(address, file string) error {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGTERM, syscall.SIGINT)
	var build atomic.Value
	first, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	build.Store(string(first))
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, build.Load()) })
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		if _, err := strconv.Atoi(strings.TrimSpace(build.Load().(string))); err != nil {
			http.Error(w, "the build is not a number", http.StatusInternalServerError)
			return
		}
		fmt.Fprintln(w, "ok")
	})

	l, err := socket(address)
	if err != nil {
		return err
	}
	taken := newDrain(l)
	server := http.Server{Handler: mux, ReadHeaderTimeout: grace, ConnState: taken.follow}
	served := make(chan error, 1)
	go func() { served <- server.Serve(taken) }()
	notify("READY=1\nSTATUS=serving " + l.Addr().String())
	for {
		select {
		case err := <-served:
			return err
		case s := <-signals:
			if s != syscall.SIGHUP {
				return stop(&server, taken, served)
			}
			notify("RELOADING=1" + monotonic())
			if next, err := os.ReadFile(file); err != nil {
				fmt.Fprintln(os.Stderr, "goserver: keeping what there is:", err)
			} else {
				build.Store(string(next))
			}
			notify("READY=1")
		}
	}
}

// stop takes no more connections, waits until those that were taken are answered, and
// only then shuts the server down: once Shutdown has begun the server gives no answer to
// a request that it reads on a connection taken before, and closes that.
func stop(server *http.Server, taken *drain, served <-chan error) error {
	notify("STOPPING=1")
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	server.SetKeepAlivesEnabled(false) // each answer says that it is the last of its connection
	taken.stop()
	<-served
	taken.wait(ctx)
	if err := server.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return server.Close()
}

// firstDescriptor is where handed-over sockets begin, see sd_listen_fds(3).
const firstDescriptor = 3

// socket is the one that was handed over, if one was, or a new one.
func socket(address string) (net.Listener, error) {
	pid, _ := strconv.Atoi(os.Getenv("LISTEN_PID"))
	if n, _ := strconv.Atoi(os.Getenv("LISTEN_FDS")); n < 1 || pid != os.Getpid() {
		return net.Listen("tcp", address)
	}
	f := os.NewFile(firstDescriptor, os.Getenv("LISTEN_FDNAMES"))
	defer f.Close() // the listener has a copy
	return net.FileListener(f)
}

// notify tells the service manager, if there is one, see sd_notify(3).
func notify(state string) {
	name := os.Getenv("NOTIFY_SOCKET")
	if name == "" {
		return
	}
	conn, err := net.Dial("unixgram", name)
	if err == nil {
		_, err = conn.Write([]byte(state))
		_ = conn.Close()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "goserver: cannot notify:", err)
	}
}
