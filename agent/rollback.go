package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"patchagent/agent/record"
	"patchagent/applier"
	"patchagent/manifest/reason"
)

// A rollback is what an operator asks for by `patchagent rollback`.
type rollback struct {
	To    *int64 `json:"to"` // nil: the build before
	Force bool   `json:"force"`
}

// An answer is what the command prints, and its exit status.
type answer struct {
	Status  int             `json:"status"`
	Message string          `json:"message"`
	Receipt *record.Receipt `json:"receipt,omitempty"`
}

func no(status int, format string, args ...any) answer {
	return answer{Status: status, Message: fmt.Sprintf(format, args...)}
}

// rollBack goes back to an earlier build, from first to last. A patch on probation is
// what is gone back over first. when is when it was asked for.
func (a *agent) rollBack(ctx context.Context, ask rollback, when moment) answer {
	a.question.takeBack() // what it would answer is about the process as it was
	defer a.publish(nil)
	switch {
	case a.failed:
		return no(exitFailed, "cannot roll back: a patch could not be undone; mend that and start the agent again (%s)", reason.RollbackFailed)
	case a.unrecorded():
		return no(exitLater, "cannot roll back yet: the outcome of the last patch cannot be written down; see the log")
	}
	if ask.To == nil {
		if said, is := a.overtaken(when); is {
			return said
		}
	}
	if a.trial != nil {
		if from := a.trial.tx.Plan().FromBuild; !a.leadsTo(ask.To, from) {
			return no(exitRejected, "cannot roll back to build %d: it is not kept; build %d, before the patch on probation, is", *ask.To, from)
		}
		r := a.condemn(ctx, reason.Errorf(reason.Requested, askedFor))
		switch {
		case r.Outcome != reason.RolledBack || ask.To == nil || *ask.To == r.FromBuild:
			return a.answerOf(r)
		case a.unrecorded():
			return no(exitLater, "build %d is installed again, and going on to %d has to wait: the outcome cannot be written down; see the log", r.FromBuild, *ask.To)
		}
	}
	if ask.To != nil && *ask.To == a.installed.Build {
		return no(exitRejected, "cannot roll back to build %d: it is installed", *ask.To)
	}
	began := time.Now()
	back, err := a.applier.PlanBack(ctx, a.installed.Build, ask.To, ask.Force)
	if err == nil {
		err = a.applier.Space(back.Plan, 0)
	}
	if err == nil {
		err = a.startable(back.Plan, back.Warm)
	}
	if err != nil {
		return refusal(err)
	}
	noteAll(a.log.Info, "about the tree", "", back.Notes)
	id := rollbackID()
	a.publish(&work{Patch: workRollback, Build: back.Build, Since: began, id: id})
	tx, err := a.applier.Stage(ctx, nil, back.Plan, applier.Patch{
		ID: id, Warm: back.Warm, Build: back.Build, FromBuild: a.installed.Build,
		Note: reason.Line(strings.Join(append([]string{"went back over " + strings.Join(back.Patches, ", ")}, back.Notes...), "; ")),
	})
	if err != nil {
		return refusal(err)
	}
	a.log.Info("rollback begins", "id", id, "build", back.Build, "from_build", a.installed.Build, "strategy", applier.StrategyName(back.Warm))
	result, err := tx.Apply(ctx, a.process)
	if err != nil {
		a.leftTx(tx)
		return no(exitFailed, "the agent is ending: %v", err)
	}
	if dir := tx.AsideDir(); result.Code == reason.Requested && back.PutsAside() {
		result.Detail += "; what had been changed by hand is in " + dir
	}
	r := a.conclude(&trial{tx: tx, receipt: a.receiptOfTx(tx, nil), began: began}, result)
	a.keepUp()
	return a.answerOf(r)
}

// askedFor is the detail of a patch that is undone because of that.
const askedFor = "an operator asked for it"

// leadsTo says whether it is on the way back to a build, or to the one before, to undo a
// patch that has no outcome yet and was made of the build from.
func (a *agent) leadsTo(to *int64, from int64) bool {
	if to == nil || *to == from {
		return true
	}
	builds, _ := a.applier.Builds()
	return slices.ContainsFunc(builds, func(b applier.Build) bool { return b.Build == *to })
}

// rollbackID is like a claim's: it begins with the time.
func rollbackID() string {
	return time.Now().UTC().Format("20060102T150405.000000000") + "-rollback-" + rand.Text()[:8]
}

// refusal is the answer to what cannot be done as the tree is.
func refusal(err error) answer {
	_, misfit := errors.AsType[*applier.Misfit](err)
	_, refused := reason.Of(err)
	if misfit || refused || errors.Is(err, applier.ErrNoBuild) {
		return no(exitRejected, "%v", err)
	}
	return no(exitFailed, "%v", err)
}

func (a *agent) answerOf(r record.Receipt) answer {
	if r.Outcome == reason.RolledBack && r.Reason == reason.Requested {
		return answer{Status: exitDone, Message: fmt.Sprintf("build %d is installed again; %s", a.installed.Build, r.Detail), Receipt: &r}
	}
	status := exitFailed
	switch r.Outcome {
	case reason.Rejected:
		status = exitRejected
	case reason.Failed:
		return answer{Status: status, Message: fmt.Sprintf("the rollback could neither be made nor undone: %s (%s)", r.Detail, r.Reason), Receipt: &r}
	}
	return answer{Status: status, Message: fmt.Sprintf("the rollback was not made, build %d stays: %s (%s)", a.installed.Build, r.Detail, r.Reason), Receipt: &r}
}
