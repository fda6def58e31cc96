// Package site lays out a scratch folder as an operator would, runs the agent in it,
// and drops packages there. The programs that show or measure the agent share it.
//
//	agent.toml  patchagent  patch/  and the tree of the target
package site

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// patience is how long one step may take before the run is given up.
const patience = 60 * time.Second

// A Site is a folder with an agent.
type Site struct {
	Dir string

	agent *exec.Cmd
	log   *os.File
}

// New makes the folder, builds the agent into it, and writes agent.toml. Remove takes
// it away again, also after an error.
func New(ctx context.Context, name, configuration string) (*Site, error) {
	dir, err := os.MkdirTemp("", "patchagent-"+name+"-")
	if err != nil {
		return nil, err
	}
	s := &Site{Dir: dir}
	if err := os.Chmod(dir, 0o755); err != nil { // what runs there may be another user's
		return s, err
	}
	if err := s.Build(ctx, "patchagent", "patchagent/agent"); err != nil {
		return s, err
	}
	return s, s.Write("agent.toml", configuration)
}

// Remove removes the folder.
func (s *Site) Remove() error {
	if s == nil {
		return nil
	}
	return os.RemoveAll(s.Dir)
}

// Path is a place in the folder.
func (s *Site) Path(name string) string { return filepath.Join(s.Dir, name) }

// Write writes a file, and makes the folders above it.
func (s *Site) Write(name, content string) error {
	return errors.Join(os.MkdirAll(filepath.Dir(s.Path(name)), 0o755), os.WriteFile(s.Path(name), []byte(content), 0o644))
}

// Build builds a program of this module.
func (s *Site) Build(ctx context.Context, name, pkg string, flags ...string) error {
	cmd := exec.CommandContext(ctx, "go", append(append([]string{"build", "-o", s.Path(name)}, flags...), pkg)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("cannot build %s: %w\n%s", pkg, err, out)
	}
	return nil
}

// Start runs the agent and waits until it is at work and up says so, too.
func (s *Site) Start(ctx context.Context, up func() bool) error {
	var err error
	if s.log, err = os.Create(s.Path("agent.log")); err != nil {
		return err
	}
	s.agent = exec.Command(s.Path("patchagent"), "run", "-c", s.Path("agent.toml"))
	s.agent.Stderr = s.log
	if err := s.agent.Start(); err != nil {
		return err
	}
	err = Eventually(ctx, func() bool { return up() && strings.Contains(s.Log(), "watching") })
	if err != nil {
		return errors.Join(fmt.Errorf("the target does not answer: %w; the agent said:\n%s", err, s.Log()), s.Stop())
	}
	return nil
}

// Stop ends the agent, and with it the target.
func (s *Site) Stop() error {
	defer s.log.Close()
	if err := s.agent.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	if err := s.agent.Wait(); err != nil {
		return fmt.Errorf("the agent did not end well: %w; it said:\n%s", err, s.Log())
	}
	return nil
}

// Kill ends the agent as a crash would: the target stays.
func (s *Site) Kill() error {
	err := s.agent.Process.Kill()
	_ = s.agent.Wait() // says that it was killed
	return errors.Join(err, s.log.Close())
}

// Ended waits until the agent has ended, though nothing here has ended it. One that
// does not is killed, and an error.
func (s *Site) Ended(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	kill := context.AfterFunc(ctx, func() { _ = s.agent.Process.Kill() })
	_ = s.agent.Wait() // says how it ended
	err := s.log.Close()
	if !kill() {
		err = errors.Join(fmt.Errorf("the agent did not end: %w; it said:\n%s", context.Cause(ctx), s.Log()), err)
	}
	return err
}

// Log is what the agent has said since it was started.
func (s *Site) Log() string {
	data, err := os.ReadFile(s.Path("agent.log"))
	if err != nil {
		return err.Error()
	}
	return string(data)
}

// PID is that of the target.
func (s *Site) PID() (int, error) {
	data, err := os.ReadFile(s.Path(".patchagent/process.json"))
	if err != nil {
		return 0, err
	}
	var p struct{ PID int }
	return p.PID, json.Unmarshal(data, &p)
}

// A Receipt is what of a receipt matters here.
type Receipt struct {
	Patch      string
	Outcome    string
	Reason     string
	Detail     string
	DowntimeMS int64 `json:"downtime_ms"`
}

// Receipt is that of a package, if there is one yet.
func (s *Site) Receipt(name string) (Receipt, bool) {
	f, err := os.Open(s.Path(".patchagent/receipts.jsonl"))
	if err != nil {
		return Receipt{}, false
	}
	defer f.Close()
	lines := bufio.NewReader(f)
	for {
		line, err := lines.ReadBytes('\n') // of any length: what a process has printed may be in it
		var r Receipt
		if json.Unmarshal(line, &r) == nil && r.Patch == name {
			return r, true
		}
		if err != nil {
			return Receipt{}, false
		}
	}
}

// Eventually asks until the answer is yes, the context ends or a minute is over.
func Eventually(ctx context.Context, yes func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	again := time.NewTicker(time.Millisecond)
	defer again.Stop()
	for !yes() {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-again.C:
		}
	}
	return nil
}

// Ports that FreeAddress takes. Linux gives those from 32768 on to clients: a client
// that asks for one of them while its server is away may be given the same as its own,
// and be connected to itself.
const (
	firstPort = 20000
	lastPort  = 32000
)

// FreeAddress finds a port on loopback that was free a moment ago.
func FreeAddress() (string, error) {
	for {
		address := net.JoinHostPort("127.0.0.1", strconv.Itoa(firstPort+rand.N(lastPort-firstPort)))
		l, err := net.Listen("tcp", address)
		if errors.Is(err, syscall.EADDRINUSE) {
			continue
		}
		if err != nil {
			return "", err
		}
		return address, l.Close()
	}
}
