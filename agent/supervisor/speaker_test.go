//go:build linux

package supervisor

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"patchagent/agent/sdnotify"
)

// speak is a process that says things to NOTIFY_SOCKET: at once what is in SAY, at a
// hangup what is in HANGUP, and at SIGUSR1 what is in the file "words". There | is
// between messages and ; between lines; NOW is CLOCK_MONOTONIC. "exit" ends it, "keep
// NAME" gives a listener at ADDR away to be kept, "child TEXT" has a child say it, and
// "pass TEXT" makes a child the main process, says that, and ends without waiting; "name
// TEXT" does not end.
func speak(say func(...any)) {
	told := make(chan os.Signal, 8)
	signal.Notify(told, syscall.SIGUSR1, syscall.SIGHUP)
	utter := func(text string) {
		for word := range strings.SplitSeq(text, "|") {
			word = strings.ReplaceAll(word, "NOW", fmt.Sprint(sdnotify.Now().Microseconds()))
			name, rest, _ := strings.Cut(word, " ")
			var err error
			switch name {
			case "":
			case "exit":
				os.Exit(0)
			case "keep":
				err = giveAway(rest)
			case "pass", "name":
				cmd := exec.Command(os.Args[0])
				cmd.Env = append(os.Environ(), "SAY=", "HANGUP=RELOADING=1|READY=1")
				if err = cmd.Start(); err == nil {
					err = sayTo(fmt.Sprintf("MAINPID=%d\n%s", cmd.Process.Pid, strings.ReplaceAll(rest, ";", "\n")), nil)
				}
				if err == nil && name == "pass" {
					os.Exit(0)
				}
			case "child":
				cmd := exec.Command(os.Args[0])
				cmd.Env = append(os.Environ(), "ROLE=sayer", "SAY="+rest)
				err = cmd.Run()
			default:
				err = notify(strings.ReplaceAll(word, ";", "\n"), nil)
			}
			if err != nil {
				say("cannot say", word, err)
				os.Exit(4)
			}
		}
	}
	utter(os.Getenv("SAY"))
	go func() {
		for sig := range told {
			text := os.Getenv("HANGUP")
			if sig == syscall.SIGUSR1 {
				data, _ := os.ReadFile("words")
				text = string(data)
			}
			utter(text)
			say("said", text)
		}
	}()
}

// notify sends, and returns when the manager has handled it.
func notify(text string, f *os.File) error {
	if err := sayTo(text, f); err != nil {
		return err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	err = sayTo("BARRIER=1", w)
	_ = w.Close()
	if err == nil {
		_, _ = r.Read(make([]byte, 1))
	}
	return err
}

func sayTo(text string, f *os.File) error {
	conn, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(conn)
	var rights []byte
	if f != nil {
		rights = unix.UnixRights(int(f.Fd()))
	}
	return unix.Sendmsg(conn, []byte(text), rights, &unix.SockaddrUnix{Name: os.Getenv("NOTIFY_SOCKET")}, 0)
}

func giveAway(name string) error {
	l, err := net.Listen("tcp", os.Getenv("ADDR"))
	if err != nil {
		return err
	}
	f, err := l.(*net.TCPListener).File()
	if err != nil {
		return err
	}
	if err := notify("FDSTORE=1\nFDNAME="+name, f); err != nil {
		return err
	}
	return notify("FDSTORE=1\nFDNAME="+name, f) // the same again
}

// newSpeaker is a stage for a process that says it when it is ready.
func newSpeaker(t *testing.T, say string) *stage {
	t.Helper()
	st := newStage(t, "speaker")
	st.opts.Env["SAY"] = say
	st.opts.Ready = Ready{Notify: true, Timeout: 2 * time.Minute}
	st.opts.Reload = Reload{Signal: syscall.SIGHUP, Confirm: true, Timeout: 2 * time.Minute}
	return st
}

// tell has the running process say something.
func (st *stage) tell(text string) {
	st.t.Helper()
	before := strings.Count(st.said(), "said")
	if err := os.WriteFile(filepath.Join(st.dir, "words"), []byte(text), 0o600); err != nil {
		st.t.Fatal(err)
	}
	if err := signalTo(st.s.Status().PID, syscall.SIGUSR1); err != nil {
		st.t.Fatal(err)
	}
	eventually(st.t, "its words", func() bool { return strings.Count(st.said(), "said") > before })
}
