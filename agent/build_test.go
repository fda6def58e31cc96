package main

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

// What README.md and CONTRIBUTING.md build is one static program, with a C compiler
// installed or not: nothing of it is made by one.
func TestBuildIsStatic(t *testing.T) {
	for _, file := range []string{"README.md", "CONTRIBUTING.md"} {
		command := regexp.MustCompile(`(?m)^(.*)go build .*-o patchagent (\./\S+)$`).FindStringSubmatch(read(t, file))
		if command == nil {
			t.Errorf("%s does not say how the program is built", file)
			continue
		}
		list := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", "{{if .CgoFiles}}{{.ImportPath}}{{end}}", command[2])
		list.Dir, list.Stderr = "..", os.Stderr
		// As where there is a compiler; what the command itself says counts for more.
		list.Env = append(append(os.Environ(), "CGO_ENABLED=1"), strings.Fields(command[1])...)
		needs, err := list.Output()
		if err != nil {
			t.Fatal(err)
		}
		if len(needs) > 0 {
			t.Errorf("%s: of what it builds these need a C compiler, and so the system's libraries:\n%s", file, needs)
		}
	}
}
