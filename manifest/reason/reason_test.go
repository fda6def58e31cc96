package reason

import (
	"errors"
	"fmt"
	"io"
	"testing"
)

func TestEveryCodeHasItsRow(t *testing.T) {
	seen := map[Code]bool{}
	for _, c := range All() {
		if seen[c] || c.Outcome() == "" || c.Outcome() == Applied || c.Advice() == "" {
			t.Errorf("%s: twice, or without outcome or advice", c)
		}
		seen[c] = true
	}
	if Code("nonsense").Outcome() != "" {
		t.Error("an unknown code has an outcome")
	}
}

func TestErrorKeepsItsCause(t *testing.T) {
	err := fmt.Errorf("outer: %w", Errorf(NoSpace, "line one\nline two: %w", io.ErrShortWrite))
	if code, ok := Of(err); !ok || code != NoSpace || !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("%v", err)
	}
	if err.Error() != "outer: line one line two: short write" {
		t.Errorf("%q", err)
	}
	if _, ok := Of(io.EOF); ok {
		t.Error("a code out of nothing")
	}
}
