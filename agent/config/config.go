// Package config reads agent.toml, strictly: what it does not know it refuses,
// with the line, the key and the key that was probably meant.
//
// The file is decoded by a library into plain values; every key is then taken
// from there into the Config by the table in fields, which is the one list of
// what there is. Problems are collected, so that an operator sees all of them at
// once. Relative paths become absolute, from the file's own folder.
//
// A running agent rereads the file when it changes (Watch, Reloader). A bad file
// never replaces a good one.
package config

import (
	"crypto/sha256"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Values of keys that are one of a few words.
const (
	ModeAuto         = "auto"
	ModeManual       = "manual"
	RequireChecksum  = "checksum"
	RequireSignature = "signature"
	RequireNone      = "none"
	FormatText       = "text"
	FormatJSON       = "json"
	RestartOnFailure = "on-failure"
	RestartAlways    = "always"
	RestartNever     = "never"
	ConfirmNone      = "none"
	ConfirmNotify    = "notify"
)

// Config is agent.toml with its defaults filled in and its paths absolute.
type Config struct {
	Path    string // of the file itself
	Region  string
	Build   int64
	Product string
	Patch   Patch
	Verify  Verify
	State   State
	Log     Log
	Target  Target

	sum [sha256.Size]byte // of the file's content
}

// Patch is the drop folder.
type Patch struct {
	Dir              string
	Mode             string
	Settle           Duration
	Poll             Duration
	Patience         Duration
	MaxWaiting       int
	MaxWaitingSize   Size
	KeepRejected     int
	KeepRejectedSize Size
}

// Verify says what is let in.
type Verify struct {
	Require     string
	Keys        []string
	MaxSize     Size
	MaxUnpacked Size
	MaxFiles    int
	MaxRatio    int64
}

// State is the agent's own folder.
type State struct {
	Dir  string
	Keep int
}

// Log says where and how much is logged.
type Log struct {
	Level    string
	Format   string
	File     string
	MaxSize  Size
	MaxFiles int
}

// Target is the process and the tree that patches change.
type Target struct {
	Root            string
	Command         []string // as written; none where External is set
	Dir             string   // "" is Root; see WorkDir
	Env             map[string]string
	User            string
	StopSignal      Signal
	StopTimeout     Duration
	Restart         string
	RestartDelay    Duration // before the first restart; doubles each time
	RestartMaxDelay Duration
	RestartLimit    int // within RestartWindow; 0: as many as it takes
	RestartWindow   Duration
	Watchdog        Duration // 0: none
	Umask           Octal
	Nice            *int // nil: the agent's own
	Rlimits         Rlimits
	Output          string
	Protect         []string
	Gate            Gate
	Reload          Reload
	Ready           Ready
	Health          Health
	Hooks           Hooks
	External        External
	Sockets         []Socket
}

// WorkDir is the process's working directory.
func (t Target) WorkDir() string {
	if t.Dir == "" {
		return t.Root
	}
	return t.Dir
}

// Gate is asked before a patch touches anything.
type Gate struct {
	Set     bool
	Exec    []string
	HTTP    string
	Retry   Duration
	MaxWait Duration
}

// Reload is how a warm patch is announced: one of the three.
type Reload struct {
	Signal   Signal
	Exec     []string
	HTTP     string
	Precheck []string
	Confirm  string
	Timeout  Duration
}

// Ready is when a started process counts as up: one of Delay, Notify, HTTP, TCP, Exec.
type Ready struct {
	Delay   Duration
	Notify  bool
	HTTP    string
	TCP     string
	Exec    []string
	Timeout Duration
}

// Health is asked after a patch.
type Health struct {
	Set      bool
	HTTP     string
	TCP      string
	Exec     []string
	Interval Duration
	Timeout  Duration
	Failures int
	Window   Duration
}

// Hooks are commands around a patch; each that is set is run.
type Hooks struct {
	BeforeStop    []string
	AfterFiles    []string
	AfterStart    []string
	AfterRollback []string
	Timeout       Duration // of each
}

// External are the commands for a service that another manager runs. Without Reload
// the service is told by the ways of Target.Reload, or not at all.
type External struct {
	Set     bool
	Start   []string
	Stop    []string
	Reload  []string
	Status  []string
	Timeout Duration // of each
}

// Duration is a time.Duration that is written "5s".
type Duration time.Duration

func (d Duration) String() string {
	s := time.Duration(d).String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// UnmarshalText reads a duration; a number without a unit is an error.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil || v < 0 {
		return fmt.Errorf("%q is not a duration; write one like \"5s\", \"300ms\" or \"10m\"", text)
	}
	if v == 0 && string(text) == "0" {
		return fmt.Errorf("%q has no unit; write \"0s\"", text)
	}
	*d = Duration(v)
	return nil
}

// Size is a number of bytes that is written "64MiB".
type Size int64

var units = []struct {
	name  string
	bytes int64
}{
	{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10},
	{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"KB", 1e3}, {"kB", 1e3}, {"B", 1},
}

func (s Size) String() string {
	for _, u := range units {
		if int64(s) >= u.bytes && int64(s)%u.bytes == 0 {
			return strconv.FormatInt(int64(s)/u.bytes, 10) + u.name
		}
	}
	return "0B"
}

// UnmarshalText reads a size; a number without a unit is an error.
func (s *Size) UnmarshalText(text []byte) error {
	for _, u := range units {
		digits, ok := strings.CutSuffix(string(text), u.name)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(digits), 10, 64)
		if err != nil || n < 0 || n > (1<<62)/u.bytes {
			break
		}
		*s = Size(n * u.bytes)
		return nil
	}
	return fmt.Errorf("%q is not a size; write one like \"64MiB\" or \"4GiB\"", text)
}

// Signal is a signal that is written by its name; the zero value is none.
type Signal struct {
	Name   string
	Number syscall.Signal
}

func (s Signal) String() string { return s.Name }

// UnmarshalText reads a signal's name, with or without SIG; "" is none.
func (s *Signal) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*s = Signal{}
		return nil
	}
	name := strings.ToUpper(string(text))
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	n := signalNumber(name)
	if n == 0 {
		return fmt.Errorf("%q is not the name of a signal; write one like \"SIGTERM\"", text)
	}
	*s = Signal{Name: name, Number: n}
	return nil
}

// Default is the configuration of an empty file, with paths as they would be
// written. region and target.command have no default, nor have the keys that
// target.external and target.socket need.
func Default() *Config {
	return &Config{
		Patch: Patch{
			Dir: "patch", Mode: ModeAuto, Poll: Duration(2 * time.Second), Patience: Duration(30 * time.Second),
			MaxWaiting: 100, MaxWaitingSize: 8 << 30, KeepRejected: 100, KeepRejectedSize: 8 << 30,
		},
		Verify: Verify{
			Require: RequireChecksum, MaxSize: 4 << 30, MaxUnpacked: 16 << 30, MaxFiles: 100_000, MaxRatio: 1000,
		},
		State: State{Dir: ".patchagent", Keep: 3},
		Log:   Log{Level: "info", Format: FormatText, MaxSize: 64 << 20, MaxFiles: 5},
		Target: Target{
			Root: ".", StopSignal: Signal{"SIGTERM", syscall.SIGTERM}, StopTimeout: Duration(10 * time.Second), Restart: RestartOnFailure,
			RestartDelay: Duration(200 * time.Millisecond), RestartMaxDelay: Duration(30 * time.Second), RestartLimit: 50, RestartWindow: Duration(time.Hour),
			Gate:     Gate{Retry: Duration(5 * time.Second), MaxWait: Duration(30 * time.Minute)},
			Reload:   Reload{Signal: Signal{"SIGHUP", syscall.SIGHUP}, Confirm: ConfirmNone, Timeout: Duration(10 * time.Second)},
			Ready:    Ready{Delay: Duration(100 * time.Millisecond), Timeout: Duration(30 * time.Second)},
			Health:   Health{Interval: Duration(time.Second), Timeout: Duration(time.Second), Failures: 3, Window: Duration(10 * time.Second)},
			Hooks:    Hooks{Timeout: Duration(30 * time.Second)},
			External: External{Timeout: Duration(time.Minute)},
		},
	}
}

// When a changed key takes effect.
const (
	live    = "at once"
	start   = "at the next start of the process"
	restart = "after a restart of the agent"
)

// A field is one key: where its value goes, and when a change takes effect.
type field struct {
	key   string
	value any // a pointer into the Config
	when  string
}

// fields is the list of all keys but those of target.socket, which is a list of tables:
// Socket has them.
func (c *Config) fields() []field {
	t := &c.Target
	return []field{
		{"region", &c.Region, live},
		{"build", &c.Build, live},
		{"product", &c.Product, live},
		{"patch.dir", &c.Patch.Dir, restart},
		{"patch.mode", &c.Patch.Mode, live},
		{"patch.settle", &c.Patch.Settle, live},
		{"patch.poll", &c.Patch.Poll, live},
		{"patch.patience", &c.Patch.Patience, live},
		{"patch.max_waiting", &c.Patch.MaxWaiting, live},
		{"patch.max_waiting_size", &c.Patch.MaxWaitingSize, live},
		{"patch.keep_rejected", &c.Patch.KeepRejected, live},
		{"patch.keep_rejected_size", &c.Patch.KeepRejectedSize, live},
		{"verify.require", &c.Verify.Require, live},
		{"verify.keys", &c.Verify.Keys, live},
		{"verify.max_size", &c.Verify.MaxSize, live},
		{"verify.max_unpacked", &c.Verify.MaxUnpacked, live},
		{"verify.max_files", &c.Verify.MaxFiles, live},
		{"verify.max_ratio", &c.Verify.MaxRatio, live},
		{"state.dir", &c.State.Dir, restart},
		{"state.keep", &c.State.Keep, live},
		{"log.level", &c.Log.Level, live},
		{"log.format", &c.Log.Format, restart},
		{"log.file", &c.Log.File, live},
		{"log.max_size", &c.Log.MaxSize, live},
		{"log.max_files", &c.Log.MaxFiles, live},
		{"target.root", &t.Root, restart},
		{"target.command", &t.Command, start},
		{"target.dir", &t.Dir, start},
		{"target.env", &t.Env, start},
		{"target.user", &t.User, start},
		{"target.stop_signal", &t.StopSignal, live},
		{"target.stop_timeout", &t.StopTimeout, live},
		{"target.restart", &t.Restart, live},
		{"target.restart_delay", &t.RestartDelay, live},
		{"target.restart_max_delay", &t.RestartMaxDelay, live},
		{"target.restart_limit", &t.RestartLimit, live},
		{"target.restart_window", &t.RestartWindow, live},
		{"target.watchdog", &t.Watchdog, start},
		{"target.umask", &t.Umask, start},
		{"target.nice", &t.Nice, start},
		{"target.rlimits", &t.Rlimits, start},
		{"target.output", &t.Output, start},
		{"target.protect", &t.Protect, live},
		{"target.gate.exec", &t.Gate.Exec, live},
		{"target.gate.http", &t.Gate.HTTP, live},
		{"target.gate.retry", &t.Gate.Retry, live},
		{"target.gate.max_wait", &t.Gate.MaxWait, live},
		{"target.reload.signal", &t.Reload.Signal, live},
		{"target.reload.exec", &t.Reload.Exec, live},
		{"target.reload.http", &t.Reload.HTTP, live},
		{"target.reload.precheck", &t.Reload.Precheck, live},
		{"target.reload.confirm", &t.Reload.Confirm, live},
		{"target.reload.timeout", &t.Reload.Timeout, live},
		{"target.ready.delay", &t.Ready.Delay, start},
		{"target.ready.notify", &t.Ready.Notify, start},
		{"target.ready.http", &t.Ready.HTTP, start},
		{"target.ready.tcp", &t.Ready.TCP, start},
		{"target.ready.exec", &t.Ready.Exec, start},
		{"target.ready.timeout", &t.Ready.Timeout, start},
		{"target.health.http", &t.Health.HTTP, live},
		{"target.health.tcp", &t.Health.TCP, live},
		{"target.health.exec", &t.Health.Exec, live},
		{"target.health.interval", &t.Health.Interval, live},
		{"target.health.timeout", &t.Health.Timeout, live},
		{"target.health.failures", &t.Health.Failures, live},
		{"target.health.window", &t.Health.Window, live},
		{"target.hooks.before_stop", &t.Hooks.BeforeStop, live},
		{"target.hooks.after_files", &t.Hooks.AfterFiles, live},
		{"target.hooks.after_start", &t.Hooks.AfterStart, live},
		{"target.hooks.after_rollback", &t.Hooks.AfterRollback, live},
		{"target.hooks.timeout", &t.Hooks.Timeout, live},
		{"target.external.start", &t.External.Start, live},
		{"target.external.stop", &t.External.Stop, live},
		{"target.external.reload", &t.External.Reload, live},
		{"target.external.status", &t.External.Status, live},
		{"target.external.timeout", &t.External.Timeout, live},
	}
}

// absolute makes every path absolute, from the file's own folder.
func (c *Config) absolute() {
	base := filepath.Dir(c.Path)
	paths := []*string{&c.Patch.Dir, &c.State.Dir, &c.Log.File, &c.Target.Root, &c.Target.Dir, &c.Target.Output}
	for i := range c.Verify.Keys {
		paths = append(paths, &c.Verify.Keys[i])
	}
	for _, p := range paths {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(base, *p)
		}
	}
}
