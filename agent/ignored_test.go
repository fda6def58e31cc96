package main

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"

	"patchagent/watcher"
)

// A flood of files that are no drops takes a few lines, in whatever order they are seen;
// what is gone and comes back is news.
func TestNoteIgnored(t *testing.T) {
	var out bytes.Buffer
	a := &agent{log: hclog.New(&hclog.LoggerOptions{Output: &out}), crowds: map[string]int{}}
	lines := func(what string, want int) {
		t.Helper()
		if n := strings.Count(out.String(), "\n"); n != want {
			t.Errorf("%s: %d lines, want %d:\n%s", what, n, want, out.String())
		}
		out.Reset()
	}
	one := []watcher.Ignored{{Name: "a", Why: "x"}}
	a.noteIgnored(one, 0)
	lines("one", 1)
	a.noteIgnored(one, 0)
	lines("the same", 0)
	a.noteIgnored([]watcher.Ignored{{Name: "a", Why: "y"}}, 0)
	lines("for another reason", 1)
	a.noteIgnored(nil, 0)
	a.noteIgnored(one, 0)
	lines("it comes back", 1)
	for scan := range 50 {
		many := make([]watcher.Ignored, mostLines)
		for i := range many {
			many[i] = watcher.Ignored{Name: fmt.Sprint("junk", scan, "-", i), Why: "x"}
		}
		a.noteIgnored(many, 980)
	}
	lines("a thousand, named in another order each time", mostLines-1+1)
	a.noteIgnored(make([]watcher.Ignored, mostLines), 1980)
	lines("twice as many", 1)
}
