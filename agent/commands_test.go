package main

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"
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

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }
