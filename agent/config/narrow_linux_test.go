package config

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// A limit with which no program comes up is doubted, and one that a program can live
// with is not.
func TestNarrowLimits(t *testing.T) {
	socket := "[[target.socket]]\nlisten = \"tcp:127.0.0.1:8080\"\n"
	for _, c := range []struct {
		limit, with, says string // says: "" for none
	}{
		{"as = 4096", "", "as = 4096: no program can start"},
		{"as = 1073741824", "", ""},
		{"data = 0", "", "data = 0: hardly any program"},
		{`data = "0:1073741824"`, "", ""},
		{"stack = 1", "", "stack = 1: hardly any program"},
		{"stack = 65536", "", ""},
		{"nofile = 0", "", "nofile = 0: the process is handed 3 open files"},
		{"nofile = 3", "", "nofile = 3: the process is handed 3 open files"},
		{"nofile = 4", "", ""},
		{"nofile = 4", socket, "nofile = 4: the process is handed 4 open files"},
		{"cpu = 0", "", "cpu = 0: the process is killed"},
		{"fsize = 0", "", "fsize = 0: the process can write to no file"},
		{"core = 0", "", ""},
		{"memlock = 0", "", ""},
	} {
		cfg, err := loadText(t, base+"rlimits = { "+c.limit+" }\n"+c.with)
		if err != nil {
			t.Fatal(err)
		}
		var doubts []string
		for _, f := range cfg.CheckMachine(t.Context()) {
			if f.Subject == "target.rlimits" && f.Doubt {
				doubts = append(doubts, f.Message)
				if !f.OK || !strings.Contains(f.Hint, "or leave it out") {
					t.Errorf("%s: %+v", c.limit, f)
				}
			}
		}
		if c.says == "" && len(doubts) > 0 || c.says != "" && !slices.ContainsFunc(doubts, func(d string) bool { return strings.HasPrefix(d, c.says) }) {
			t.Errorf("%s: %q, want %q", c.limit, doubts, c.says)
		}
	}
	limits := Rlimits{"nproc": {}}
	for who, doubted := range map[string]bool{"": os.Geteuid() != 0, "nobody": true} {
		if got := len((Target{User: who, Rlimits: limits}).narrow()) > 0; got != doubted {
			t.Errorf("nproc = 0 of user %q: doubted is %v", who, got)
		}
	}
}
