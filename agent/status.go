package main

import (
	"os"
	"time"

	"patchagent/agent/config"
	"patchagent/agent/record"
	"patchagent/agent/supervisor"
	"patchagent/applier"
)

// status is how agent, process and patches are. The loop publishes it whenever
// something may have changed, so that whoever asks does not wait for the loop; the
// process is looked at when it is asked for.
type status struct {
	Agent     agentStatus       `json:"agent"`
	Build     int64             `json:"build"` // that is on record
	Region    string            `json:"region"`
	Product   string            `json:"product"`
	Process   supervisor.Status `json:"process"`
	Applying  *work             `json:"applying"`  // null: nothing is
	Probation *work             `json:"probation"` // null: nothing is
	Held      bool              `json:"held"`      // HOLD is in the patch folder
	Failed    bool              `json:"failed"`    // a patch could not be undone
	Waiting   []waiting         `json:"waiting"`   // of many the first
	More      int               `json:"more_waiting"`
	Last      *record.Receipt   `json:"last"` // the newest receipt; null: there is none
	Kept      []applier.Build   `json:"kept"` // that can be returned to, newest first

	ended string // see moment
}

type agentStatus struct {
	PID   int       `json:"pid"`
	Since time.Time `json:"since"`

	// Watching is false while it goes on with what an earlier one has left.
	Watching bool `json:"watching"`
}

// work is what the agent is at.
type work struct {
	Patch string    `json:"patch"` // the file's name, or words for what is none
	Build int64     `json:"build"` // that it leads to
	Since time.Time `json:"since"`
	Step  *step     `json:"step"` // that it waits for now; null: it is between two

	id string // that its receipt will have
}

// workRollback is the Patch of a rollback by hand.
const workRollback = "a rollback"

// waiting is a drop that waits, and why.
type waiting struct {
	Patch  string      `json:"patch"`
	Build  *int64      `json:"build"` // null: it was not looked at yet
	Reason string      `json:"reason"`
	Detail string      `json:"detail"`
	Gate   *gateStatus `json:"gate,omitempty"` // what the gate said to it last
}

// gateStatus is where the talk with the gate is.
type gateStatus struct {
	Verdict string     `json:"verdict"`
	Message string     `json:"message"`
	Error   string     `json:"error"`
	Build   *int64     `json:"build"`  // as reported
	Region  string     `json:"region"` // as reported
	At      time.Time  `json:"at"`
	Since   time.Time  `json:"since"`  // the first WAIT
	Until   time.Time  `json:"until"`  // when it is given up
	Next    *time.Time `json:"next"`   // null: it is being asked, or not its turn
	Asking  bool       `json:"asking"` // now
}

// mostWaiting is how many drops that wait are told one by one: a status is for somebody
// to read, and is made anew at each step.
const mostWaiting = 100

// publish makes the status of now. what is the work that the loop begins with it, nil
// if it is ready for anything.
func (a *agent) publish(what *work) {
	if what != nil {
		a.begun = what.id
	}
	s := &status{
		Agent: agentStatus{PID: os.Getpid(), Since: a.began, Watching: a.watching},
		Build: a.installed.Build, Region: a.installed.Region, Product: a.installed.Product,
		Applying: what, Held: a.held, Failed: a.failed, Last: a.last, Kept: a.reachable(), Waiting: []waiting{},
	}
	if t := a.trial; t != nil {
		s.Probation = &work{Patch: t.tx.Plan().Patch, Build: t.tx.Plan().Build, Since: t.began, id: t.tx.Plan().ID}
	}
	s.ended = idOf(a.ended)
	add := func(w waiting) {
		if len(s.Waiting) == mostWaiting {
			s.More++
			return
		}
		s.Waiting = append(s.Waiting, w)
	}
	for _, p := range a.queue {
		switch {
		case a.trial != nil && a.trial.patch == p || what != nil && what.Patch == p.claim.Name:
		case len(s.Waiting) == mostWaiting:
			s.More++
		default:
			add(a.waitingOf(p))
		}
	}
	for _, u := range a.unread {
		add(waiting{Patch: u.claim.Name, Reason: "unread", Detail: u.trouble})
	}
	told := map[string]bool{} // HOLD keeps what was taken, too
	for _, p := range a.queue {
		told[p.claim.Name] = true
	}
	for _, u := range a.unread {
		told[u.claim.Name] = true
	}
	if s.Probation != nil {
		told[s.Probation.Patch] = true
	}
	if what != nil {
		told[what.Patch] = true
	}
	for _, name := range a.found.Held {
		if !told[name] {
			add(waiting{Patch: name, Reason: "hold", Detail: holdDetail})
		}
	}
	for _, w := range a.found.Waiting {
		add(waiting{Patch: w.Name, Reason: w.Reason, Detail: w.Why})
	}
	a.snapshot.Store(s)
}

const holdDetail = "the file HOLD is in the patch folder"

// waitingOf says why a verified drop waits.
func (a *agent) waitingOf(p *patch) waiting {
	w := waiting{Patch: p.claim.Name, Build: new(p.m.Build), Gate: a.gateStatusOf(p)}
	first := a.queue[0]
	switch {
	case a.failed:
		w.Reason, w.Detail = "failed", "a patch could not be undone, and "+untilMended
	case a.held:
		w.Reason, w.Detail = "hold", holdDetail
	case a.trial != nil:
		w.Reason, w.Detail = "probation", a.trial.receipt.Patch+" is on probation"
	case a.unrecorded():
		w.Reason, w.Detail = "record", "the outcome of the patch before cannot be written down yet; see the log"
	case !a.process.settled():
		w.Reason, w.Detail = "process", "the process is on its way up or down"
	case a.cfg.Patch.Mode == config.ModeManual:
		w.Reason, w.Detail = "manual", "patch.mode is manual"
	case first != p && first.talk.waits():
		w.Reason, w.Detail = behindGate, "it comes after "+first.claim.Name+", which the gate does not let go yet"
	case p.talk.waits():
		w.Reason, w.Detail = reasonGate, p.talk.last.said()
	case a.question != nil && a.question.patch == p:
		w.Reason, w.Detail = reasonGate, "the gate is being asked"
	default:
		w.Reason, w.Detail = "turn", "it has its turn as soon as those before it have an outcome"
	}
	if w.Gate != nil && w.Reason != reasonGate {
		w.Gate.Next = nil // it is not asked again before that has changed
	}
	return w
}

// gateStatusOf is nil for a patch that has not been told to wait.
func (a *agent) gateStatusOf(p *patch) *gateStatus {
	if !p.talk.waits() {
		return nil
	}
	r := p.talk.last
	g := &gateStatus{
		Verdict: r.Verdict.String(), Message: r.Message, Build: r.Build, Region: r.Region, At: r.at,
		Since: p.claim.WaitsSince, Until: p.claim.WaitsSince.Add(time.Duration(a.cfg.Target.Gate.MaxWait)),
	}
	if r.err != nil {
		g.Error = r.err.Error()
	}
	if a.question != nil && a.question.patch == p {
		g.Asking = true
	} else if next := p.talk.next; !next.IsZero() {
		g.Next = &next
	}
	return g
}

// lastIs is told of each receipt. It keeps none of the package.
func (a *agent) lastIs(r record.Receipt) {
	if r.Build != nil {
		r.Build = new(*r.Build)
	}
	a.last = &r
	if r.ID == a.begun {
		a.ended = &r
	}
}

// status is what was published last, with the process as it is now. Any goroutine may
// ask.
func (a *agent) status() status {
	s := *a.snapshot.Load()
	s.Process = a.process.Status()
	now := a.steps.now.Load()
	s.Applying, s.Probation = s.Applying.at(now), s.Probation.at(now)
	return s
}
