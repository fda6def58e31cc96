package main

import (
	"context"
	"net"
	"net/http"
	"sync"
)

// A drain counts the connections that were taken from a listener and have not ended.
type drain struct {
	net.Listener

	mu      sync.Mutex
	open    map[net.Conn]bool // true: a request was answered on it, and no other has begun
	changed chan struct{}     // closed at each change
}

func newDrain(l net.Listener) *drain {
	return &drain{Listener: l, open: map[net.Conn]bool{}, changed: make(chan struct{})}
}

// Accept takes a connection. It is counted before the server sees it, so that none is
// between the two.
func (d *drain) Accept() (net.Conn, error) {
	conn, err := d.Listener.Accept()
	if err == nil {
		d.set(conn, false)
	}
	return conn, err
}

// follow is the server's http.Server.ConnState.
func (d *drain) follow(conn net.Conn, state http.ConnState) {
	switch state {
	case http.StateActive:
		d.set(conn, false)
	case http.StateIdle:
		d.set(conn, true)
	case http.StateClosed, http.StateHijacked:
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.open, conn)
		d.tell()
	}
}

func (d *drain) set(conn net.Conn, answered bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.open[conn] = answered
	d.tell()
}

func (d *drain) tell() {
	close(d.changed)
	d.changed = make(chan struct{})
}

// stop takes no more connections. It closes this process's descriptor only: the
// socket goes on collecting connections for whoever else holds it, which shutdown(2)
// would end.
func (d *drain) stop() { _ = d.Close() }

// wait returns when every connection that was taken has ended or had its answer and
// asks for nothing more, or when ctx ends.
func (d *drain) wait(ctx context.Context) {
	for {
		d.mu.Lock()
		waiting := 0
		for _, answered := range d.open {
			if !answered {
				waiting++
			}
		}
		changed := d.changed
		d.mu.Unlock()
		if waiting == 0 {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}
