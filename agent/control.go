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
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
)

// socketName is where a running agent is asked, below the state folder: nobody else
// can reach it, since that folder is the agent's user's own.
const socketName = "agent.sock"

// A request is carried out by the loop.
type request struct {
	ask    rollback
	answer chan answer // with room for one
}

// control takes requests at the socket and hands them to the loop; it says itself how
// things are.
type control struct {
	requests chan request
	open     atomic.Bool   // the loop takes requests
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
		req := request{answer: make(chan answer, 1)}
		if err := json.NewDecoder(io.LimitReader(r.Body, maxRequest)).Decode(&req.ask); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if !c.open.Load() {
			_ = json.NewEncoder(w).Encode(no(exitLater, "cannot roll back now: the agent goes on with what an earlier one has left; ask again in a moment"))
			return
		}
		// Whoever asked may want to know no more when the answer comes: what was begun is
		// finished.
		var a answer
		select {
		case c.requests <- req:
			select {
			case a = <-req.answer:
			case <-r.Context().Done():
				a = no(exitFailed, "interrupted: the agent has begun the rollback and goes on with it; see `patchagent status`")
			}
		case <-r.Context().Done():
			a = no(exitFailed, noSuchRollback)
		}
		if ctx.Err() == nil { // else it is the agent that ends
			_ = json.NewEncoder(w).Encode(a)
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

// noSuchRollback is said to whoever interrupted a rollback before it was begun.
const noSuchRollback = "interrupted: the rollback was not begun, and is not made"

var errNoAgent = errors.New("no agent is running")

// askAgent has the running agent carry a request out; the error wraps errNoAgent
// if there is none. When ctx is done the answer says whether the agent has begun it.
func askAgent(ctx context.Context, stateDir string, ask rollback) (a answer, err error) {
	body, err := json.Marshal(ask)
	if err == nil {
		err = callAgent(ctx, stateDir, http.MethodPost, "/rollback", bytes.NewReader(body), &a)
	}
	switch {
	case err == nil || ctx.Err() == nil:
		return a, err
	case errors.Is(err, errNoAgent):
		return no(exitFailed, noSuchRollback), nil
	default:
		return no(exitFailed, "interrupted: the agent does not say whether it has begun the rollback; see `patchagent status`"), nil
	}
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
// is none. When ctx is done the agent is told so, and its answer still counts.
func callAgent(ctx context.Context, stateDir, method, path string, body io.Reader, said any) error {
	dir, socket, err := socketPath(stateDir)
	if err != nil {
		return fmt.Errorf("%w: %w", errNoAgent, err)
	}
	defer dir.Close()
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	if err != nil {
		return fmt.Errorf("%w: %w", errNoAgent, err)
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
	if err != nil {
		return fmt.Errorf("the agent gave no answer: %w; see its log", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		said, _ := io.ReadAll(io.LimitReader(resp.Body, maxRequest))
		return fmt.Errorf("the agent answers %s: %s", resp.Status, said)
	}
	if err := json.NewDecoder(resp.Body).Decode(said); err != nil {
		return fmt.Errorf("the agent's answer is cut short: %w; see its log", err)
	}
	return nil
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
