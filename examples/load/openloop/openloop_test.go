package openloop

import (
	"context"
	"fmt"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"patchagent/examples/site"
)

// rate is moderate: these tests share their machine with others.
const rate = 250

// A server handles one connection after the other.
type server struct {
	addr     string
	listener net.Listener
	done     chan struct{}
}

func serve(t *testing.T, addr string, handle func(net.Conn)) *server {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	s := &server{addr: l.Addr().String(), listener: l, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			handle(conn)
		}
	}()
	t.Cleanup(s.close)
	return s
}

func (s *server) close() {
	_ = s.listener.Close()
	<-s.done
}

func answer(body string) func(net.Conn) {
	return func(conn net.Conn) {
		defer conn.Close()
		_, _ = conn.Read(make([]byte, 1<<10))
		fmt.Fprintf(conn, "HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	}
}

// A server that answers, goes away and comes back is seen to do that: each request
// has one outcome, and those of the time between are refused.
func TestServerGoesAwayAndComesBack(t *testing.T) {
	address, err := site.FreeAddress() // that nobody is given while the server is away
	if err != nil {
		t.Fatal(err)
	}
	s := serve(t, address, answer("here\n"))
	ask := HTTP{Address: s.addr, Path: "/", Want: []string{"here"}}
	var answered, refused atomic.Int32
	ctx, enough := context.WithCancel(t.Context())
	defer enough()
	result := make(chan *Result, 1)
	go func() {
		result <- Load{Rate: rate, Count: 60 * rate, Timeout: 20 * time.Second, Ask: func(ctx context.Context) error {
			err := ask.Ask(ctx)
			switch outcomeOf(err) {
			case OK:
				answered.Add(1)
			case Refused:
				refused.Add(1)
			}
			return err
		}}.Run(ctx)
	}()
	until(t, func() bool { return answered.Load() >= 20 })
	s.close()
	left := time.Now()
	until(t, func() bool { return refused.Load() >= 20 })
	back := time.Now()
	again := answered.Load()
	s = serve(t, s.addr, answer("here\n"))
	until(t, func() bool { return answered.Load() >= again+20 })
	enough()
	r := <-result
	s.close()

	sum := r.Summary()
	if sum.OK != int(answered.Load()) || sum.Refused != int(refused.Load()) || sum.OK+sum.Refused+sum.Reset != sum.Requests {
		t.Errorf("%d were answered and %d refused: %s", answered.Load(), refused.Load(), sum)
	}
	if sum.Gap <= 0 || sum.FirstError == "" || sum.Failed() != sum.Refused+sum.Reset {
		t.Errorf("%+v", sum)
	}
	if away := r.Between(left, back); away.OK > 0 && away.Refused == 0 {
		t.Errorf("while the server was away: %s", away)
	}
	if before := r.Between(r.Began, r.Began.Add(10*time.Second/rate)); before.Requests != 10 {
		t.Errorf("of ten requests: %s", before)
	}
}

// Whatever else can become of a request has its own count.
func TestOutcomes(t *testing.T) {
	for name, c := range map[string]struct {
		handle func(net.Conn)
		want   Outcome
	}{
		"answer": {answer("right"), OK},
		"other":  {answer("not this"), Wrong},
		"status": {func(conn net.Conn) {
			defer conn.Close()
			_, _ = conn.Read(make([]byte, 1<<10))
			fmt.Fprint(conn, "HTTP/1.0 503 No\r\n\r\nright")
		}, Wrong},
		"closed": {func(conn net.Conn) { _ = conn.Close() }, Reset},
		"reset":  {func(conn net.Conn) { _ = conn.(*net.TCPConn).SetLinger(0); _ = conn.Close() }, Reset},
		"cut": {func(conn net.Conn) {
			defer conn.Close()
			_, _ = conn.Read(make([]byte, 1<<10))
			fmt.Fprint(conn, "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nrig")
		}, Reset},
	} {
		s := serve(t, "127.0.0.1:0", c.handle)
		r := Load{Rate: rate, Count: 3, Timeout: 20 * time.Second, Ask: HTTP{Address: s.addr, Path: "/", Want: []string{"right"}}.Ask}.Run(t.Context())
		s.close()
		for _, sample := range r.Samples {
			if sample.Outcome != c.want {
				t.Errorf("%s: outcome %d, want %d (%v)", name, sample.Outcome, c.want, sample.Err)
			}
		}
	}
}

// One that does not answer keeps no other from being asked.
func TestNoAnswer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() // connections wait in its backlog
	r := Load{Rate: rate, Count: 20, Timeout: 300 * time.Millisecond, Ask: HTTP{Address: l.Addr().String(), Path: "/"}.Ask}.Run(t.Context())
	if sum := r.Summary(); sum.Timeout != 20 || sum.Requests != 20 {
		t.Errorf("%s", sum)
	}
	for i, s := range r.Samples {
		if s.Due != time.Duration(i)*time.Second/rate {
			t.Errorf("request %d was due at %s", i, s.Due)
		}
	}
}

// The figures, of a result that is known.
func TestSummary(t *testing.T) {
	began := time.Now()
	r := &Result{Began: began, Rate: 100}
	for i := range 100 { // every 10 ms, answered after 1 ms; from 500 to 590 ms at 700 ms
		s := Sample{Due: time.Duration(i) * 10 * time.Millisecond, Took: time.Millisecond}
		if i >= 50 && i < 60 {
			s.Took = 700*time.Millisecond - s.Due
		}
		if i >= 60 && i < 70 {
			s.Outcome, s.Err = Refused, fmt.Errorf("refused %d", i)
		}
		if i == 80 {
			s.Late = 7 * time.Millisecond
		}
		r.Samples = append(r.Samples, s)
	}
	want := Summary{Requests: 100, Rate: 100, OK: 90, Refused: 10, P50: 1, P90: 110, P99: 200, Max: 200, Gap: 209, Late: 7, FirstError: "refused 60"}
	if got := r.Summary(); got != want {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	part := r.Between(began.Add(400*time.Millisecond), began.Add(500*time.Millisecond))
	if want := (Summary{Requests: 10, Rate: 100, OK: 10, P50: 1, P90: 1, P99: 1, Max: 1, Gap: 10}); part != want {
		t.Errorf("got  %+v\nwant %+v", part, want)
	}
	if got, want := Total(r, r), (Summary{Requests: 200, Rate: 100, OK: 180, Refused: 20, P50: 1, P90: 110, P99: 200, Max: 200, Gap: 209, Late: 7, FirstError: "refused 60"}); got != want {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if none := r.Between(began.Add(time.Hour), began.Add(2*time.Hour)); none != (Summary{Rate: 100}) {
		t.Errorf("%+v", none)
	}
}

// until waits for what has to come.
func until(t *testing.T, yes func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	look := time.NewTicker(time.Millisecond)
	defer look.Stop()
	for !yes() {
		select {
		case <-ctx.Done():
			t.Fatal("it did not come")
		case <-look.C:
		}
	}
}
