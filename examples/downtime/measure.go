package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"patchagent/examples/load/openloop"
	"patchagent/examples/site"
)

// A target is what is patched.
type target struct {
	name   string
	needs  string // a program that has to be installed
	config string // of [target], for the address
	socket string // what a held socket needs more
	lay    func(ctx context.Context, s *site.Site, address string) error
	// file is what a patch changes: its place in the tree, and its content for a build.
	file func(build int, address string) (place, content string, err error)
}

func targets() []target {
	return []target{
		{
			name: "nginx", needs: "nginx",
			config: "root = \"tree\"\ncommand = [\"nginx\", \"-e\", \"stderr\", \"-p\", \".\", \"-c\", \"nginx.conf\"]\nstop_signal = \"SIGQUIT\"\n%s" +
				"[target.ready]\nhttp = \"http://%s/\"\n",
			socket: "env = { NGINX = \"3;\" }\n",
			lay:    func(context.Context, *site.Site, string) error { return nil },
			file: func(build int, address string) (string, string, error) {
				conf, err := os.ReadFile(filepath.Join("examples", "nginx", "site", "nginx.conf"))
				text := strings.NewReplacer("127.0.0.1:8080", address, "set $build 200;", fmt.Sprintf("set $build %d;", build)).Replace(string(conf))
				return "nginx.conf", text, err
			},
		},
		{
			name: "goserver",
			config: "root = \"tree\"\ncommand = [\"./goserver\", \"-listen\", %[2]q]\n%[1]s" +
				"[target.ready]\nnotify = true\n",
			lay: func(ctx context.Context, s *site.Site, _ string) error {
				return s.Build(ctx, "tree/goserver", "patchagent/examples/goserver")
			},
			file: func(build int, _ string) (string, string, error) { return "build.txt", fmt.Sprintln(build), nil },
		},
	}
}

// measured is a target under load, patched several times.
type measured struct {
	target  string
	held    bool
	wanted  int // patches that were asked for
	patches []patch
}

// A patch is one of them, and what the load saw meanwhile.
type patch struct {
	build    int
	downtime time.Duration // says the receipt
	load     *openloop.Result
	from, to time.Time // of the load: when the patch was under way
	agent    fate
	again    bool // it is here because of another that could not be compared
}

// A fate is what becomes of the agent while the load runs.
type fate int

const (
	lives  fate = iota
	before      // killed before the patch: the next one takes the process over, and applies it
	midway      // killed in the middle, when there is no process: the next one starts it
)

// fatal is the hook by which the agent is killed midway.
const fatal = "\n[target.hooks]\nafter_files = [\"sh\", \"-c\", \"kill -KILL $PPID\"]\n"

// Where the machine was too busy to compare, or a receipt was off, so many more patches
// are made for each that was asked for, but none is begun after so long: with one target,
// and with all of them.
const (
	again    = 2
	spare    = 8 * time.Second
	spareAll = 20 * time.Second
)

const firstBuild = 200

// measure runs the agent with the target and applies the patches. What the repetitions
// take goes off left.
func measure(ctx context.Context, t target, held bool, patches, rate int, left *time.Duration) (m measured, err error) {
	m = measured{target: t.name, held: held, wanted: patches + 2}
	address, err := site.FreeAddress()
	if err != nil {
		return m, err
	}
	config := configuration(t, held, address)
	s, err := site.New(ctx, "downtime", config)
	defer func() { err = errors.Join(err, s.Remove()) }()
	if err != nil {
		return m, err
	}
	r := &runner{Site: s, target: t, config: config, address: address, rate: rate, build: firstBuild}
	place, content, err := t.file(firstBuild, address)
	if err := errors.Join(err, s.Write("tree/"+place, content), t.lay(ctx, s, address)); err != nil {
		return m, err
	}
	if err := s.Start(ctx, r.answers); err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, s.Stop()) }()
	add := func(agent fate, again bool) error {
		p, err := r.patch(ctx, agent)
		if err == nil {
			p.again = again
			m.patches = append(m.patches, p)
		}
		return err
	}
	for range patches {
		if err := add(lives, false); err != nil {
			return m, err
		}
	}
	if err := errors.Join(add(before, false), add(midway, false)); err != nil {
		return m, err
	}
	begun := time.Now()
	until := begun.Add(min(spare, *left))
	defer func() { *left -= time.Since(begun) }()
	for n := again * m.wanted; n > 0 && m.count(agrees) < m.wanted && time.Now().Before(until); n-- {
		if err := add(lives, true); err != nil {
			return m, err
		}
	}
	return m, nil
}

func configuration(t target, held bool, address string) string {
	text := fmt.Sprintf("region = \"us-east-1\"\nbuild = %d\n\n[log]\nlevel = \"debug\"\n\n[target]\n", firstBuild)
	more := ""
	if held {
		more = t.socket
	}
	text += fmt.Sprintf(t.config, more, address)
	if held {
		text += fmt.Sprintf("\n[[target.socket]]\nlisten = %q\nnonblocking = true\n", "tcp:"+address)
	}
	return text
}

// A runner applies one patch after the other.
type runner struct {
	*site.Site
	target  target
	config  string
	address string
	rate    int
	build   int // that is installed
}

func (r *runner) answers() bool {
	conn, err := net.DialTimeout("tcp", r.address, time.Second)
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}

// How a load is laid around a patch.
const (
	margin  = 200 * time.Millisecond // before and after it: what is usual is seen, too
	edge    = margin / 4             // what of it counts as a part of the patch
	longest = 2 * time.Minute        // it is given up then
	slow    = 30 * time.Second       // an answer that takes longer counts as lost
)

// patch applies the next patch under load.
func (r *runner) patch(ctx context.Context, agent fate) (p patch, err error) {
	old := r.build
	r.build++
	name := fmt.Sprintf("build-%d.zip", r.build)
	place, content, err := r.target.file(r.build, r.address)
	if err != nil {
		return p, err
	}
	ask := openloop.HTTP{Address: r.address, Path: "/", Want: []string{strconv.Itoa(old), strconv.Itoa(r.build)}}
	load := openloop.Load{Rate: r.rate, Count: r.rate * int(longest/time.Second), Timeout: slow, Ask: ask.Ask}
	loading, end := context.WithCancel(ctx)
	result := make(chan *openloop.Result, 1)
	go func() { result <- load.Run(loading) }()
	p = patch{build: r.build, agent: agent}
	defer func() {
		end()
		p.load = <-result
	}()
	if err := wait(ctx, margin); err != nil {
		return p, err
	}
	if err := r.killBefore(ctx, agent); err != nil {
		return p, err
	}
	p.from = time.Now().Add(-edge)
	if err := r.Drop(name, site.Package{Region: "us-east-1", Build: r.build, Files: site.One(place, content)}); err != nil {
		return p, err
	}
	if agent == midway {
		if err := errors.Join(r.Ended(ctx), r.Write("agent.toml", r.config), r.Start(ctx, r.answers)); err != nil {
			return p, err
		}
	}
	var receipt site.Receipt
	if err := site.Eventually(ctx, func() (ok bool) { receipt, ok = r.Receipt(name); return ok }); err != nil {
		return p, fmt.Errorf("build %d has no receipt: %w; the agent said:\n%s", r.build, err, r.Log())
	}
	if receipt.Outcome != "applied" {
		return p, fmt.Errorf("build %d was %s (%s): %s", r.build, receipt.Outcome, receipt.Reason, receipt.Detail)
	}
	p.to = time.Now().Add(edge)
	p.downtime = time.Duration(receipt.DowntimeMS) * time.Millisecond
	return p, wait(ctx, margin)
}

// killBefore has another agent at work that takes the process over: one that will be
// killed, if that is to be midway.
func (r *runner) killBefore(ctx context.Context, agent fate) error {
	if agent == lives {
		return nil
	}
	config := r.config
	if agent == midway {
		config += fatal
	}
	return errors.Join(r.Kill(), r.Write("agent.toml", config), r.Start(ctx, r.answers))
}

// wait is a part of the measurement: the load has to have its time.
func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

// during is what the load saw of the patch.
func (p patch) during() openloop.Summary { return p.load.Between(p.from, p.to) }

// after is what it saw when the patch was over.
func (p patch) after() openloop.Summary { return p.load.Between(p.to, p.to.Add(margin)) }

// difference is how much longer the load has seen an outage than the receipt says, in
// milliseconds.
func (p patch) difference() float64 {
	return p.during().Gap - float64(p.downtime)/float64(time.Millisecond)
}
