// Package sdnotify is the manager's side of the protocol of sd_notify(3): it receives
// what services say to the socket that NOTIFY_SOCKET names.
//
// A message is one datagram on a unix socket: lines of the form KEY=value, the
// newline after the last one may be missing. Keys that are not known are passed over;
// of a key that comes twice the first counts. Descriptors may come along (SCM_RIGHTS),
// and the kernel says who the sender is (SCM_CREDENTIALS), which is all that tells the
// service from a stranger: the socket has to be open to whatever user the service is.
// What the keys ask for stands in sd_notify(3), what a manager does about it in
// systemd.service(5) (Type=notify, Type=notify-reload, WatchdogSec=,
// FileDescriptorStoreMax=, NotifyAccess=).
//
// A service may block when it sends: the kernel keeps some ten datagrams
// (net.unix.max_dgram_qlen), and then has the sender wait. So Serve reads always, and
// hands each message over to a function that must not wait for anything.
//
// BARRIER=1 is how a sender finds out that all it has said is handled: it comes with
// one end of a pipe, which is closed when that is so. Serve does that itself.
// systemd-notify(1) sends one after its message, and lives until then, so that its
// number can still be looked up.
package sdnotify

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Limits of a message.
const (
	// MaxMessage is how many bytes one may have; what systemd takes, too (PIPE_BUF).
	MaxMessage = 4096
	// MaxFDs is how many descriptors the kernel sends along with one (SCM_MAX_FD).
	MaxFDs = 253
	// MaxName is how long the name of descriptors may be; sd_pid_notify_with_fds(3).
	MaxName = 255
	// maxPID is more than any number of a process (PID_MAX_LIMIT is 2^22).
	maxPID = math.MaxInt32
)

// DefaultName is what descriptors are called that come without a valid name.
const DefaultName = "stored"

// A State is what a service says that it is doing.
type State string

// The states. Of several in one message the first of Stopping, Ready and Reloading
// counts.
const (
	Ready     State = "READY"
	Reloading State = "RELOADING"
	Stopping  State = "STOPPING"
)

// A Watchdog is a word to the watchdog.
type Watchdog string

// The words.
const (
	Alive   Watchdog = "1"       // a sign of life
	Trigger Watchdog = "trigger" // do as if there had been none for too long
)

// A Message is what one datagram says. The zero value of each field is that nothing
// was said about it.
type Message struct {
	State     State
	Monotonic time.Duration // MONOTONIC_USEC: when a reload began, of Now
	Status    *string       // may be empty: there is no more to say
	MainPID   int
	Extend    time.Duration // EXTEND_TIMEOUT_USEC: so long from now, at least

	Watchdog      Watchdog
	WatchdogEvery *time.Duration // WATCHDOG_USEC; 0: no watchdog from now on

	Store  bool   // FDSTORE: keep the descriptors that came along
	Remove bool   // FDSTOREREMOVE: close those with the name
	Name   string // FDNAME, valid
	NoPoll bool   // FDPOLL=0: keep them also if there is nobody at their other end

	Errno, BusError, ExitStatus string // what it ended with, as it says

	// Barrier is BARRIER=1. It has to come alone, with one descriptor: in a message
	// with anything else it is the only thing that counts, as the manager that the
	// programs know has it.
	Barrier bool

	// Invalid are the known keys whose value cannot be used; they ask for nothing.
	Invalid []string
}

// Parse reads a message. It fails for one that is empty, longer than MaxMessage, or
// has a NUL before its end; any other is understood as far as it is.
func Parse(data []byte) (Message, error) {
	switch {
	case len(data) == 0:
		return Message{}, errors.New("the message is empty")
	case len(data) > MaxMessage:
		return Message{}, fmt.Errorf("the message is longer than %d bytes", MaxMessage)
	}
	data = bytes.TrimSuffix(data, []byte{0}) // of a sender that counts the end of its string
	if bytes.IndexByte(data, 0) >= 0 {
		return Message{}, errors.New("the message has a NUL in it")
	}
	p := parser{seen: map[string]bool{}, states: map[State]bool{}}
	for line := range strings.SplitSeq(string(data), "\n") {
		key, value, found := strings.Cut(line, "=")
		if !found || p.seen[key] {
			continue
		}
		if take, known := fields[key]; known {
			p.seen[key] = true
			if !take(&p, value) {
				p.m.Invalid = append(p.m.Invalid, key)
			}
		}
	}
	if p.m.Barrier {
		return Message{Barrier: true}, nil
	}
	for _, state := range []State{Stopping, Ready, Reloading} {
		if p.states[state] {
			p.m.State = state
			break
		}
	}
	return p.m, nil
}

type parser struct {
	m      Message
	seen   map[string]bool
	states map[State]bool
}

// fields say of each key what its value does, and whether the value is valid. Where
// only one value means anything, another is no error: READY=0 says nothing.
var fields = map[string]func(p *parser, value string) bool{
	"READY":     stateField(Ready),
	"RELOADING": stateField(Reloading),
	"STOPPING":  stateField(Stopping),
	"MONOTONIC_USEC": func(p *parser, value string) (ok bool) {
		p.m.Monotonic, ok = microseconds(value)
		return ok
	},
	"STATUS": func(p *parser, value string) bool {
		if !utf8.ValidString(value) {
			return false
		}
		p.m.Status = &value
		return true
	},
	"ERRNO":       textField(func(m *Message) *string { return &m.Errno }),
	"BUSERROR":    textField(func(m *Message) *string { return &m.BusError }),
	"EXIT_STATUS": textField(func(m *Message) *string { return &m.ExitStatus }),
	"MAINPID": func(p *parser, value string) bool {
		pid, ok := number(value)
		if !ok || pid == 0 || pid > maxPID {
			return false
		}
		p.m.MainPID = int(pid)
		return true
	},
	"EXTEND_TIMEOUT_USEC": func(p *parser, value string) (ok bool) {
		p.m.Extend, ok = microseconds(value)
		return ok
	},
	"WATCHDOG": func(p *parser, value string) bool {
		if word := Watchdog(value); word == Alive || word == Trigger {
			p.m.Watchdog = word
		}
		return true
	},
	"WATCHDOG_USEC": func(p *parser, value string) bool {
		every, ok := microseconds(value)
		if ok {
			p.m.WatchdogEvery = &every
		}
		return ok
	},
	"FDSTORE":       flagField(func(m *Message) *bool { return &m.Store }),
	"FDSTOREREMOVE": flagField(func(m *Message) *bool { return &m.Remove }),
	"FDNAME": func(p *parser, value string) bool {
		if !ValidName(value) {
			return false
		}
		p.m.Name = value
		return true
	},
	"FDPOLL": func(p *parser, value string) bool {
		p.m.NoPoll = value == "0"
		return true
	},
	"BARRIER": flagField(func(m *Message) *bool { return &m.Barrier }),
}

func stateField(state State) func(*parser, string) bool {
	return func(p *parser, value string) bool {
		p.states[state] = value == "1"
		return true
	}
}

func flagField(of func(*Message) *bool) func(*parser, string) bool {
	return func(p *parser, value string) bool {
		*of(&p.m) = value == "1"
		return true
	}
}

func textField(of func(*Message) *string) func(*parser, string) bool {
	return func(p *parser, value string) bool {
		*of(&p.m) = strings.ToValidUTF8(value, "\uFFFD")
		return true
	}
}

// ValidName says whether descriptors may be called so: one to MaxName characters of
// ASCII, no control character, and no colon, which separates names in LISTEN_FDNAMES.
func ValidName(name string) bool {
	if name == "" || len(name) > MaxName {
		return false
	}
	for _, c := range []byte(name) {
		if c < ' ' || c >= 0x7f || c == ':' {
			return false
		}
	}
	return true
}

func number(text string) (uint64, bool) {
	n, err := strconv.ParseUint(text, 10, 64)
	return n, err == nil && text[0] != '+'
}

// microseconds reads a time; one that is longer than a Duration can be is the longest.
func microseconds(text string) (time.Duration, bool) {
	n, ok := number(text)
	return time.Duration(min(n, math.MaxInt64/uint64(time.Microsecond))) * time.Microsecond, ok
}

// A Sender is a process as the kernel knows it: its number in the pid namespace of who
// receives (0 if it is not seen from there), its user and its group.
type Sender struct{ PID, UID, GID int }

// Received is a message that has come.
type Received struct {
	Message
	Sender
	At time.Time // when it was read

	fds []int
}

// Take returns the descriptors that came with the message; they are close-on-exec, and
// the caller's from now on. What nobody takes is closed.
func (r *Received) Take() []int {
	fds := r.fds
	r.fds = nil
	return fds
}

// FDs is how many descriptors came with the message and were not taken.
func (r *Received) FDs() int { return len(r.fds) }
