package main

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"patchagent/agent/config"
	"patchagent/agent/record"
	"patchagent/agent/supervisor"
	"patchagent/applier/journal"
)

// The test binary is also the programs that the stories run: the agent itself, and
// a service for it to supervise.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"patchagent":        func() { os.Exit(start(Program{In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Fault: faults()})) },
		supervisor.ExecName: supervisor.ExecMain, "service": service, "rooted": rooted, "speaker": speaker, "clock": clock, "clients": clients,
	})
}

// The variables that make a step of the agent fail. The first is three words: the
// number of the step, or the beginning of its name; what happens to it, "kill" or the
// name of an error; and "once" or "always", for all steps from then on, or all of that
// name. The second is a file that then gets the step's name.
const (
	faultVar     = "PATCHAGENT_TEST_FAULT"
	faultFileVar = "PATCHAGENT_TEST_FAULT_FILE"
)

// faults is Program.Fault of the agent under test.
func faults() func(string) error {
	words := strings.Fields(os.Getenv(faultVar))
	if len(words) != 3 {
		return nil
	}
	errs := map[string]error{"ENOSPC": syscall.ENOSPC, "EIO": syscall.EIO, "SYNC": journal.Synced(syscall.EIO)}
	number, notNumber := strconv.Atoi(words[0])
	var mu sync.Mutex // staging has several steps at a time
	steps, hits := 0, 0
	return func(step string) error {
		mu.Lock()
		defer mu.Unlock()
		hit := notNumber != nil && strings.HasPrefix(step, words[0]) || notNumber == nil && steps >= number
		steps++
		if !hit || hits > 0 && words[2] == "once" {
			return nil
		}
		hits++
		_ = os.WriteFile(os.Getenv(faultFileVar), []byte(step), 0o600)
		if words[1] == "kill" {
			killSelf()
		}
		return errs[words[1]]
	}
}

func killSelf() {
	self, err := os.FindProcess(os.Getpid())
	if err == nil {
		err = self.Kill()
	}
	if err != nil {
		panic(err)
	}
	select {}
}

// TestStories runs the stories in testdata/script, each in a folder of its own,
// with the real program. Beside testscript's own commands they have:
//
//	zip ZIP DIR            pack a folder as a zip
//	drop FILE              put a file into patch/ under another name, then rename it
//	sum FILE               write FILE.sha256 beside it
//	outcome PATCH OUTCOME [REASON]   wait for the receipt, and compare
//	receipts PATCH N       the patch has that many receipts
//	until FILE REGEXP      wait until the file matches
//	gone PIDFILE           the process is no longer there
//	ends FILE              the service whose number is in FILE then is killed when the story is over
func TestStories(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"zip": cmdZip, "drop": cmdDrop, "sum": cmdSum, "outcome": cmdOutcome, "receipts": cmdReceipts, "until": cmdUntil, "gone": cmdGone, "claimed": cmdClaimed, "ends": cmdEnds,
		},
		Condition: conditions,
	})
}

// service is what the stories' agents supervise. It writes what happens to it to
// service.log in its working directory: "start N", "told N", "stop", where N is the
// content of the file "version" then. A version that says "broken" prints 80 lines
// and ends at once, one that says "fatal" ends when it is told, one that says "brief"
// when there is a file "over". On sockets that it is handed it answers with the version
// that it was started with.
func service() {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGTERM)
	say := func(what string) {
		f, err := os.OpenFile("service.log", os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
		if err == nil {
			version, _ := os.ReadFile("version")
			_, err = fmt.Fprintf(f, "%s %s\n", what, strings.TrimSpace(string(version)))
		}
		if err != nil {
			os.Exit(9)
		}
		_ = f.Close()
	}
	version, _ := os.ReadFile("version")
	if strings.TrimSpace(string(version)) == "broken" {
		for i := range 80 {
			fmt.Println("this version is broken, line", i)
		}
		os.Exit(3)
	}
	stopServing := serveHanded()
	say("start")
	if strings.TrimSpace(string(version)) == "brief" {
		go func() {
			eventually(context.Background(), func() bool { _, err := os.Stat("over"); return err == nil })
			fmt.Println("out of luck")
			os.Exit(5)
		}()
	}
	for s := range signals {
		if s == syscall.SIGTERM {
			stopServing()
			say("stop")
			os.Exit(0)
		}
		say("told")
		if version, _ := os.ReadFile("version"); strings.Contains(string(version), "fatal") {
			os.Exit(4)
		}
	}
}

func cmdZip(ts *testscript.TestScript, _ bool, args []string) {
	out, err := os.Create(ts.MkAbs(args[0]))
	ts.Check(err)
	ts.Check(errors.Join(zipFolder(out, ts.MkAbs(args[1])), out.Close()))
}

func zipFolder(out io.Writer, dir string) error {
	w := zip.NewWriter(out)
	return errors.Join(w.AddFS(os.DirFS(dir)), w.Close())
}

func cmdDrop(ts *testscript.TestScript, _ bool, args []string) {
	for _, name := range args {
		data, err := os.ReadFile(ts.MkAbs(name))
		ts.Check(err)
		hidden := ts.MkAbs(filepath.Join("patch", "."+filepath.Base(name)))
		ts.Check(os.WriteFile(hidden, data, 0o644))
		ts.Check(os.Rename(hidden, ts.MkAbs(filepath.Join("patch", filepath.Base(name)))))
	}
}

func cmdSum(ts *testscript.TestScript, _ bool, args []string) {
	for _, name := range args {
		f, err := os.Open(ts.MkAbs(name))
		ts.Check(err)
		sum, err := sumLine(f, filepath.Base(name))
		ts.Check(errors.Join(err, f.Close(), os.WriteFile(ts.MkAbs(name+".sha256"), []byte(sum), 0o644)))
	}
}

// patience is how long a story waits for anything.
const patience = 2 * time.Minute

func waitFor(ts *testscript.TestScript, what string, yes func() bool) {
	if !eventually(context.Background(), yes) {
		log, _ := os.ReadFile(ts.MkAbs("agent.log"))
		ts.Fatalf("waited %s for %s; the agent said:\n%s", patience, what, log)
	}
}

// eventually asks until the answer is yes, or patience is over.
func eventually(ctx context.Context, yes func() bool) bool {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	again := time.NewTicker(2 * time.Millisecond)
	defer again.Stop()
	for !yes() {
		select {
		case <-ctx.Done():
			return false
		case <-again.C:
		}
	}
	return true
}

// stateDir is where the story's agent.toml has it.
func stateDir(ts *testscript.TestScript) string {
	cfg, err := config.Load(ts.MkAbs("agent.toml"))
	ts.Check(err)
	return cfg.State.Dir
}

func receiptsOf(ts *testscript.TestScript, patch string) []record.Receipt {
	all, err := record.Read(stateDir(ts))
	ts.Check(err)
	var own []record.Receipt
	for _, r := range all {
		if r.Patch == patch {
			own = append(own, r)
		}
	}
	return own
}

func cmdOutcome(ts *testscript.TestScript, _ bool, args []string) {
	want := strings.Join(args[1:], " ")
	var r record.Receipt
	waitFor(ts, "the outcome of "+args[0], func() bool {
		own := receiptsOf(ts, args[0])
		if len(own) > 0 {
			r = own[len(own)-1]
		}
		return len(own) > 0
	})
	if got := strings.TrimSpace(string(r.Outcome) + " " + string(r.Reason)); got != want {
		ts.Fatalf("%s: %s (%s), want %s", args[0], got, r.Detail, want)
	}
	// The file is put away, and the line is in the log, a moment after the receipt.
	waitFor(ts, "the end of "+args[0], func() bool {
		_, err := os.Lstat(filepath.Join(stateDir(ts), claimsName, r.ID))
		return errors.Is(err, fs.ErrNotExist)
	})
	checkOutcomeLine(ts, r)
}

// checkOutcomeLine sees to it that the log has just one line for the receipt.
func checkOutcomeLine(ts *testscript.TestScript, r record.Receipt) {
	message := map[string]string{"applied": "patch applied", "rejected": "patch rejected", "rolled-back": "patch rolled back", "failed": "patch failed"}[string(r.Outcome)]
	log, err := os.ReadFile(ts.MkAbs("agent.log"))
	ts.Check(err)
	lines := 0
	for line := range bytes.Lines(log) {
		if bytes.Contains(line, []byte(message)) && bytes.Contains(line, []byte("id="+r.ID)) {
			lines++
		}
	}
	if lines != 1 {
		ts.Fatalf("%d lines %q for %s in the log:\n%s", lines, message, r.Patch, log)
	}
}

func cmdReceipts(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[1])
	ts.Check(err)
	if got := len(receiptsOf(ts, args[0])); got != want {
		ts.Fatalf("%s has %d receipts, want %d", args[0], got, want)
	}
}

// cmdClaimed waits until the drop of that name is the agent's.
func cmdClaimed(ts *testscript.TestScript, _ bool, args []string) {
	waitFor(ts, "the agent to take "+args[0], func() bool {
		records, err := filepath.Glob(filepath.Join(stateDir(ts), claimsName, "*", "claim.json"))
		ts.Check(err)
		return slices.ContainsFunc(records, func(path string) bool {
			data, err := os.ReadFile(path)
			return err == nil && bytes.Contains(data, []byte(strconv.Quote(args[0])))
		})
	})
}

func cmdUntil(ts *testscript.TestScript, _ bool, args []string) {
	match := regexp.MustCompile("(?m)" + args[1])
	waitFor(ts, fmt.Sprintf("%s to match %s", args[0], args[1]), func() bool {
		data, err := os.ReadFile(ts.MkAbs(args[0]))
		return err == nil && match.Match(data)
	})
}

func cmdGone(ts *testscript.TestScript, neg bool, args []string) {
	data, err := os.ReadFile(ts.MkAbs(args[0]))
	ts.Check(err)
	var p struct{ PID int }
	ts.Check(json.Unmarshal(data, &p))
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.PID))
	gone := err != nil || bytes.Contains(stat, []byte(") Z ")) // or ended, and not yet reaped by init
	if gone == neg {
		ts.Fatalf("process %d: gone is %v", p.PID, gone)
	}
}
