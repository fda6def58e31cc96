package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"patchagent/manifest/hostile"
)

// turning is a context that is done after some looks at it.
type turning struct {
	context.Context
	looks int
}

func (c *turning) Err() error {
	if c.looks--; c.looks < 0 {
		return context.Canceled
	}
	return nil
}

// Whoever is interrupted, at whatever moment, does not say that a package would be let in.
func TestInspectInterrupted(t *testing.T) {
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	if err := errors.Join(
		os.WriteFile(in("agent.toml"), []byte("region = \"r\"\n[verify]\nrequire = \"none\"\n[target]\nroot = \"app\"\ncommand = [\"sh\"]\n"), 0o644),
		os.Mkdir(in("app"), 0o755), os.WriteFile(in("good.zip"), hostile.Plain(hostile.Part{Data: "x"}).Bytes(), 0o644)); err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{"inspect", "plan"} {
		for looks := 0; ; looks++ {
			ctx := &turning{t.Context(), looks}
			var out, errs bytes.Buffer
			status := Run(ctx, []string{command, "-c", in("agent.toml"), in("good.zip")}, Program{In: strings.NewReader(""), Out: &out, Err: &errs})
			if ctx.looks >= 0 { // it came to its end
				if status != exitDone || !strings.Contains(out.String(), "It would be let in.") || looks == 0 {
					t.Errorf("%s: status %d after %d looks\n%s%s", command, status, looks, out.String(), errs.String())
				}
				break
			}
			if status != exitFailed || out.Len() > 0 || strings.Contains(errs.String(), "--help") {
				t.Errorf("%s, interrupted at look %d: status %d\n%s%s", command, looks, status, out.String(), errs.String())
			}
		}
	}
}
