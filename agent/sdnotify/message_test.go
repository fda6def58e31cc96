package sdnotify

import (
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

func TestParse(t *testing.T) {
	for name, c := range map[string]struct {
		data string
		want Message
	}{
		"ready":                       {"READY=1", Message{State: Ready}},
		"a newline at the end":        {"READY=1\n", Message{State: Ready}},
		"a NUL at the end":            {"READY=1\n\x00", Message{State: Ready}},
		"not ready":                   {"READY=0", Message{}},
		"nothing known":               {"X_MINE=1\nno key\n\n=\n", Message{}},
		"stopping outranks":           {"READY=1\nSTOPPING=1\nRELOADING=1", Message{State: Stopping}},
		"ready outranks reloading":    {"RELOADING=1\nREADY=1", Message{State: Ready}},
		"reloading":                   {"RELOADING=1\nMONOTONIC_USEC=1500000\nSTATUS=a=b", Message{State: Reloading, Monotonic: 1500 * time.Millisecond, Status: new("a=b")}},
		"an empty status":             {"STATUS=", Message{Status: new("")}},
		"the first counts":            {"STATUS=a\nSTATUS=b\nMAINPID=7\nMAINPID=8", Message{Status: new("a"), MainPID: 7}},
		"a status that is no text":    {"STATUS=\xff\nREADY=1", Message{State: Ready, Invalid: []string{"STATUS"}}},
		"how it ended":                {"ERRNO=2\nBUSERROR=org.x\nEXIT_STATUS=3", Message{Errno: "2", BusError: "org.x", ExitStatus: "3"}},
		"times":                       {"EXTEND_TIMEOUT_USEC=20\nWATCHDOG_USEC=0", Message{Extend: 20 * time.Microsecond, WatchdogEvery: new(time.Duration(0))}},
		"more than any time":          {"EXTEND_TIMEOUT_USEC=18446744073709551615", Message{Extend: 9223372036854775 * time.Microsecond}},
		"no times":                    {"EXTEND_TIMEOUT_USEC=-1\nWATCHDOG_USEC=\nMONOTONIC_USEC=+3", Message{Invalid: []string{"EXTEND_TIMEOUT_USEC", "WATCHDOG_USEC", "MONOTONIC_USEC"}}},
		"no numbers of a process":     {"MAINPID=0", Message{Invalid: []string{"MAINPID"}}},
		"none that a process can be":  {"MAINPID=2147483648", Message{Invalid: []string{"MAINPID"}}},
		"a sign of life":              {"WATCHDOG=1", Message{Watchdog: Alive}},
		"the watchdog is called":      {"WATCHDOG=trigger", Message{Watchdog: Trigger}},
		"descriptors":                 {"FDSTORE=1\nFDNAME=a b\nFDPOLL=0", Message{Store: true, Name: "a b", NoPoll: true}},
		"descriptors without name":    {"FDSTORE=1\nFDNAME=a:b", Message{Store: true, Invalid: []string{"FDNAME"}}},
		"descriptors are to go":       {"FDSTOREREMOVE=1\nFDNAME=a", Message{Remove: true, Name: "a"}},
		"a barrier":                   {"BARRIER=1\n", Message{Barrier: true}},
		"a barrier and anything else": {"READY=1\nBARRIER=1\nSTATUS=x", Message{Barrier: true}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Parse([]byte(c.data))
			if diff := cmp.Diff(c.want, got); err != nil || diff != "" {
				t.Errorf("%v\n%s", err, diff)
			}
		})
	}
	for name, data := range map[string]string{
		"empty": "", "NUL": "READY=1\x00\nSTATUS=x", "long": "READY=1\n" + strings.Repeat("x", MaxMessage),
	} {
		if got, err := Parse([]byte(data)); err == nil {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestValidName(t *testing.T) {
	for name, want := range map[string]bool{
		"http": true, "a b~": true, strings.Repeat("x", MaxName): true,
		"": false, "a:b": false, "a\n": false, "ä": false, "\x7f": false, strings.Repeat("x", MaxName+1): false,
	} {
		if got := ValidName(name); got != want {
			t.Errorf("%q: %t", name, got)
		}
	}
}

// text is a message that says what m does.
func text(m Message) string {
	var lines []string
	say := func(yes bool, line string, values ...any) {
		if yes {
			lines = append(lines, fmt.Sprintf(line, values...))
		}
	}
	say(m.State != "", "%s=1", m.State)
	say(m.Monotonic != 0, "MONOTONIC_USEC=%d", m.Monotonic.Microseconds())
	if m.Status != nil {
		say(true, "STATUS=%s", *m.Status)
	}
	say(m.MainPID != 0, "MAINPID=%d", m.MainPID)
	say(m.Extend != 0, "EXTEND_TIMEOUT_USEC=%d", m.Extend.Microseconds())
	say(m.Watchdog != "", "WATCHDOG=%s", m.Watchdog)
	if m.WatchdogEvery != nil {
		say(true, "WATCHDOG_USEC=%d", m.WatchdogEvery.Microseconds())
	}
	say(m.Store, "FDSTORE=1")
	say(m.Remove, "FDSTOREREMOVE=1")
	say(m.Name != "", "FDNAME=%s", m.Name)
	say(m.NoPoll, "FDPOLL=0")
	say(m.Errno != "", "ERRNO=%s", m.Errno)
	say(m.BusError != "", "BUSERROR=%s", m.BusError)
	say(m.ExitStatus != "", "EXIT_STATUS=%s", m.ExitStatus)
	say(m.Barrier, "BARRIER=1")
	return strings.Join(lines, "\n")
}

// Whatever is understood of a message keeps its promises, says the same when it is
// said again, and does not depend on lines that mean nothing.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"READY=1", "STOPPING=1\nREADY=1\nSTATUS=\xc3\xa4", "RELOADING=1\nMONOTONIC_USEC=123\n", "MAINPID=4711\nERRNO=2", "BARRIER=1",
		"EXTEND_TIMEOUT_USEC=18446744073709551615\nWATCHDOG=trigger", "WATCHDOG_USEC=0\nFDSTORE=1\nFDNAME=x\nFDPOLL=0", "FDSTOREREMOVE=1\nFDNAME=a:b\x00", "\n=\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := Parse(data)
		if err != nil {
			return
		}
		if m.Name != "" && !ValidName(m.Name) || m.Monotonic < 0 || m.Extend < 0 || m.MainPID < 0 || m.Status != nil && (!utf8.ValidString(*m.Status) || strings.ContainsAny(*m.Status, "\n\x00")) {
			t.Errorf("%q is %+v", data, m)
		}
		invalid := m.Invalid
		m.Invalid = nil
		if again := text(m); again != "" {
			// What was replaced in a text can have made it longer.
			if got, err := Parse([]byte(again)); len(again) <= MaxMessage && (err != nil || !cmp.Equal(m, got)) {
				t.Errorf("%q is %+v, and %q %+v, %v", data, m, again, got, err)
			}
		}
		m.Invalid = invalid
		if more := "UNKNOWN=1\n" + string(data); len(more) <= MaxMessage {
			if got, err := Parse([]byte(more)); err != nil || !cmp.Equal(m, got) {
				t.Errorf("%q is %+v, and with a line of no meaning %+v, %v", data, m, got, err)
			}
		}
	})
}
