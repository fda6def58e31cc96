package main

import (
	"fmt"
	"strings"

	"patchagent/applier"
	"patchagent/applier/journal"
)

// readKept looks up which builds can be returned to. From then on keptAfter keeps count.
func (a *agent) readKept() {
	builds, err := a.applier.Builds()
	if err != nil {
		a.log.Warn("not all builds that are kept can be returned to", "error", err)
	}
	a.kept = nil
	for _, b := range builds { // without their plans, which can be large
		a.kept = append(a.kept, applier.Build{Build: b.Build, Replaced: b.Replaced, By: b.By, Patch: b.Patch, Warm: b.Warm})
	}
}

// keptAfter is told of each transaction that is closed.
func (a *agent) keptAfter(tx *applier.Tx) {
	plan := tx.Plan()
	switch {
	case tx.State() != journal.Committed:
	case plan.Back():
		a.kept = a.kept[min(len(plan.Undoes), len(a.kept)):]
	case a.cfg.State.Keep == 0:
		a.kept = nil
	default:
		next := []applier.Build{{Build: plan.FromBuild, Replaced: plan.Started, By: plan.Build, Patch: plan.Patch, Warm: plan.Warm}}
		if len(a.kept) > 0 && a.kept[0].By == plan.FromBuild {
			next = append(next, a.kept...)
		}
		a.kept = next[:min(len(next), a.cfg.State.Keep)]
	}
}

// reachable are the builds that a rollback could go back to, newest first.
func (a *agent) reachable() []applier.Build {
	if len(a.kept) == 0 || a.kept[0].By != a.installed.Build {
		return []applier.Build{}
	}
	return a.kept
}

// keptText is the line of a status about them.
func keptText(kept []applier.Build) string {
	if len(kept) == 0 {
		return "no build to roll back to"
	}
	numbers := make([]string, len(kept))
	for i, b := range kept {
		numbers[i] = fmt.Sprint(b.Build)
	}
	return strings.Join(numbers, ", ") + " (patchagent rollback --to BUILD)"
}
