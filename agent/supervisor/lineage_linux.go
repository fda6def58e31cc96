package supervisor

// A lineage is a process and all that it descends from, by number and start. It is
// never signalled by its own agent: neither what a state file says, nor a number that
// changed hands, may end the agent, what has started it, or the first process, without
// which a container is over.
type lineage map[int]uint64

func lineageOf(pid int) lineage {
	l := lineage{}
	for range mostAncestors {
		st, err := statOf(pid)
		if err != nil || pid <= 1 {
			break
		}
		l[pid] = st.start
		pid = st.parent
	}
	return l
}

// has says whether a process belongs to it. The first one always does, and so does what
// is no number of a process.
func (l lineage) has(pid int, start uint64) bool {
	if pid <= 1 {
		return true
	}
	of, ok := l[pid]
	return ok && of == start
}

// isNamed says whether a record has the number of one of it.
func (l lineage) isNamed(r recorded) bool {
	return l.has(r.PID, r.Start) || r.Leader != 0 && l.has(r.Leader, r.LeaderStart)
}
