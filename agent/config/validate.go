package config

import (
	"fmt"
	"io/fs"
	"math"
	"net"
	"net/url"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/bmatcuk/doublestar/v4"
)

// Bounds of values, each with its reason.
const (
	minPoll     = Duration(10 * time.Millisecond) // faster than that is a busy loop
	maxDuration = Duration(30 * 24 * time.Hour)   // longer is a mistake in the unit
	minLogSize  = Size(1 << 20)                   // the rotation counts in MiB
	mostWaiting = 1000                            // each keeps a descriptor, of which many systems allow 1024
)

func (r *reader) validate() {
	c := r.cfg
	if c.Region == "" && !r.bad["region"] {
		r.problem("region", "must be set: a patch for another region is refused")
	}
	if c.Build < 0 {
		r.problem("build", "must not be negative")
	}
	r.service()
	// First, since a default that gives place to what is set has no bounds to keep.
	r.methods()
	r.words()
	r.bounds()
	r.paths()
	r.signers()
	r.commands()
	r.signals()
	r.treatment()
	r.listeners()
}

// wordsOf are the values that a key can have, where they are words; else nil.
func wordsOf(key string) []string {
	switch key {
	case "patch.mode":
		return []string{ModeAuto, ModeManual}
	case "verify.require":
		return []string{RequireChecksum, RequireSignature, RequireNone}
	case "log.level":
		return []string{"trace", "debug", "info", "warn", "error"}
	case "log.format":
		return []string{FormatText, FormatJSON}
	case "target.restart":
		return []string{RestartOnFailure, RestartAlways, RestartNever}
	case "target.reload.confirm":
		return []string{ConfirmNone, ConfirmNotify}
	default:
		return nil
	}
}

func (r *reader) words() {
	c := r.cfg
	for key, value := range map[string]string{
		"patch.mode": c.Patch.Mode, "verify.require": c.Verify.Require, "log.level": c.Log.Level, "log.format": c.Log.Format,
		"target.restart": c.Target.Restart, "target.reload.confirm": c.Target.Reload.Confirm,
	} {
		if words := wordsOf(key); !slices.Contains(words, value) {
			r.problem(key, "is %q; it must be one of %s", value, strings.Join(words, ", "))
		}
	}
}

func (r *reader) bounds() {
	c := r.cfg
	for _, f := range c.fields() {
		if d, ok := f.value.(*Duration); ok && *d > maxDuration {
			r.problem(f.key, "is %s; more than %s is taken for a mistake", *d, maxDuration)
		}
	}
	positive := map[string]int64{
		"patch.patience": int64(c.Patch.Patience), "patch.max_waiting_size": int64(c.Patch.MaxWaitingSize),
		"patch.keep_rejected": int64(c.Patch.KeepRejected), "patch.keep_rejected_size": int64(c.Patch.KeepRejectedSize),
		"verify.max_size": int64(c.Verify.MaxSize), "verify.max_unpacked": int64(c.Verify.MaxUnpacked),
		"verify.max_files": int64(c.Verify.MaxFiles), "verify.max_ratio": c.Verify.MaxRatio, "log.max_files": int64(c.Log.MaxFiles),
		"target.stop_timeout": int64(c.Target.StopTimeout), "target.reload.timeout": int64(c.Target.Reload.Timeout),
		"target.ready.timeout": int64(c.Target.Ready.Timeout), "target.gate.retry": int64(c.Target.Gate.Retry),
		"target.gate.max_wait": int64(c.Target.Gate.MaxWait), "target.health.interval": int64(c.Target.Health.Interval),
		"target.health.timeout": int64(c.Target.Health.Timeout), "target.health.failures": int64(c.Target.Health.Failures),
		"target.health.window": int64(c.Target.Health.Window), "target.hooks.timeout": int64(c.Target.Hooks.Timeout),
		"target.external.timeout": int64(c.Target.External.Timeout), "target.restart_window": int64(c.Target.RestartWindow),
	}
	for key, v := range positive {
		if v <= 0 {
			r.problem(key, "must be more than nothing")
		}
	}
	if n := c.Patch.MaxWaiting; n < 1 || n > mostWaiting {
		r.problem("patch.max_waiting", "is %d; it must be from 1 to %d", n, mostWaiting)
	}
	if c.Patch.Poll < minPoll {
		r.problem("patch.poll", "is %s; it must be at least %s", c.Patch.Poll, minPoll)
	}
	if c.Log.MaxSize < minLogSize || c.Log.MaxSize > math.MaxInt32*minLogSize {
		r.problem("log.max_size", "is %s; it must be at least %s", c.Log.MaxSize, minLogSize)
	}
	if c.State.Keep < 0 {
		r.problem("state.keep", "must not be negative")
	}
	r.restarts()
	if g := c.Target.Gate; g.Retry > g.MaxWait {
		key, other, value, most := "target.gate.retry", "longer than target.gate.max_wait", g.Retry, g.MaxWait
		if !r.set[key] {
			key, other, value, most = "target.gate.max_wait", "shorter than target.gate.retry", g.MaxWait, g.Retry
		}
		r.problem(key, "is %s, %s, which is %s", value, other, most)
	}
	if c.Target.Ready.Delay > c.Target.Ready.Timeout {
		r.problem("target.ready.delay", "is %s, longer than target.ready.timeout, which is %s", c.Target.Ready.Delay, c.Target.Ready.Timeout)
	}
}

func (r *reader) paths() {
	c := r.cfg
	for key, p := range map[string]string{"patch.dir": c.Patch.Dir, "state.dir": c.State.Dir, "target.root": c.Target.Root} {
		if p == "" {
			r.problem(key, "must not be empty")
		}
	}
	for _, f := range c.fields() {
		switch v := f.value.(type) {
		case *string:
			if strings.ContainsRune(*v, 0) {
				r.problem(f.key, "has a zero byte in it")
			}
		case *[]string:
			if slices.ContainsFunc(*v, func(s string) bool { return strings.ContainsRune(s, 0) }) {
				r.problem(f.key, "has a zero byte in it")
			}
		}
	}
	for _, glob := range c.Target.Protect {
		// One with "..", or a slash at its end, would match nothing and protect nothing.
		if !doublestar.ValidatePattern(glob) || !fs.ValidPath(glob) || glob == "." {
			r.problem("target.protect", "%q is not a pattern relative to target.root, such as \"data/**\" or \"*.key\"", glob)
		}
	}
}

// protocol are the variables of sd_notify(3), sd_watchdog_enabled(3) and
// sd_listen_fds(3). A second one of that name would be taken for the agent's.
var protocol = []string{"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID"}

var envName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

func (r *reader) commands() {
	c := r.cfg
	for key := range c.Target.Env {
		if !envName.MatchString(key) {
			r.problem("target.env", "%q is not the name of an environment variable", key)
		}
		if slices.Contains(protocol, key) {
			r.problem("target.env", "%s is for the agent to set: it tells the process where to report, or which sockets it has", key)
		}
	}
	for _, command := range c.Target.commands() {
		if len(command.argv) > 0 && command.argv[0] == "" {
			r.problem(command.key, "begins with an empty string; it must begin with a program")
		}
	}
	for key, endpoint := range map[string]string{
		"target.gate.http": c.Target.Gate.HTTP, "target.reload.http": c.Target.Reload.HTTP, "target.ready.http": c.Target.Ready.HTTP,
		"target.health.http": c.Target.Health.HTTP,
	} {
		if err := checkEndpoint(endpoint); err != nil {
			r.problem(key, "%v", err)
		}
	}
	for key, address := range map[string]string{"target.ready.tcp": c.Target.Ready.TCP, "target.health.tcp": c.Target.Health.TCP} {
		if address != "" && !hostPort(address) {
			r.problem(key, `%q is not an address; write one like "127.0.0.1:8080"`, address)
		}
	}
	if u := c.Target.User; !nameOfUser(u) {
		r.problem("target.user", "%q is not the name of a user", u)
	}
}

// A command is one of the keys that name what the agent runs.
type command struct {
	key  string
	argv []string
}

// commands are all but target.command.
func (t Target) commands() []command {
	return []command{
		{"target.gate.exec", t.Gate.Exec},
		{"target.reload.exec", t.Reload.Exec},
		{"target.reload.precheck", t.Reload.Precheck},
		{"target.ready.exec", t.Ready.Exec},
		{"target.health.exec", t.Health.Exec},
		{"target.hooks.before_stop", t.Hooks.BeforeStop},
		{"target.hooks.after_files", t.Hooks.AfterFiles},
		{"target.hooks.after_start", t.Hooks.AfterStart},
		{"target.hooks.after_rollback", t.Hooks.AfterRollback},
		{"target.external.start", t.External.Start},
		{"target.external.stop", t.External.Stop},
		{"target.external.reload", t.External.Reload},
		{"target.external.status", t.External.Status},
	}
}

// nameOfUser says whether it can be one, or one of a group.
func nameOfUser(name string) bool {
	return !strings.HasPrefix(name, "-") && !strings.ContainsFunc(name, func(c rune) bool { return c <= ' ' || c == ':' || c == '/' })
}

// signers refuses a demand for signatures that nobody's could meet.
func (r *reader) signers() {
	v := r.cfg.Verify
	switch {
	case slices.Contains(v.Keys, ""):
		r.problem("verify.keys", "has an empty string in it; all of it must be files")
	case v.Require == RequireSignature && len(v.Keys) == 0 && !r.bad["verify.keys"]:
		r.problem("verify.require", `is "signature", and verify.keys names no key; write the files with the public keys there, such as ["keys/vendor.pub"]`)
	}
}

// signals refuses those that cannot do what they are for.
func (r *reader) signals() {
	stop, reload := r.cfg.Target.StopSignal.Name, r.cfg.Target.Reload.Signal.Name
	if stop == "" {
		r.problem("target.stop_signal", `must not be empty; write one like "SIGTERM"`)
	}
	if stop == "SIGSTOP" || stop == "SIGCONT" {
		r.problem("target.stop_signal", "%s ends no process", stop)
	}
	if reload == "SIGSTOP" || reload == "SIGKILL" {
		r.problem("target.reload.signal", "%s tells a process nothing: it cannot be caught", reload)
	}
}

// hostPort says whether address is a host and a port by number.
func hostPort(address string) bool {
	host, port, err := net.SplitHostPort(address)
	return err == nil && host != "" && portNumber(port)
}

func portNumber(port string) bool {
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && n > 0
}

// checkEndpoint accepts http://host/path, https://host/path and unix:/socket:/path, each
// also without the path, which is "/" then.
func checkEndpoint(endpoint string) error {
	if endpoint == "" {
		return nil
	}
	if rest, ok := strings.CutPrefix(endpoint, "unix:"); ok {
		socket, page, _ := strings.Cut(rest, ":")
		if path.IsAbs(socket) && (page == "" || strings.HasPrefix(page, "/")) {
			return nil
		}
	} else if u, err := url.Parse(endpoint); err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Hostname() != "" {
		if port := u.Port(); port != "" && !portNumber(port) {
			return fmt.Errorf("%q has a port that is none; it is a number from 1 to 65535", endpoint)
		}
		return nil
	}
	return fmt.Errorf(`%q is not an address; write "http://127.0.0.1:8080/path" or "unix:/run/app.sock:/path"`, endpoint)
}

// methods sees to it that of each group of ways there is one, and that a default
// way gives place to one that is set.
func (r *reader) methods() {
	c := r.cfg
	r.oneOf("target.gate", "exec", "http")
	r.oneOf("target.reload", "signal", "exec", "http")
	r.oneOf("target.ready", "delay", "notify", "http", "tcp", "exec")
	r.oneOf("target.health", "http", "tcp", "exec")
	if len(c.Target.Reload.Exec) > 0 || c.Target.Reload.HTTP != "" {
		c.Target.Reload.Signal = Signal{}
	}
	if c.Target.Ready.Notify || c.Target.Ready.HTTP != "" || c.Target.Ready.TCP != "" || len(c.Target.Ready.Exec) > 0 {
		c.Target.Ready.Delay = 0
	}
	for key := range r.set {
		c.Target.Gate.Set = c.Target.Gate.Set || strings.HasPrefix(key, "target.gate")
		c.Target.Health.Set = c.Target.Health.Set || strings.HasPrefix(key, "target.health")
	}
	if c.Target.Gate.Set && len(c.Target.Gate.Exec) == 0 && c.Target.Gate.HTTP == "" && !r.refused("target.gate") {
		r.problem("target.gate", "asks nobody; set exec or http in it, or leave it out")
	}
	if reload := c.Target.Reload; reload.Confirm == ConfirmNotify && reload.Signal == (Signal{}) && len(reload.Exec) == 0 && reload.HTTP == "" &&
		!c.Target.External.Set && !r.refused("target.reload") {
		r.problem("target.reload.confirm", "is %q, and the process is not told anything that it could confirm; set signal, exec or http", ConfirmNotify)
	}
}

// refused says whether a section, or a key in it, has a value that was not taken.
func (r *reader) refused(section string) bool {
	for key := range r.bad {
		if key == section || strings.HasPrefix(key, section+".") || strings.HasPrefix(section, key+".") {
			return true
		}
	}
	return false
}

// oneOf complains if more than one of a section's ways is set to something.
func (r *reader) oneOf(section string, names ...string) {
	var used []string
	for _, f := range r.cfg.fields() {
		for _, name := range names {
			if f.key == section+"."+name && r.set[f.key] && !zero(f.value) {
				used = append(used, name)
			}
		}
	}
	if len(used) > 1 {
		r.problem(section+"."+used[1], "only one of %s can be set, and %s is set too", strings.Join(names, ", "), used[0])
	}
}

func zero(value any) bool {
	switch v := value.(type) {
	case *string:
		return *v == ""
	case *bool:
		return !*v
	case *[]string:
		return len(*v) == 0
	case *Duration:
		return *v == 0
	case *Signal:
		return *v == Signal{}
	case *Octal:
		return !v.Set
	case **int:
		return *v == nil
	case *Rlimits:
		return len(*v) == 0
	default:
		return false
	}
}

// clashes finds folders that cannot be what they are together.
func (r *reader) clashes() {
	patch, state, root := r.cfg.Patch.Dir, r.cfg.State.Dir, r.cfg.Target.Root
	if patch == "" || state == "" || root == "" {
		return // complained of already
	}
	// The line is that of whichever of the two keys the file has.
	clash := func(key, other, message string) {
		line := r.lines(strings.Split(key, "."))
		if line == 0 {
			line = r.lines(strings.Split(other, "."))
		}
		r.add(Problem{Line: line, Key: key, Message: message})
	}
	if patch == root || below(root, patch) {
		clash("patch.dir", "target.root", "holds target.root: the tree would lie among the drops")
	}
	if state == root || below(root, state) {
		clash("state.dir", "target.root", "holds target.root: the tree would lie in the agent's own folder")
	}
	if state == patch || below(state, patch) || below(patch, state) {
		clash("state.dir", "patch.dir", "and patch.dir must be folders of their own, neither within the other")
	}
}

// below says whether path is inside dir.
func below(path, dir string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && rel != "." && filepath.IsLocal(rel)
}
