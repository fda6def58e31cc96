package main

import (
	"context"
	"reflect"
	"strings"
	"sync"
	"time"

	"patchagent/agent/config"
	"patchagent/agent/record"
	"patchagent/agent/supervisor"
	"patchagent/applier"
	"patchagent/manifest/reason"
)

// eventGate is PATCHAGENT_EVENT of the gate command.
const eventGate = "gate"

// A question to the gate is out. The loop goes on meanwhile; there is never more than
// one.
type question struct {
	patch  *patch
	pid    int  // the process that it is about
	moot   bool // nobody wants to know any more: the turn is another's, or nobody's
	cancel context.CancelFunc
	answer chan reply // with room for one
	asking sync.WaitGroup
}

// A reply is an answer of the gate, or why there is none that counts.
type reply struct {
	supervisor.Answer
	err error
	at  time.Time
}

// A talk is what the gate has said to a patch so far. Since when it says WAIT is on
// record with the claim.
type talk struct {
	last *reply
	next time.Time // when it is asked again

	// since is when it began to wait, earlier agents included, as if the system's clock
	// had never been set since then: a time that this agent measures from.
	since time.Time
}

// begun says whether it was asked already.
func (t *talk) begun() bool { return t.last != nil }

// waits says whether the last answer was that the patch has to wait.
func (t *talk) waits() bool { return t.last != nil && t.last.Verdict == supervisor.Wait }

// gate is what is asked before a patch now; not set if nothing is. A page is the
// process's own and cannot answer while that is down; a patch may be what mends it.
func (a *agent) gate() supervisor.Gate {
	g := a.cfg.Target.Gate
	if g.HTTP != "" && a.process.down() {
		return supervisor.Gate{}
	}
	return supervisor.Gate{Exec: g.Exec, HTTP: g.HTTP}
}

// down says whether there is no process, nor one on its way.
func (p process) down() bool { return isDown(p.Status().State) }

func isDown(state supervisor.State) bool {
	switch state {
	case supervisor.Stopped, supervisor.Waiting, supervisor.Failed, supervisor.Ended:
		return true
	default:
		return false
	}
}

// next returns the patch whose turn it is, or nil and when to ask again. A question
// that is out for another patch, or for one whose turn it is no longer, is taken back.
func (a *agent) next(now time.Time) (*patch, time.Duration) {
	p, wait := a.head(now)
	if q := a.question; q != nil {
		if q.patch != p {
			q.takeBack()
		}
		if p != nil {
			wait = nothing // its answer wakes the loop
		}
		return nil, wait
	}
	if p == nil {
		return nil, wait
	}
	if left := p.talk.next.Sub(now); left > 0 && a.gate().Set() {
		return nil, left
	}
	return p, 0
}

// ask puts the question for a patch.
func (a *agent) ask(ctx context.Context, p *patch, gate supervisor.Gate) {
	m := p.manifest()
	event := applier.Event{Name: eventGate, Patch: p.claim.Name, Build: m.Build, FromBuild: a.installed.Build,
		Strategy: applier.StrategyName(m.Warm), Root: a.cfg.Target.Root}
	q := &question{patch: p, pid: a.process.Status().PID, answer: make(chan reply, 1)}
	ctx, q.cancel = context.WithCancel(ctx)
	opts := processOptions(a.cfg)
	q.asking.Go(func() {
		said, err := gate.Ask(ctx, opts, event.Env())
		q.answer <- reply{said, err, time.Now()}
	})
	a.question = q
}

// takeBack makes a question moot, if there is one. It ends soon.
func (q *question) takeBack() {
	if q != nil {
		q.moot = true
		q.cancel()
	}
}

// onAnswer is the answer that the loop waits for, if any.
func (a *agent) onAnswer() <-chan reply {
	if a.question == nil {
		return nil
	}
	return a.question.answer
}

// askAnew is for a new configuration: the question that is out is put again, and what
// was said by the old gate keeps nobody waiting at a new one.
func (a *agent) askAnew(gate config.Gate) {
	a.question.takeBack()
	if reflect.DeepEqual(gate, a.cfg.Target.Gate) {
		return
	}
	for _, p := range a.queue {
		p.talk.next = time.Time{}
	}
}

// answered goes by what the gate has said. A go-ahead holds for this moment: the tree
// is looked at once more, and nothing else is done before the patch is.
func (a *agent) answered(ctx context.Context, said reply) {
	q := a.question
	a.question = nil
	q.cancel()
	q.asking.Wait()
	began := time.Now()
	if ctx.Err() != nil {
		a.leftAsked(q)
		return
	}
	if p, _ := a.head(began); q.moot || p != q.patch || q.pid != a.process.Status().PID {
		return // asked again, if need be
	}
	p := q.patch
	p.talk.last = &said
	a.log.Debug("the gate was asked", "patch", p.claim.Name, "verdict", said.Verdict.String(), "message", said.Message, "error", said.err)
	defer p.rest()
	switch m := p.manifest(); {
	case said.Region != "" && said.Region != m.Region:
		a.passed(ctx, p, said.Answer, reason.Errorf(reason.WrongRegion, "the patch is for region %q, and the process says that it is in %q: if it is wrong, mend what the gate reports", m.Region, said.Region), began)
	case said.Verdict == supervisor.NotAllowed:
		refused := reason.Errorf(reason.NotAllowed, "the gate says NOT ALLOWED%s", strings.TrimSuffix(": "+said.Message, ": "))
		said.Message = "" // it is told once
		a.passed(ctx, p, said.Answer, refused, began)
	case said.Verdict == supervisor.GoAhead:
		from := a.from(said.Answer)
		if from != a.installed.Build {
			a.log.Info("the process says that it is another build than is on record; its word counts", "patch", p.claim.Name, "reported", from, "record", a.installed.Build)
		}
		plan, err := a.plan(ctx, p, &present{build: from, reported: said.Build != nil, record: a.installed.Build})
		if a.passed(ctx, p, said.Answer, err, began) {
			a.carryOut(ctx, p, plan, said.Answer, began)
		}
	default:
		a.wait(ctx, p, said, began)
	}
}

// wait has a patch wait, or gives it up when it has waited for too long.
func (a *agent) wait(ctx context.Context, p *patch, said reply, began time.Time) {
	gate := a.cfg.Target.Gate
	left := time.Duration(gate.MaxWait) - a.waited(p)
	if left <= 0 {
		err := reason.Errorf(reason.WaitedTooLong, "the gate has said WAIT since %s, for all of target.gate.max_wait (%s)", stamp(p.claim.WaitsSince), gate.MaxWait)
		if said.err != nil {
			err = reason.Errorf(err.Code, "%w; the last answer is an error: %v", err, said.err)
		}
		a.passed(ctx, p, said.Answer, err, began)
		return
	}
	pause := time.Duration(gate.Retry)
	if said.RetryAfter > 0 {
		pause = said.RetryAfter
	}
	p.talk.next = began.Add(min(pause, left)) // it is asked once more when the time is over
	a.noteGate(p, said)
}

// waited is for how long a patch has been told to wait, from now on if it was not yet. It
// runs on from one agent to the next, by a clock that does not go back. While one agent
// runs it is measured, so that a clock that is set forward takes nothing of max_wait;
// what is on record moves along.
func (a *agent) waited(p *patch) time.Duration {
	const correction = time.Minute
	now := a.clock.Now()
	if p.talk.since.IsZero() {
		p.talk.since = time.Now()
		if since := p.claim.WaitsSince; !since.IsZero() {
			p.talk.since = p.talk.since.Add(-max(0, now.Sub(since)))
		}
	}
	waited := time.Since(p.talk.since)
	if since := now.Add(-waited); since.Sub(p.claim.WaitsSince).Abs() > correction {
		p.claim.WaitsSince = since
		if err := p.claim.Save(false); err != nil {
			a.log.Warn("cannot put on record since when a patch waits; the next agent would begin anew", "patch", p.claim.Name, "error", err)
		}
	}
	return waited
}

// unwait has the wait of each patch begin anew while none is asked for, because of HOLD or
// in manual mode: that time is the operator's, and the process has not said WAIT in it.
func (a *agent) unwait() {
	if !a.held && a.cfg.Patch.Mode != config.ModeManual {
		return
	}
	for _, p := range a.queue {
		p.talk = talk{}
		if p.claim.WaitsSince.IsZero() {
			continue
		}
		p.claim.WaitsSince = time.Time{}
		if err := p.claim.Save(false); err != nil {
			a.log.Warn("cannot put on record that the wait of a patch begins anew; for the next agent it would go on", "patch", p.claim.Name, "error", err)
		}
	}
}

// from is the build that a patch replaces: what the process says, or what is on record.
func (a *agent) from(said supervisor.Answer) int64 {
	if said.Build != nil {
		return *said.Build
	}
	return a.installed.Build
}

// receiptOf begins the receipt of a patch that has had its turn.
func (a *agent) receiptOf(p *patch, said supervisor.Answer, began time.Time) record.Receipt {
	return receiptOf(p.claim, p.checked, a.from(said), began)
}

// quoted is the message of the gate as a part of a sentence.
func quoted(said supervisor.Answer) string {
	if said.Message == "" {
		return ""
	}
	return "the gate says: " + said.Message
}

// also joins two parts of a sentence, of which either may be empty.
func also(one, other string) string {
	if one == "" || other == "" {
		return one + other
	}
	return one + "; " + other
}

func withMessage(r record.Receipt, said supervisor.Answer) record.Receipt {
	r.Detail = also(r.Detail, quoted(said))
	return r
}

// reasonGate is why a patch waits that the gate does not let go; behindGate is why those
// do that come after it.
const (
	reasonGate = "gate"
	behindGate = "order"
)

// said is what the gate said, as a sentence for whoever wonders why a patch waits.
func (r reply) said() string {
	switch {
	case r.err != nil:
		return "an answer that does not count, which means WAIT: " + r.err.Error()
	case r.Message != "":
		return "the gate says WAIT: " + r.Message
	default:
		return "the gate says WAIT"
	}
}

// noteGate logs that a patch waits, once for each thing that the gate says.
func (a *agent) noteGate(p *patch, r reply) {
	name, said := p.claim.Name, reason.Line(r.said())
	why := reasonGate + whyMore + said
	if a.waiting[name] == why {
		return
	}
	a.waiting[name] = why
	if r.err != nil {
		a.log.Warn("the gate gave no answer that counts", "patch", name, "error", r.err)
	}
	a.log.Info("patch waiting", "patch", name, "reason", reasonGate, "detail", said)
}

// whyMore separates a reason in agent.waiting from what else has to change for it to
// be logged again.
const whyMore = "\x00"
