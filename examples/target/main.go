// Target is a sample process for patches. It says which version it is and what
// its job is, which it reads from work/job.json:
//
//	{"job": "count sheep"}
//
// and which is nothing where that file is missing.
//
// Over HTTP on loopback, / answers both in one line and /healthz answers ok. On
// SIGHUP it reads the job again; a job that cannot be read leaves the old one. On
// SIGTERM it lets requests finish and ends.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"
)

// version is set at build time: go build -ldflags "-X main.version=v2.0".
var version = "v1.0"

const jobFile = "work/job.json"

func main() {
	listen := flag.String("listen", "127.0.0.1:8080", "the `address` to serve on")
	flag.Parse()
	if err := run(*listen); err != nil {
		fmt.Fprintln(os.Stderr, "target:", err)
		os.Exit(1)
	}
}

func run(listen string) error {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGTERM, syscall.SIGINT)
	first, err := readJob()
	if err != nil {
		return err
	}
	var job atomic.Value
	job.Store(first)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintf(w, "%s %s\n", version, job.Load()) })
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })

	l, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	server := http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	fmt.Printf("%s listening on %s, job: %s\n", version, l.Addr(), first)
	for {
		select {
		case err := <-served:
			return err
		case s := <-signals:
			if s != syscall.SIGHUP {
				return stop(&server)
			}
			next, err := readJob()
			if err != nil {
				fmt.Println("keeping the old job:", err)
				continue
			}
			job.Store(next)
			fmt.Println("starting a new job:", next)
		}
	}
}

func readJob() (string, error) {
	data, err := os.ReadFile(jobFile)
	if errors.Is(err, fs.ErrNotExist) {
		return "nothing", nil
	}
	if err != nil {
		return "", fmt.Errorf("cannot read the job: %w", err)
	}
	var file struct{ Job string }
	if err := json.Unmarshal(data, &file); err != nil {
		return "", fmt.Errorf("cannot read the job: %s: %w", jobFile, err)
	}
	return file.Job, nil
}

// grace is how long requests may take to finish.
const grace = 5 * time.Second

func stop(server *http.Server) error {
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	if err := server.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return server.Close()
}
