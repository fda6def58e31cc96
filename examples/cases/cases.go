package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"patchagent/examples/site"
)

// cases is a site whose target says what it is and does:
//
//	agent.toml  patchagent  patch/  app/bin/target  app/work/job.json
type cases struct {
	*site.Site
	url string
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

// newCases builds the programs and lays the site out. The second result is the
// program that the cold case installs.
func newCases(ctx context.Context) (*cases, []byte, error) {
	addr, err := site.FreeAddress()
	if err != nil {
		return nil, nil, err
	}
	s, err := site.New(ctx, "cases", fmt.Sprintf(configuration, addr, addr))
	if s == nil {
		return nil, nil, err
	}
	c := &cases{s, "http://" + addr}
	if err != nil {
		return c, nil, err
	}
	err = errors.Join(
		s.Write("app/work/job.json", `{"job": "wait"}`+"\n"),
		s.Build(ctx, "app/bin/target", "patchagent/examples/target"),
		s.Build(ctx, "target-v2", "patchagent/examples/target", "-ldflags", "-X main.version=v2.0"))
	if err != nil {
		return c, nil, err
	}
	data, err := os.ReadFile(s.Path("target-v2"))
	return c, data, err
}

// start runs the agent and waits until it is at work and the target answers, which it
// may do all along if an agent was killed before this one.
func (c *cases) start(ctx context.Context) error {
	return c.Start(ctx, func() bool { _, err := c.answer(ctx); return err == nil })
}

// answer asks the target what it is and does.
func (c *cases) answer(ctx context.Context) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url+"/", nil)
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

// try drops the package and tells what came of it, how long the outcome took from
// the moment at which the zip was in the folder, and how long the target was away.
func (c *cases) try(ctx context.Context, p site.Package) (seen string, took, down time.Duration, err error) {
	before, err := c.PID()
	if err != nil {
		return "", 0, 0, err
	}
	asking, ask := context.WithCancel(ctx)
	defer ask()
	var failed int
	var asker sync.WaitGroup
	asker.Go(func() { failed = c.askUntil(asking) })

	began := time.Now()
	name := name(p.Build)
	if err := c.Drop(name, p); err != nil {
		return "", 0, 0, err
	}
	var r site.Receipt
	err = site.Eventually(ctx, func() (ok bool) { r, ok = c.Receipt(name); return ok })
	took = time.Since(began)
	if err != nil {
		return "", 0, 0, fmt.Errorf("no receipt: %w", err)
	}
	ask()
	asker.Wait()

	answer, err := c.answer(ctx)
	if err != nil {
		return "", 0, 0, err
	}
	after, err := c.PID()
	if err != nil {
		return "", 0, 0, err
	}
	pid := "same pid"
	if after != before {
		pid = "new pid"
	}
	seen = fmt.Sprintf("%s; %q, %s", strings.TrimSpace(r.Outcome+" "+r.Reason), answer, pid)
	if p.Warm && r.Outcome == "applied" {
		seen += map[bool]string{true: ", no failed request", false: fmt.Sprintf(", %d failed requests", failed)}[failed == 0]
	}
	return seen, took, time.Duration(r.DowntimeMS) * time.Millisecond, nil
}

// askUntil asks the target over and over and counts what fails.
func (c *cases) askUntil(ctx context.Context) (failed int) {
	pause := time.NewTicker(2 * time.Millisecond)
	defer pause.Stop()
	for {
		select {
		case <-ctx.Done():
			return failed
		case <-pause.C:
		}
		if _, err := c.answer(ctx); err != nil && ctx.Err() == nil {
			failed++
		}
	}
}
