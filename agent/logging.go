package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/DeRuina/timberjack"
	"github.com/hashicorp/go-hclog"

	"patchagent/agent/config"
)

// newLogger makes the one logger of the program. It writes to console and to
// the file of the sink, which the caller closes.
func newLogger(l config.Log, console io.Writer) (hclog.Logger, *logSink, error) {
	sink := &logSink{console: console}
	if err := sink.open(l); err != nil {
		return nil, nil, err
	}
	log := hclog.New(&hclog.LoggerOptions{
		Level:      hclog.LevelFromString(l.Level),
		Output:     sink,
		JSONFormat: l.Format == config.FormatJSON,
		TimeFormat: "2006-01-02T15:04:05.000Z07:00",
		TimeFn:     time.Now,
	})
	return lineLogger{log}, sink, nil
}

// lineLogger keeps each entry in one line, whatever a file name, an error or a
// process's output holds: by itself hclog gives a value's lines lines of their own.
type lineLogger struct{ hclog.Logger }

func (l lineLogger) Log(level hclog.Level, msg string, args ...any) {
	l.Logger.Log(level, msg, flat(args)...)
}
func (l lineLogger) Trace(msg string, args ...any) { l.Logger.Trace(msg, flat(args)...) }
func (l lineLogger) Debug(msg string, args ...any) { l.Logger.Debug(msg, flat(args)...) }
func (l lineLogger) Info(msg string, args ...any)  { l.Logger.Info(msg, flat(args)...) }
func (l lineLogger) Warn(msg string, args ...any)  { l.Logger.Warn(msg, flat(args)...) }
func (l lineLogger) Error(msg string, args ...any) { l.Logger.Error(msg, flat(args)...) }

func (l lineLogger) With(args ...any) hclog.Logger  { return lineLogger{l.Logger.With(flat(args)...)} }
func (l lineLogger) Named(name string) hclog.Logger { return lineLogger{l.Logger.Named(name)} }
func (l lineLogger) ResetNamed(name string) hclog.Logger {
	return lineLogger{l.Logger.ResetNamed(name)}
}

// flat has values quoted with more than one line, those with a backslash, which hclog
// leaves as it is beside the quotes that it escapes, and those that are no text: hclog
// writes their bytes as they are.
func flat(args []any) []any {
	for i, value := range args {
		if text := fmt.Sprint(value); strings.ContainsAny(text, "\n\\") || !utf8.ValidString(text) {
			args = slices.Clone(args)
			args[i] = hclog.Quote(text)
		}
	}
	return args
}

// logSink takes each line to the console and, if there is one, to the file, which
// is rotated by size and can be opened anew while lines are written.
type logSink struct {
	console io.Writer

	mu   sync.Mutex
	file *timberjack.Logger
}

func (s *logSink) Write(line []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, err := s.console.Write(line)
	if s.file != nil {
		// The two are independent: a console that is gone must not silence the file.
		n, err = s.file.Write(line)
	}
	return n, err
}

// open makes the file the one that l names, opened by name: whoever moved the old
// one away gets a new one. After an error the sink is as it was.
func (s *logSink) open(l config.Log) error {
	var next *timberjack.Logger
	if l.File != "" {
		// The library opens the file with the first line; one that cannot be written is
		// to be said now.
		probe, err := os.OpenFile(l.File, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
		if err != nil {
			return fmt.Errorf("cannot write log.file: %w; create the folder %s or change the key", err, filepath.Dir(l.File))
		}
		if err := probe.Close(); err != nil {
			return fmt.Errorf("cannot write log.file: %w", err)
		}
		const megabyte = 1 << 20 // the library's unit
		next = &timberjack.Logger{Filename: l.File, MaxSize: max(1, int(l.MaxSize/megabyte)), MaxBackups: l.MaxFiles, LocalTime: true}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.file
	s.file = next
	if old != nil {
		return old.Close()
	}
	return nil
}

func (s *logSink) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file != nil {
		_ = s.file.Close()
		s.file = nil
	}
}
