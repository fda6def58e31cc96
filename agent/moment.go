package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"

	"patchagent/agent/record"
	"patchagent/manifest/reason"
)

// A moment is what somebody who asks for a rollback can know when he asks. What he means
// by the build before is decided by it: if what was under way then is undone by itself,
// he has what he wanted, and to go back over one more would be one too many.
type moment struct {
	at    *work  // what the agent was at, or what was on probation; nil: nothing
	ended string // ID of what the agent was at last and has an outcome; empty: nothing yet
}

// moment is that of a status.
func (s status) moment() moment {
	m := moment{at: s.Applying, ended: s.ended}
	if m.at == nil {
		m.at = s.Probation
	}
	return m
}

// overtaken is the answer to whoever has asked for the build before, if that was not to
// go back over what is installed now.
func (a *agent) overtaken(when moment) (said answer, is bool) {
	r := a.ended
	if idOf(r) == when.ended {
		return answer{}, false
	}
	switch mine := when.at != nil && when.at.id == r.ID && r.Patch != ""; {
	case !mine:
		return no(exitLater, "another rollback came first; build %d is installed now, and nothing more was rolled back: ask again if you want that", a.installed.Build), true
	case r.Outcome == reason.Applied:
		return answer{}, false
	default:
		return a.undoneAlready(*r), true
	}
}

// undoneAlready is the answer to whoever wants to be rid of a patch that is gone.
func (a *agent) undoneAlready(r record.Receipt) answer {
	how := fmt.Sprintf("was undone by itself (%s)", r.Reason)
	switch {
	case r.Outcome == reason.Rejected:
		how = fmt.Sprintf("was rejected (%s)", r.Reason)
	case r.Reason == reason.Requested:
		how = "was undone for another who asked"
	}
	return answer{Message: fmt.Sprintf("%s %s; build %d is installed, nothing more was rolled back", r.Patch, how, a.installed.Build), Receipt: &r}
}

// idOf is the ID of a receipt, empty if there is none.
func idOf(r *record.Receipt) string {
	if r == nil {
		return ""
	}
	return r.ID
}

// isAsked says whether somebody waits for the loop to roll back.
func (a *agent) isAsked() bool { return a.asked != nil && a.asked() }

// waitsFor is the header of the word that comes before the answer, with what that has to
// wait for.
const waitsFor = "Patchagent-Waits-For"

// sayWaiting tells whoever asks at once that his answer takes time, and why.
func sayWaiting(w http.ResponseWriter, at *work) {
	w.Header().Set(waitsFor, url.PathEscape(at.Patch))
	w.WriteHeader(http.StatusProcessing)
	w.Header().Del(waitsFor)
}

// hearWaiting has that word printed to out.
func hearWaiting(ctx context.Context, out io.Writer) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{Got1xxResponse: func(_ int, header textproto.MIMEHeader) error {
		name, err := url.PathUnescape(header.Get(waitsFor))
		switch {
		case err != nil || name == "":
		case name == workRollback:
			fmt.Fprintln(out, "waiting for "+name+", which is being made")
		default:
			fmt.Fprintln(out, reason.Line("waiting for "+name+", which is being applied"))
		}
		return nil
	}})
}
