package config

import (
	"fmt"
	"maps"
	"os"
	"slices"
)

// Below these no program comes up, as Linux starts one: its stack alone takes more of the
// address space, a page of data or more of stack is what the smallest of C needs.
const (
	leastAS    = 128 << 10
	leastData  = 4 << 10
	leastStack = 8 << 10
)

// narrow says of each limit with which hardly any program can start or live what it
// does. It is a doubt: that a process needs so little cannot be excluded.
func (t Target) narrow() []error {
	var doubts []error
	for _, name := range slices.Sorted(maps.Keys(t.Rlimits)) {
		limit := t.Rlimits[name]
		if why := t.narrowness(name, limit); why != "" && canLimit(name, limit) == nil {
			doubts = append(doubts, hint("a larger "+name+" in target.rlimits, or leave it out", "%s = %s: %s", name, limit, why))
		}
	}
	return doubts
}

func (t Target) narrowness(name string, l Rlimit) string {
	handed := 3 + len(t.Sockets) // with its input and its output
	switch {
	case name == "as" && l.Soft < leastAS:
		return "no program can start in so few bytes"
	case name == "data" && l.Soft < leastData && (l.Soft > 0 || l.Hard < leastData): // "0:…" is no limit there
		return "hardly any program can start with so few bytes of data"
	case name == "stack" && l.Soft <= leastStack:
		return "hardly any program can start with so few bytes of stack"
	case name == "nofile" && l.Soft <= uint64(handed):
		return fmt.Sprintf("the process is handed %d open files, and could open none beside them, not even a library", handed)
	case name == "cpu" && l.Soft == 0:
		return "the process is killed as soon as it works"
	case name == "fsize" && l.Soft == 0:
		return "the process can write to no file, and what it prints goes to one: the first line ends it"
	case name == "nproc" && l.Soft == 0 && (os.Geteuid() != 0 || t.User != "" && t.User != "root"):
		return "the process can start no thread and no other process"
	}
	return ""
}
