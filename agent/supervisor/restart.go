package supervisor

import "context"

// restartHint is what starts a process again that is left down.
const restartHint = "patchagent restart"

// Retry is for whoever could not Start the process: it is started again as the policy
// says, with all its attempts, and the first of them comes after the first delay. It says
// whether that is so; otherwise the process is left down, as Failed.
func (s *Supervisor) Retry() (again bool) {
	_ = s.ask(context.Background(), func() error {
		s.held = false
		if s.child != nil { // it could not be stopped; its end is dealt with as any other
			again = s.opts.Restart != Never
			return nil
		}
		again = s.startFailed()
		return nil
	})
	return again
}

// Retry is as of Supervisor: it is tried every statusPause, mostStarts times, whatever
// the policy is. A service that could not be stopped is started should it end after all.
func (x *External) Retry() (again bool) {
	_ = x.ask(context.Background(), func() error {
		x.owed, x.starts = x.stopped, 1
		if x.due() {
			x.enter(Waiting)
		}
		again = x.owed
		return nil
	})
	return again
}
