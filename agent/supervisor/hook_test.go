//go:build linux

package supervisor

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
)

// A hook runs beside the process: what it prints is logged line by line, bounded and
// made plain, and when its time is over it has failed.
func TestHook(t *testing.T) {
	opts := Options{Hooks: Hooks{Timeout: 2 * time.Minute, Commands: map[string][]string{
		"good": {"sh", "-c", `i=0; while test $i -lt 100; do i=$((i+1)); echo "line $i"; done; printf "$PATCHAGENT_EVENT\033[2J\r\n"`},
		"bad":  {"sh", "-c", "echo oh; exit 9"}, "empty": nil,
	}}}
	var out strings.Builder
	log := hclog.New(&hclog.LoggerOptions{Output: &out})
	if err := opts.hook(t.Context(), log, "good", []string{"PATCHAGENT_EVENT=good"}); err != nil {
		t.Error(err)
	}
	if text := out.String(); strings.Count(text, "a hook printed") != tailLines || strings.Contains(text, "\033") || !strings.Contains(text, `line="line 100"`) || !strings.Contains(text, "line=\"good\uFFFD[2J\"\n") {
		t.Errorf("logged:\n%s", text)
	}
	if err := opts.hook(t.Context(), log, "bad", nil); err == nil || err.Error() != `the hook bad failed: sh: exit status 9; it printed: "oh"` {
		t.Errorf("%v", err)
	}
	out.Reset()
	if err := errors.Join(opts.hook(t.Context(), log, "empty", nil), opts.hook(t.Context(), log, "unknown", nil)); err != nil || out.Len() > 0 {
		t.Error(err, out.String())
	}
	opts.Hooks.Timeout = 20 * time.Millisecond
	opts.Hooks.Commands["slow"] = []string{"sleep", "1000"}
	if err := opts.hook(t.Context(), log, "slow", nil); err == nil || !strings.Contains(err.Error(), "it took longer than 20ms") {
		t.Errorf("%v", err)
	}
	st := newStage(t, "plain")
	st.opts.Hooks = Hooks{Timeout: 2 * time.Minute, Commands: map[string][]string{"mine": {"sh", "-c", "pwd >here"}}}
	if err := st.run().Hook(t.Context(), "mine", nil); err != nil { // whether there is a process or not
		t.Error(err)
	}
	if here, _ := os.ReadFile(filepath.Join(st.dir, "here")); strings.TrimSpace(string(here)) != st.dir {
		t.Errorf("it ran in %q", here)
	}
}
