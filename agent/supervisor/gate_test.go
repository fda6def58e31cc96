//go:build linux

package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// answered is an answer, or the beginning of an error, as one line.
func answered(a Answer, err error) string {
	if err != nil {
		return "error " + err.Error()
	}
	line := a.Verdict.String()
	if a.RetryAfter > 0 {
		line += fmt.Sprint(" after ", a.RetryAfter)
	}
	if a.Build != nil {
		line += fmt.Sprint(" build ", *a.Build)
	}
	if a.Region != "" {
		line += " region " + a.Region
	}
	if a.Message != "" {
		line += " message " + a.Message
	}
	return line
}

// What a gate prints, by a command and by a page alike. The verdict is GO AHEAD.
var reports = map[string]string{
	"":               "GO AHEAD",
	"ready when you": "GO AHEAD",
	`{"build": 200, "region": "us-east-1", "message": "all quiet"}`: "GO AHEAD build 200 region us-east-1 message all quiet",
	`{"build": "0200"}`:                                  "GO AHEAD build 200",
	`{"build": null, "region": null}`:                    "GO AHEAD",
	`{"Build": 7, "more": [1, {"x": 2}]}`:                "GO AHEAD",
	"\ufeff\r\n {\"build\": 7}\r\n":                      "GO AHEAD build 7",
	`{"message": "one\ntwo\u001b[2Jthree\u202e\t four"}`: "GO AHEAD message one two [2Jthree four",
	`{"build": 200} and more`:                            "GO AHEAD",
	`{"build": 200`:                                      "GO AHEAD",
	`[{"build": 200}]`:                                   "GO AHEAD",
	`{"build": "two"}`:                                   `error "build" of its report is "two"; it must be a whole number`,
	`{"build": -1}`:                                      `error "build" of its report is -1; it must be a whole number`,
	`{"build": 2.0}`:                                     `error "build" of its report is 2.0; it must be a whole number`,
	`{"build": ""}`:                                      `error "build" of its report is ""; it must be a whole number`,
	`{"build": [200]}`:                                   `error "build" of its report is [200]; it must be a whole number`,
	`{"build": 99999999999999999999}`:                    `error "build" of its report is too large`,
	`{"region": 1}`:                                      `error "region" of its report is 1; it must be a string`,
	`{"message": {"text": "x"}}`:                         `error "message" of its report is {"text": "x"}; it must be a string`,
}

func TestReports(t *testing.T) {
	dir := t.TempDir()
	server := httptest.NewServer(http.FileServer(http.Dir(dir)))
	defer server.Close()
	for text, want := range reports {
		if err := os.WriteFile(filepath.Join(dir, "said"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, gate := range []Gate{{Exec: []string{"cat", "said"}}, {HTTP: server.URL + "/said"}} {
			name := gate.HTTP
			if name == "" {
				name = "cat"
			}
			want := strings.Replace(want, "error ", "error "+name+": ", 1)
			if got := answered(gate.Ask(t.Context(), Options{Dir: dir}, nil)); got != want {
				t.Errorf("%q by %s: %s, want %s", text, name, got, want)
			}
		}
	}
}

// What is printed is bounded, and so is a message; and what goes to standard error is no
// report.
func TestLongReports(t *testing.T) {
	dir := t.TempDir()
	message, err := json.Marshal(map[string]string{"message": strings.Repeat("\u4e16", maxMessage)})
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"message": string(message), "object": `{"message": "` + strings.Repeat("x", maxReport) + `"}`, "text": strings.Repeat("x", 4*maxReport),
		"spaces": strings.Repeat(" ", maxReport) + `{"build": 7}`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ask := func(script string) (Answer, error) {
		return Gate{Exec: []string{"sh", "-c", script}}.Ask(t.Context(), Options{Dir: dir}, nil)
	}
	if a, err := ask("cat message"); err != nil || len(a.Message) > maxMessage || len(a.Message) < maxMessage-8 || !utf8.ValidString(a.Message) || !strings.HasSuffix(a.Message, "…") {
		t.Errorf("a message of %d bytes: %v", len(a.Message), err)
	}
	if _, err := ask("cat object"); err == nil || !strings.Contains(err.Error(), "longer than 65536 bytes") {
		t.Errorf("a long object: %v", err)
	}
	if got := answered(ask("cat text")); got != "GO AHEAD" {
		t.Errorf("a long text: %s", got)
	}
	if got := answered(ask("cat spaces")); got != "error sh: its report is longer than 65536 bytes" {
		t.Errorf("an object after a long nothing: %s", got)
	}
	if got := answered(ask(`echo 'careful' >&2; echo '{"build": 5}'; echo '{"build": 6}' >&2`)); got != "GO AHEAD build 5" {
		t.Errorf("both outputs: %s", got)
	}
}

func TestGateCommand(t *testing.T) {
	dir := t.TempDir()
	env := []string{"PATCHAGENT_EVENT=gate", "PATCHAGENT_BUILD=300"}
	for script, want := range map[string]string{
		"exit 0":  "GO AHEAD",
		"exit 1":  "NOT ALLOWED",
		"exit 2":  "WAIT",
		"exit 21": "WAIT",
		"exit 75": "WAIT",
		`echo '{"message": "never on Fridays"}'; exit 1`:                "NOT ALLOWED message never on Fridays",
		`echo '{"message": "busy"}'; exit 2`:                            "WAIT message busy",
		`echo '{"build": true}'; exit 1`:                                `error sh: "build" of its report is true; it must be a whole number`,
		`echo "{\"message\": \"$PATCHAGENT_EVENT $PATCHAGENT_BUILD\"}"`: "GO AHEAD message gate 300",
		"echo lost; echo my way >&2; exit 3":                            "error sh: exit status 3 is none of 0 (go ahead), 1 (not allowed) and 2, 21 or 75 (wait); it printed: ",
		"exit 255":                                                      "error sh: exit status 255 is none of 0 (go ahead), 1 (not allowed) and 2, 21 or 75 (wait)",
		"kill -9 $$":                                                    "error sh: signal: killed is none of 0 (go ahead), 1 (not allowed) and 2, 21 or 75 (wait)",
	} {
		got := answered(Gate{Exec: []string{"sh", "-c", script}}.Ask(t.Context(), Options{Dir: dir}, env))
		if got != want && (!strings.HasPrefix(want, "error ") || !strings.HasPrefix(got, want)) {
			t.Errorf("%s: %s, want %s", script, got, want)
		}
	}
	if got := answered(Gate{Exec: []string{"./nothing"}}.Ask(t.Context(), Options{Dir: dir}, nil)); !strings.HasPrefix(got, "error ./nothing: ") || !strings.HasSuffix(got, "no such file or directory") {
		t.Errorf("a program that is not there: %s", got)
	}
}

// Statuses and headers of a page, by TCP and by a unix socket.
func TestGatePage(t *testing.T) {
	answers := http.NewServeMux()
	answers.HandleFunc("GET /{status}", func(w http.ResponseWriter, r *http.Request) {
		var status int
		if _, err := fmt.Sscan(r.PathValue("status"), &status); err != nil {
			t.Error(err)
		}
		if after := r.URL.Query().Get("after"); after != "" {
			w.Header().Set("Retry-After", after)
		}
		if status/100 == 3 {
			w.Header().Set("Location", "/200")
		}
		w.WriteHeader(status)
		fmt.Fprint(w, r.URL.Query().Get("said"))
	})
	answers.HandleFunc("GET /cut", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		fmt.Fprint(w, `{"build": 200}`)
	})
	tcp := httptest.NewServer(answers)
	defer tcp.Close()
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	unix := httptest.NewUnstartedServer(answers)
	unix.Listener.Close()
	unix.Listener = l
	unix.Start()
	defer unix.Close()
	for page, want := range map[string]string{
		"/200":                                  "GO AHEAD",
		"/204":                                  "GO AHEAD",
		"/403":                                  "NOT ALLOWED",
		"/423?said={%22message%22:%22never%22}": "NOT ALLOWED message never",
		"/425":                                  "WAIT",
		"/503":                                  "WAIT",
		"/503?after=7":                          "WAIT after 7s",
		"/425?after=1":                          "WAIT after 1s",
		"/503?after=0":                          "WAIT after 100ms",
		"/503?after=999999999999999999999":      "WAIT after 24h0m0s",
		"/503?after=Fri,%2031%20Dec%201999%2023:59:59%20GMT": "WAIT after 100ms",
		"/503?after=Fri,%2031%20Dec%203999%2023:59:59%20GMT": "WAIT after 24h0m0s",
		"/503?after=-1":   "WAIT",
		"/503?after=soon": "WAIT",
		"/503?said={%22region%22:%22eu%22}&after=2": "WAIT after 2s region eu",
		"/200?after=7":              "GO AHEAD",
		"/302":                      "error it answers 302 Found; the statuses of a gate are 2xx, 403, 423, 425 and 503",
		"/404":                      "error it answers 404 Not Found; the statuses",
		"/500?said={%22build%22:1}": "error it answers 500 Internal Server Error; the statuses",
		"/cut":                      "error its answer is cut short: unexpected EOF",
	} {
		for _, endpoint := range []string{tcp.URL + page, "unix:" + socket + ":" + page} {
			want := strings.Replace(want, "error ", "error "+endpoint+": ", 1)
			got := answered(Gate{HTTP: endpoint}.Ask(t.Context(), Options{}, nil))
			if got != want && (!strings.HasPrefix(want, "error ") || !strings.HasPrefix(got, want)) {
				t.Errorf("%s: %s, want %s", endpoint, got, want)
			}
		}
	}
}

func TestRetryAfterDate(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	if got := retryAfter("Sun, 01 Mar 2026 12:01:30 GMT", now); got != 90*time.Second {
		t.Errorf("%s", got)
	}
}

// A gate that cannot be reached, one that does not answer, and one that nobody waits for
// any more. What is said of it is the same each time.
func TestNoAnswer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	silent := Gate{HTTP: "http://" + l.Addr().String() + "/", Timeout: 50 * time.Millisecond} // the backlog takes the connection
	if got := answered(silent.Ask(t.Context(), Options{}, nil)); got != "error "+silent.HTTP+": no answer within 50ms" {
		t.Errorf("silence: %s", got)
	}
	l.Close()
	nobody := Gate{HTTP: "http://" + freeAddress(t) + "/"}
	if got := answered(nobody.Ask(t.Context(), Options{}, nil)); got != "error "+nobody.HTTP+": cannot dial: connect: connection refused" {
		t.Errorf("nobody: %s", got)
	}
	slow := Gate{Exec: []string{"sh", "-c", "echo '{\"build\": 7}'; sleep 600; true"}, Timeout: 50 * time.Millisecond}
	if got := answered(slow.Ask(t.Context(), Options{Dir: t.TempDir()}, nil)); got != "error sh: no answer within 50ms" {
		t.Errorf("a slow command: %s", got)
	}
	withdrawn, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("withdrawn"))
	slow.Timeout = 0
	if got := answered(slow.Ask(withdrawn, Options{Dir: t.TempDir()}, nil)); got != "error sh: withdrawn" {
		t.Errorf("a question that was taken back: %s", got)
	}
}
