package main

import (
	"testing"

	"patchagent/agent/record"
	"patchagent/applier"
	"patchagent/manifest/reason"
)

// What was printed on several lines is read on several, and none of them can be taken for
// one of the text around it, or moves the cursor.
func TestReadable(t *testing.T) {
	for detail, want := range map[string]string{
		"no output": "no output",
		`sh: exit status 1; it printed: "one"; and more`:                 `sh: exit status 1; it printed: "one"; and more`,
		`sh: it printed: "one\n\ttwo\x1b[2J"; and more`:                  "sh: it printed:\n    one\n     two [2J\nand more",
		`a: it printed: "1\n2"; b: it printed: "3\n4"`:                   "a: it printed:\n    1\n    2\nb: it printed:\n    3\n    4",
		`cut: it printed: "1\n2`:                                         `cut: it printed: "1\n2`,
		`a gate: it printed: my \n fault`:                                `a gate: it printed: my \n fault`,
		"it ended" + lastPrinted + "one\ntwo":                            "it ended\nthe last that the process printed:\n    one\n    two",
		`last: sh: it printed: "1\n2"` + lastPrinted + `it printed: "3"`: "last: sh: it printed:\n    1\n    2\nthe last that the process printed:\n    it printed: \"3\"",
	} {
		if got := readable(detail); got != want {
			t.Errorf("%q: %q, want %q", detail, got, want)
		}
	}
}

func TestDowntime(t *testing.T) {
	for want, r := range map[string]record.Receipt{
		"5ms":  {Strategy: "cold", Outcome: reason.Applied, Modified: 1, DowntimeMS: 5},
		">5ms": {Strategy: "cold", Outcome: reason.Failed, Modified: 1, DowntimeMS: 5, Detail: applier.ProcessDownBetween + "why"},
		"?":    {Strategy: "cold", Outcome: reason.Applied, Deleted: 1}, // it was up again when an agent looked
		"-":    {Strategy: "warm", Outcome: reason.Applied, Created: 1},
	} {
		if got := downtime(r); got != want {
			t.Errorf("%+v: %s", r, got)
		}
	}
	if got := downtime(record.Receipt{Strategy: "cold", Outcome: reason.RolledBack, Reason: reason.StartFailed}); got != "-" { // not begun
		t.Error(got)
	}
}
