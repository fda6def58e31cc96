package main

import (
	"maps"
	"slices"

	"patchagent/watcher"
)

// noteIgnored logs what is in the patch folder and is no drop, once, so that nobody waits
// for it in vain: of many the first ones, and how many there are whenever they are twice
// as many.
func (a *agent) noteIgnored(named []watcher.Ignored, more int) {
	const why = "ignored"
	if more == 0 { // all of them are named
		delete(a.crowds, why)
		maps.DeleteFunc(a.ignored, func(name, _ string) bool {
			return !slices.ContainsFunc(named, func(i watcher.Ignored) bool { return i.Name == name })
		})
	}
	for _, i := range named {
		if _, told := a.ignored[i.Name]; a.ignored[i.Name] == i.Why || !told && len(a.ignored) >= mostLines {
			continue
		}
		if a.ignored == nil {
			a.ignored = map[string]string{}
		}
		a.ignored[i.Name] = i.Why
		a.log.Info("ignored in the patch folder", "name", i.Name, "reason", i.Why)
	}
	if n := len(named) + more; more > 0 && n >= 2*a.crowds[why] {
		a.crowds[why] = n
		a.log.Info("many files ignored in the patch folder", "files", n)
	}
}
