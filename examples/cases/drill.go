package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"patchagent/examples/site"
)

// parts is how many files each package of the drill changes.
const parts = 40

// drill applies packages one after the other, warm and cold in turn, each of which
// makes all parts say its build, and kills the agent at a random moment of each. The
// next agent has to bring it to its end: all parts say the same, one target runs,
// there is one receipt. It prints what it saw.
func drill(ctx context.Context, rounds int) (ok bool, err error) {
	s, _, err := newCases(ctx)
	if s != nil {
		defer s.Remove()
	}
	if err != nil {
		return false, err
	}
	if err := s.layParts("200"); err != nil {
		return false, err
	}
	if err := s.start(ctx); err != nil {
		return false, err
	}
	defer func() {
		if stopErr := s.Stop(); err == nil {
			err = stopErr
		}
	}()
	span, err := s.undisturbed(ctx)
	if err != nil {
		return false, err
	}
	var between, open, mixed, wrong int
	for i := range rounds {
		build := 300 + i
		if err := s.Drop(name(build), partsOf(build)); err != nil {
			return false, err
		}
		if err := sleep(ctx, rand.N(span)); err != nil {
			return false, err
		}
		if err := s.Kill(); err != nil {
			return false, err
		}
		if _, done := s.Receipt(name(build)); !done {
			open++
		}
		if len(s.says()) > 1 {
			between++
		}
		if err := s.start(ctx); err != nil {
			return false, err
		}
		if err := site.Eventually(ctx, func() bool { _, done := s.Receipt(name(build)); return done && !s.pending(build) }); err != nil {
			return false, fmt.Errorf("build %d has no outcome: %w; the agent said:\n%s", build, err, s.Log())
		}
		said := s.says()
		if len(said) != 1 {
			mixed++
		}
		if r, _ := s.Receipt(name(build)); !said[strconv.Itoa(build)] || s.receipts(name(build)) != 1 || s.targets() != 1 || r.Outcome != "applied" {
			wrong++
			fmt.Printf("build %d: the parts say %v, %d receipts (%s %s), %d targets\n", build, said, s.receipts(name(build)), r.Outcome, r.Reason, s.targets())
		}
	}
	fmt.Printf("killed %d times: %d patches were under way, %d trees were in between\nafterwards: %d trees in between, %d wrong in any way\n",
		rounds, open, between, mixed, wrong)
	return mixed+wrong == 0, nil
}

func name(build int) string { return fmt.Sprintf("build-%d.zip", build) }

func partsOf(build int) site.Package {
	p := site.Package{Warm: build%2 == 0, Region: "us-east-1", Build: build, Files: map[string][]byte{}}
	for i := range parts {
		p.Files[part(i)] = []byte(strconv.Itoa(build))
	}
	return p
}

func part(i int) string { return fmt.Sprintf("parts/%d/part-%d", i%4, i) }

func (s *cases) layParts(text string) error {
	for i := range parts {
		path := filepath.Join(s.Dir, "app", part(i))
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			return err
		}
	}
	return nil
}

// undisturbed says how long two patches take that nobody kills: one of each kind.
func (s *cases) undisturbed(ctx context.Context) (time.Duration, error) {
	began := time.Now()
	for build := 201; build <= 202; build++ {
		if err := s.Drop(name(build), partsOf(build)); err != nil {
			return 0, err
		}
		if err := site.Eventually(ctx, func() bool { _, done := s.Receipt(name(build)); return done }); err != nil {
			return 0, err
		}
	}
	return time.Since(began) / 2, nil
}

// says is the set of what the parts say.
func (s *cases) says() map[string]bool {
	said := map[string]bool{}
	for i := range parts {
		data, err := os.ReadFile(filepath.Join(s.Dir, "app", part(i)))
		if err != nil {
			data = []byte(err.Error())
		}
		said[string(data)] = true
	}
	return said
}

// pending says whether the zip is still in the folder.
func (s *cases) pending(build int) bool {
	_, err := os.Stat(filepath.Join(s.Dir, "patch", name(build)))
	return err == nil
}

func (s *cases) receipts(name string) int {
	data, _ := os.ReadFile(filepath.Join(s.Dir, ".patchagent/receipts.jsonl"))
	return strings.Count(string(data), `"patch":"`+name+`"`)
}

// targets counts the processes that run the site's target.
func (s *cases) targets() int {
	programs, _ := filepath.Glob("/proc/[0-9]*/exe")
	n := 0
	for _, exe := range programs {
		if file, err := os.Readlink(exe); err == nil && file == filepath.Join(s.Dir, "app/bin/target") {
			n++
		}
	}
	return n
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}
