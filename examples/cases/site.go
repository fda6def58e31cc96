package main

import (
	"archive/zip"
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// site is a scratch folder laid out as an operator would:
//
//	agent.toml  patchagent  patch/  app/bin/target  app/work/job.json
type site struct {
	dir   string
	url   string
	agent *exec.Cmd
	log   *os.File
}

const configuration = `region = "us-east-1"
build  = 200

[target]
root    = "app"
command = ["bin/target", "-listen", %q]
output  = "target.log"

[target.ready]
http = "http://%s/healthz"
`

// newSite builds the programs and lays the site out. The second result is the
// program that the cold case installs.
func newSite(ctx context.Context) (*site, []byte, error) {
	dir, err := os.MkdirTemp("", "patchagent-cases-")
	if err != nil {
		return nil, nil, err
	}
	s := &site{dir: dir}
	for _, d := range []string{"app/bin", "app/work"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return s, nil, err
		}
	}
	next := filepath.Join(dir, "target-v2")
	for _, b := range [][]string{
		{"-o", filepath.Join(dir, "patchagent"), "patchagent/agent"},
		{"-o", filepath.Join(dir, "app/bin/target"), "patchagent/examples/target"},
		{"-ldflags", "-X main.version=v2.0", "-o", next, "patchagent/examples/target"},
	} {
		cmd := exec.CommandContext(ctx, "go", append([]string{"build"}, b...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			return s, nil, fmt.Errorf("cannot build %s: %w\n%s", b[len(b)-1], err, out)
		}
	}
	addr, err := freeAddress()
	if err != nil {
		return s, nil, err
	}
	s.url = "http://" + addr
	for name, text := range map[string]string{
		"agent.toml":        fmt.Sprintf(configuration, addr, addr),
		"app/work/job.json": `{"job": "wait"}` + "\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return s, nil, err
		}
	}
	data, err := os.ReadFile(next)
	return s, data, err
}

// freeAddress finds a port on loopback that was free a moment ago.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// start runs the agent and waits until it is at work and the target answers, which it
// may do all along if an agent was killed before this one.
func (s *site) start(ctx context.Context) error {
	var err error
	if s.log, err = os.Create(filepath.Join(s.dir, "agent.log")); err != nil {
		return err
	}
	s.agent = exec.Command(filepath.Join(s.dir, "patchagent"), "run", "-c", filepath.Join(s.dir, "agent.toml"))
	s.agent.Stderr = s.log
	if err := s.agent.Start(); err != nil {
		return err
	}
	err = eventually(ctx, func() bool {
		_, err := s.answer(ctx)
		return err == nil && strings.Contains(s.agentLog(), "watching")
	})
	if err != nil {
		return errors.Join(fmt.Errorf("the target does not answer: %w; the agent said:\n%s", err, s.agentLog()), s.stop())
	}
	return nil
}

// stop ends the agent, and with it the target.
func (s *site) stop() error {
	defer s.log.Close()
	if err := s.agent.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	if err := s.agent.Wait(); err != nil {
		return fmt.Errorf("the agent did not end well: %w; it said:\n%s", err, s.agentLog())
	}
	return nil
}

func (s *site) agentLog() string {
	data, err := os.ReadFile(filepath.Join(s.dir, "agent.log"))
	if err != nil {
		return err.Error()
	}
	return string(data)
}

// answer asks the target what it is and does.
func (s *site) answer(ctx context.Context) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+"/", nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(resp.Status)
	}
	return strings.TrimSpace(string(body)), err
}

func (s *site) pid() (int, error) {
	data, err := os.ReadFile(filepath.Join(s.dir, ".patchagent/process.json"))
	if err != nil {
		return 0, err
	}
	var p struct{ PID int }
	return p.PID, json.Unmarshal(data, &p)
}

// receipt is what of a receipt matters here.
type receipt struct {
	Patch      string
	Outcome    string
	Reason     string
	DowntimeMS int64 `json:"downtime_ms"`
}

// try drops the package and tells what came of it, how long the outcome took from
// the moment at which the zip was in the folder, and how long the target was away.
func (s *site) try(ctx context.Context, p pack) (seen string, took, down time.Duration, err error) {
	before, err := s.pid()
	if err != nil {
		return "", 0, 0, err
	}
	asking, ask := context.WithCancel(ctx)
	defer ask()
	var failed int
	var asker sync.WaitGroup
	asker.Go(func() { failed = s.askUntil(asking) })

	began := time.Now()
	name := fmt.Sprintf("build-%d.zip", p.build)
	if err := s.drop(name, p); err != nil {
		return "", 0, 0, err
	}
	var r receipt
	err = eventually(ctx, func() (ok bool) { r, ok = s.receiptOf(name); return ok })
	took = time.Since(began)
	if err != nil {
		return "", 0, 0, fmt.Errorf("no receipt: %w", err)
	}
	ask()
	asker.Wait()

	answer, err := s.answer(ctx)
	if err != nil {
		return "", 0, 0, err
	}
	after, err := s.pid()
	if err != nil {
		return "", 0, 0, err
	}
	pid := "same pid"
	if after != before {
		pid = "new pid"
	}
	seen = fmt.Sprintf("%s; %q, %s", strings.TrimSpace(r.Outcome+" "+r.Reason), answer, pid)
	if p.warm && r.Outcome == "applied" {
		seen += map[bool]string{true: ", no failed request", false: fmt.Sprintf(", %d failed requests", failed)}[failed == 0]
	}
	return seen, took, time.Duration(r.DowntimeMS) * time.Millisecond, nil
}

// askUntil asks the target over and over and counts what fails.
func (s *site) askUntil(ctx context.Context) (failed int) {
	pause := time.NewTicker(2 * time.Millisecond)
	defer pause.Stop()
	for {
		select {
		case <-ctx.Done():
			return failed
		case <-pause.C:
		}
		if _, err := s.answer(ctx); err != nil && ctx.Err() == nil {
			failed++
		}
	}
}

// drop puts the package and its checksum into the patch folder: the checksum
// first, then the zip, which appears whole under its name.
func (s *site) drop(name string, p pack) error {
	data, err := p.zip()
	if err != nil {
		return err
	}
	sum := fmt.Sprintf("%x  %s\n", sha256.Sum256(data), name)
	folder := filepath.Join(s.dir, "patch")
	if err := os.WriteFile(filepath.Join(folder, name+".sha256"), []byte(sum), 0o644); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(folder, "."+name), data, 0o644); err != nil {
		return err
	}
	return os.Rename(filepath.Join(folder, "."+name), filepath.Join(folder, name))
}

func (s *site) receiptOf(name string) (receipt, bool) {
	f, err := os.Open(filepath.Join(s.dir, ".patchagent/receipts.jsonl"))
	if err != nil {
		return receipt{}, false
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		var r receipt
		if json.Unmarshal(lines.Bytes(), &r) == nil && r.Patch == name {
			return r, true
		}
	}
	return receipt{}, false
}

// pack is a package that changes files that exist in the tree.
type pack struct {
	warm   bool
	region string
	build  int
	files  map[string][]byte // by their place in the tree
}

func one(place, content string) map[string][]byte {
	return map[string][]byte{place: []byte(content)}
}

func (p pack) zip() ([]byte, error) {
	var mods []map[string]string
	for place := range p.files {
		mods = append(mods, map[string]string{"name": place, "path": "/"})
	}
	manifest, err := json.MarshalIndent(map[string]any{
		"justres": p.warm, "region": p.region, "build": fmt.Sprint(p.build), "modfiles": mods,
	}, "", "  ")
	if err != nil {
		return nil, err
	}
	entries := map[string][]byte{"manifest.json": manifest}
	for place, data := range p.files {
		entries["mod/"+place] = data
	}
	var buf bytes.Buffer
	w := zip.NewWriter(&buf)
	for name, data := range entries {
		f, err := w.Create(name)
		if err != nil {
			return nil, err
		}
		if _, err := f.Write(data); err != nil {
			return nil, err
		}
	}
	err = w.Close()
	return buf.Bytes(), err
}

// eventually asks until the answer is yes, the context ends or patience is over.
func eventually(ctx context.Context, yes func() bool) error {
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
