//go:build unix

package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

// A connection that was taken before the end began is answered, though its request
// comes only then; and one on which an answer was given keeps nobody waiting.
func TestTakenBeforeTheEnd(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	taken := newDrain(l)
	server := http.Server{
		Handler:   http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "answered") }),
		ConnState: taken.follow,
	}
	defer server.Close()
	served := make(chan error, 1)
	go func() { served <- server.Serve(taken) }()
	dial := func() net.Conn {
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return conn
	}
	request := func(conn net.Conn) {
		if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: here\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
	}

	silent, idle := dial(), dial() // connections are taken in their order
	request(idle)
	if _, err := idle.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	stopped := make(chan error, 1)
	go func() { stopped <- stop(&server, taken, served) }()
	if !eventually(t.Context(), func() bool {
		conn, err := net.Dial("tcp", l.Addr().String())
		if err == nil {
			_ = conn.Close()
		}
		return err != nil
	}) {
		t.Fatal("it goes on taking connections")
	}
	request(silent)
	answer, err := io.ReadAll(silent)
	if err != nil || !strings.HasSuffix(string(answer), "answered") {
		t.Errorf("%q %v", answer, err)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}
