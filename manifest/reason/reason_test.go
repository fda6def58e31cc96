package reason

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"unicode/utf8"
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

func TestLine(t *testing.T) {
	for said, want := range map[string]string{
		"plain words, \u00e4\u4e16":   "plain words, \u00e4\u4e16",
		"one\ntwo\r\nthree\tfour":     "one two  three four",
		"\x1b[2Jgone\a \u202ezip.exe": " [2Jgone   zip.exe",
		"not UTF-8: \xff":             "not UTF-8: ?",
		"":                            "",
	} {
		if got := Line(said); got != want {
			t.Errorf("%q became %q, want %q", said, got, want)
		}
	}
	for _, long := range []string{strings.Repeat("x", maxLine+1), strings.Repeat("\u4e16", maxLine), strings.Repeat("\xff", maxLine), strings.Repeat("x", maxLine)} {
		if got := Line(long); !utf8.ValidString(got) || len(got) > maxLine || strings.HasSuffix(got, "…") != (len(long) > maxLine) {
			t.Errorf("%.20q of %d bytes became %d", long, len(long), len(got))
		}
	}
}

// A hook that refuses a patch has the code of what it stands beside, so its advice names both.
func TestAdviceNamesTheHook(t *testing.T) {
	for code, hook := range map[Code]string{NotAllowed: "before_stop", PrecheckFailed: "after_files", Unhealthy: "after_start"} {
		if !strings.Contains(code.Advice(), hook) {
			t.Errorf("the advice of %s does not name %s: %s", code, hook, code.Advice())
		}
	}
}
