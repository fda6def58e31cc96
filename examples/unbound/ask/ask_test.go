package main

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"patchagent/examples/load/openloop"
)

// answered is an answer to q with one record of a kind; its name points at the question.
func answered(q []byte, kind byte, data string) []byte {
	m := slices.Clone(q)
	m[2] |= 0x80 // an answer
	m[7] = 1     // record
	m = append(m, 0xc0, header, 0, kind, 0, classIN, 0, 0, 0, 60, 0, byte(len(data)))
	return append(m, data...)
}

// A question is asked once, what does not answer it is passed over, and the text is
// what counts.
func TestAsk(t *testing.T) {
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		q := make([]byte, maxMessage)
		for {
			n, from, err := server.ReadFrom(q)
			if err != nil {
				return
			}
			other := answered(q[:n], typeTXT, "\x05wrong")
			other[0]++
			for _, m := range [][]byte{q[:n], other, answered(q[:n], typeTXT, "\x05right")} {
				_, _ = server.WriteTo(m, from)
			}
		}
	}()
	defer func() { _ = server.Close(); <-done }()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	address := server.LocalAddr().String()
	if text, err := ask(ctx, address, "build.example.", ""); text != "right" || err != nil {
		t.Errorf("%q %v", text, err)
	}
	if _, err := ask(ctx, address, "build.example", "another"); !errors.Is(err, openloop.ErrWrong) {
		t.Error(err)
	}
	if _, err := ask(ctx, address, "build..example", ""); err == nil {
		t.Error("an empty label is asked for")
	}
}

// An answer that is cut short anywhere, or has no text, is an error and nothing worse.
func TestAnswers(t *testing.T) {
	q, err := query("build.example")
	if err != nil {
		t.Fatal(err)
	}
	whole := answered(q, typeTXT, "\x03200")
	if text, mine, err := textOf(whole, q); text != "200" || !mine || err != nil {
		t.Errorf("%q %t %v", text, mine, err)
	}
	for n := range whole {
		if text, _, err := textOf(whole[:n], q); text != "" || n >= len(q) && err == nil {
			t.Errorf("of %d bytes: %q %v", n, text, err)
		}
	}
	refused := answered(q, typeTXT, "\x03200")
	refused[3] |= 3 // no such name
	for want, m := range map[string][]byte{"has no text": answered(q, 1, "abcd"), "code 3": refused, "cut short": answered(q, typeTXT, "\x03200")[:len(whole)-1]} {
		if _, mine, err := textOf(m, q); !mine || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %t %v", want, mine, err)
		}
	}
}
