package main

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
)

// To read no further is no mistake of whoever typed the command, and nor is a full disk.
func TestNobodyReads(t *testing.T) {
	r, gone, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer gone.Close()
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	var errs bytes.Buffer
	if status := Run(t.Context(), []string{"version"}, Program{Out: gone, Err: &errs}); status != 141 || errs.Len() > 0 {
		t.Errorf("nobody reads: status %d\n%s", status, errs.String())
	}
	full := failing{errors.New("no space")}
	if status := Run(t.Context(), []string{"version"}, Program{Out: full, Err: &errs}); status != exitFailed || !strings.HasSuffix(errs.String(), "no space\n") {
		t.Errorf("the disk is full: status %d\n%s", status, errs.String())
	}
}

// Who has a port already is nobody's worry where it may be this configuration's agent, and
// otherwise somebody's.
func TestCheckSeesAPortTaken(t *testing.T) {
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	if err := errors.Join(os.Mkdir(in("app"), 0o755), os.Mkdir(in(".patchagent"), 0o700), os.WriteFile(in("agent.toml"),
		[]byte("region = \"r\"\n[target]\nroot = \"app\"\ncommand = [\"sh\"]\n[[target.socket]]\nlisten = \"tcp:"+taken.Addr().String()+"\"\n"), 0o644)); err != nil {
		t.Fatal(err)
	}
	told := func() bool {
		var out, errs bytes.Buffer
		if status := Run(t.Context(), []string{"check", "-c", in("agent.toml")}, Program{Out: &out, Err: &errs}); status != exitDone {
			t.Errorf("status %d\n%s%s", status, out.String(), errs.String())
		}
		return strings.Contains(out.String(), "WARN target.socket") && strings.Contains(out.String(), "somebody listens there")
	}
	if !told() {
		t.Error("no agent runs, and nothing is told")
	}
	agent, err := listen(in(".patchagent"), hclog.NewNullLogger(), func() status { return status{} })
	if err != nil {
		t.Fatal(err)
	}
	serving, end := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- agent.Run(serving) }()
	defer func() { end(); <-ended }()
	if told() {
		t.Error("an agent runs, and its port is told of")
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }
