package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
)

// socketName is where a running agent is asked, below the state folder: nobody else
// can reach it, since that folder is the agent's user's own.
const socketName = "agent.sock"

// A request is carried out by the loop.
type request struct {
	do     func(context.Context, *agent) answer
	anew   bool        // by agent.toml as it is then
	answer chan answer // with room for one
}

// carry carries a request out.
func (a *agent) carry(ctx context.Context, r request, reread func(hangup bool)) {
	if r.anew {
		reread(false)
	}
	r.answer <- r.do(ctx, a)
}

// control takes requests at the socket and hands them to the loop; it says itself how
// things are.
type control struct {
	requests chan request
	open     atomic.Bool   // the loop takes requests
	pending  atomic.Int32  // that it has not taken yet
	status   func() status // how things are; it does not wait for the loop
	listener net.Listener
	dir      *os.File
	path     string // of the socket; good while dir is open
	log      hclog.Logger
}

// maxRequest bounds what is read of a request, and headerTime how long it may take.
const (
	maxRequest = 4 << 10
	headerTime = 10 * time.Second
)

// listen opens the socket; it takes the place of what an earlier agent has left.
func listen(stateDir string, log hclog.Logger, status func() status) (*control, error) {
	dir, path, err := socketPath(stateDir)
	if err != nil {
		return nil, err
	}
	l, err := listenPrivately(path)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cannot take requests: %w", err), dir.Close())
	}
	return &control{requests: make(chan request), status: status, listener: l, dir: dir, path: path, log: log}, nil
}

// listenPrivately makes a socket that is at no moment anybody else's, whatever the
// umask is and whoever may look into its folder.
func listenPrivately(path string) (net.Listener, error) {
	private, err := os.MkdirTemp(filepath.Dir(path), ".socket-") // 0700
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(private)
	inside := filepath.Join(private, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: inside, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false) // its name changes
	if err := errors.Join(os.Chmod(inside, 0o600), os.Rename(inside, path)); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// Run serves until ctx is done.
func (c *control) Run(ctx context.Context) error {
	defer c.dir.Close()
	defer os.Remove(c.path)
	mux := http.NewServeMux()
	mux.HandleFunc("POST /rollback", func(w http.ResponseWriter, r *http.Request) {
		var ask rollback
		if err := json.NewDecoder(io.LimitReader(r.Body, maxRequest)).Decode(&ask); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		said := c.hand(r.Context(), w, "rollback", false, func(ctx context.Context, a *agent, when moment) answer { return a.rollBack(ctx, ask, when) })
		if ctx.Err() == nil { // else it is the agent that ends
			_ = json.NewEncoder(w).Encode(said)
		}
	})
	mux.HandleFunc("POST /restart", func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, io.LimitReader(r.Body, maxRequest)); err != nil { // r.Context ends with the command only when all is read
			return
		}
		said := c.hand(r.Context(), w, "restart", true, func(ctx context.Context, a *agent, _ moment) answer { return a.restart(ctx) })
		if ctx.Err() == nil {
			_ = json.NewEncoder(w).Encode(said)
		}
	})
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(c.status()) })
	server := http.Server{Handler: mux, ReadHeaderTimeout: headerTime, BaseContext: func(net.Listener) context.Context { return ctx },
		ErrorLog: c.log.StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Warn})}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(c.listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// hand has the loop carry a request out, when it comes to it, anew: by agent.toml as it is
// then. Whoever asked is told if it has to wait for a patch, and may want to know no more
// before the answer comes, which is when ctx is done: what was begun is finished. what is
// its name for people.
func (c *control) hand(ctx context.Context, w http.ResponseWriter, what string, anew bool, do func(context.Context, *agent, moment) answer) answer {
	if !c.open.Load() {
		return no(exitLater, "the %s cannot be made now: the agent goes on with what an earlier one has left; ask again in a moment", what)
	}
	// Counted before it is looked how things are: what the loop begins after this look
	// it begins after the request.
	c.pending.Add(1)
	taken := sync.OnceFunc(func() { c.pending.Add(-1) })
	defer taken()
	now := c.status()
	when := now.moment()
	if now.Applying != nil {
		sayWaiting(w, now.Applying)
	}
	r := request{anew: anew, answer: make(chan answer, 1), do: func(ctx context.Context, a *agent) answer { return do(ctx, a, when) }}
	select {
	case c.requests <- r:
		taken()
	case <-ctx.Done():
		return notMade(what)
	}
	select {
	case a := <-r.answer:
		return a
	case <-ctx.Done():
		return no(exitFailed, "interrupted: the agent has begun the %s and goes on with it; see `patchagent status`", what)
	}
}

// notMade is the answer to whoever interrupted a request before it was begun.
func notMade(what string) answer {
	return no(exitFailed, "interrupted: the %s was not begun, and is not made", what)
}

// asked says whether a request waits for the loop.
func (c *control) asked() bool { return c.pending.Load() > 0 }

var (
	errNoAgent    = errors.New("no agent is running")
	errAgentEnded = errors.New("the agent ended while it was asked")
)

// unreached is errNoAgent with why the socket could not be reached.
type unreached struct{ cause error }

func (u *unreached) Error() string   { return errNoAgent.Error() + ": " + u.cause.Error() }
func (u *unreached) Is(e error) bool { return e == errNoAgent }
func (u *unreached) Unwrap() error   { return u.cause }

// askAgent has the running agent carry a request out; the error wraps errNoAgent
// if there is none, and errAgentEnded if it has gone away. When ctx is done the answer says
// whether the agent has begun it.
func askAgent(ctx context.Context, stateDir, what string, ask any) (a answer, err error) {
	body, err := json.Marshal(ask)
	if err == nil {
		err = callAgent(ctx, stateDir, http.MethodPost, "/"+what, bytes.NewReader(body), &a)
	}
	switch {
	case err == nil:
		return a, nil
	case ctx.Err() == nil && errors.Is(err, errAgentEnded):
		return a, fmt.Errorf("%w, and may have begun the %s: `patchagent status` says what it has left; start it again, it goes on from there", err, what)
	case ctx.Err() == nil:
		return a, err
	case errors.Is(err, errNoAgent):
		return notMade(what), nil
	default:
		return no(exitFailed, "interrupted: the agent does not say whether it has begun the %s; see `patchagent status`", what), nil
	}
}

// tell ends a command that has asked for something: it prints the answer, or returns why
// there is none or what it was not.
func (io Program) tell(a answer, err error) error {
	switch {
	case err != nil:
		return &exitError{exitFailed, err}
	case a.Status != exitDone:
		return &exitError{a.Status, errors.New(a.Message)}
	}
	_, err = fmt.Fprintln(io.Out, a.Message)
	return err
}

// agentRuns says whether an agent with this state folder is seen to run.
func agentRuns(ctx context.Context, stateDir string) bool {
	dir, socket, err := socketPath(stateDir)
	if err != nil {
		return false
	}
	defer dir.Close()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}

// lastWordTime is how long the agent has for an answer when nobody waits for it any more.
const lastWordTime = 2 * time.Second

// callAgent makes one request to the running agent; the error wraps errNoAgent if there
// is none, and is errAgentEnded if it has gone away before its answer. When ctx is done the agent is told so, and its answer still counts.
func callAgent(ctx context.Context, stateDir, method, path string, body io.Reader, said any) error {
	dir, socket, err := socketPath(stateDir)
	if err != nil {
		return &unreached{err}
	}
	defer dir.Close()
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	if err != nil {
		return &unreached{err}
	}
	transport := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return conn, nil }, DisableKeepAlives: true}
	defer transport.CloseIdleConnections()
	calling, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stop := context.AfterFunc(ctx, func() {
		// The other half stays open for the answer.
		if c, ok := conn.(*net.UnixConn); !ok || c.CloseWrite() != nil {
			cancel()
		}
		time.AfterFunc(lastWordTime, cancel)
	})
	defer stop()
	req, err := http.NewRequestWithContext(calling, method, "http://agent"+path, body)
	if err != nil {
		return err
	}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	switch {
	case cutOff(err):
		return errAgentEnded
	case err != nil:
		return fmt.Errorf("the agent gave no answer: %w; see its log", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		said, _ := io.ReadAll(io.LimitReader(resp.Body, maxRequest))
		return fmt.Errorf("the agent answers %s: %s", resp.Status, said)
	}
	switch err := json.NewDecoder(resp.Body).Decode(said); {
	case cutOff(err):
		return errAgentEnded
	case err != nil:
		return fmt.Errorf("the agent's answer is cut short: %w; see its log", err)
	}
	return nil
}

// cutOff says whether an error is that whoever is at the other end of the socket is gone.
func cutOff(err error) bool {
	for _, end := range []error{io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE} {
		if errors.Is(err, end) {
			return true
		}
	}
	return false
}

// maxSocketPath is how long the path of a socket may be, unix(7).
const maxSocketPath = 107

// socketPath is the socket's path, by way of the folder's descriptor where the whole
// would be too long. The folder is to be closed when the path is no longer needed.
func socketPath(stateDir string) (dir *os.File, path string, err error) {
	dir, err = os.Open(stateDir)
	if err != nil {
		return nil, "", err
	}
	path = filepath.Join(stateDir, socketName)
	if len(path)+len("/.socket-0123456789/s") > maxSocketPath {
		path = fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), socketName)
	}
	return dir, path, nil
}
