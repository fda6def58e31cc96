package supervisor

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// resourceNumbers are the resources of setrlimit(2) by their names there.
var resourceNumbers = map[string]int{
	"as": unix.RLIMIT_AS, "core": unix.RLIMIT_CORE, "cpu": unix.RLIMIT_CPU, "data": unix.RLIMIT_DATA, "fsize": unix.RLIMIT_FSIZE,
	"locks": unix.RLIMIT_LOCKS, "memlock": unix.RLIMIT_MEMLOCK, "msgqueue": unix.RLIMIT_MSGQUEUE, "nice": unix.RLIMIT_NICE,
	"nofile": unix.RLIMIT_NOFILE, "nproc": unix.RLIMIT_NPROC, "rss": unix.RLIMIT_RSS, "rtprio": unix.RLIMIT_RTPRIO,
	"rttime": unix.RLIMIT_RTTIME, "sigpending": unix.RLIMIT_SIGPENDING, "stack": unix.RLIMIT_STACK,
}

// limits are those of the spec: what the copy sets of itself before it executes.
type limits struct {
	Umask, Nice *int
	Resources   []resource
}

type resource struct {
	Number int
	Key    string // for the error
	Limit  unix.Rlimit
}

func limitsOf(l Limits) (limits, error) {
	set := limits{Umask: l.Umask, Nice: l.Nice}
	for _, r := range l.Resources {
		number, ok := resourceNumbers[strings.ToLower(r.Name)]
		if !ok {
			return limits{}, fmt.Errorf("cannot set target.rlimits.%s: there is no such resource", r.Name)
		}
		key := fmt.Sprintf("target.rlimits.%s to %s:%s", r.Name, limitText(r.Soft), limitText(r.Hard))
		set.Resources = append(set.Resources, resource{number, key, unix.Rlimit{Cur: r.Soft, Max: r.Hard}})
	}
	return set, nil
}

func limitText(n uint64) string {
	if n == unix.RLIM_INFINITY {
		return "infinity"
	}
	return fmt.Sprint(n)
}

// allow does what needs the agent's rights, before they are given up. Of a resource
// it only raises the hard limit: the limit itself, which may be too narrow for this
// program, comes last (image.execute), and after this there is nothing to refuse it.
// nice counts for the thread that executes the program.
func (l limits) allow() *report {
	if l.Umask != nil {
		unix.Umask(*l.Umask)
	}
	if l.Nice != nil {
		if err := unix.Setpriority(unix.PRIO_PROCESS, 0, *l.Nice); err != nil {
			return new(reportOf("cannot set", fmt.Appendf(nil, "target.nice to %d", *l.Nice), err))
		}
	}
	for _, r := range l.Resources {
		var now unix.Rlimit
		err := unix.Getrlimit(r.Number, &now)
		if err == nil && r.Limit.Cur > r.Limit.Max {
			err = unix.EINVAL
		}
		if err == nil && r.Limit.Max > now.Max {
			err = unix.Prlimit(0, r.Number, &unix.Rlimit{Cur: now.Cur, Max: r.Limit.Max}, nil)
		}
		if err != nil {
			return new(reportOf("cannot set", []byte(r.Key), err))
		}
	}
	return nil
}
