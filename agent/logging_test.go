package main

import (
	"bytes"
	"errors"
	"strconv"
	"strings"
	"testing"

	"patchagent/agent/config"
)

// An entry of the log is one line, whatever strangers have given their names to.
func TestOneLineAnEntry(t *testing.T) {
	const forged = "a\n2026-01-01T00:00:00.000Z [INFO]  patch applied: patch=b\r\u2028\x1b[2K\"c\""
	for _, format := range []string{config.FormatText, config.FormatJSON} {
		var out bytes.Buffer
		log, sink, err := newLogger(config.Log{Level: "trace", Format: format}, &out)
		if err != nil {
			t.Fatal(err)
		}
		defer sink.close()
		for _, log := range []interface {
			Info(string, ...any)
		}{log, log.Named("part"), log.ResetNamed("part"), log.With("patch", forged), log.Named("part").With("error", errors.New(forged)).Named("x")} {
			out.Reset()
			log.Info("patch waiting", "patch", forged, "error", errors.New(forged), "list", []string{forged})
			entry := out.String()
			if strings.Count(entry, "\n") != 1 || !strings.HasSuffix(entry, "\n") || strings.ContainsAny(entry, "\r\x1b") {
				t.Errorf("%s: %q", format, entry)
			}
		}
		out.Reset()
		log.Info("m", "value", "\x9b2J.zip") // a control sequence to a terminal of 8 bits
		if strings.Contains(out.String(), "\x9b") {
			t.Errorf("%s: %q", format, out.String())
		}
		out.Reset()
		log.Error("m", "value", forged)
		log.Warn("m", "value", forged)
		log.Debug("m", "value", forged)
		log.Trace("m", "value", forged)
		log.Log(log.GetLevel(), "m", "value", forged)
		if n := strings.Count(out.String(), "\n"); n != 5 {
			t.Errorf("%s: five entries have %d lines:\n%s", format, n, out.String())
		}
	}
}

// A quoted value can be read back, whatever quotes and backslashes are in it.
func TestQuotesInQuotes(t *testing.T) {
	var out bytes.Buffer
	log, sink, err := newLogger(config.Log{Level: "info", Format: config.FormatText}, &out)
	if err != nil {
		t.Fatal(err)
	}
	defer sink.close()
	for _, value := range []string{`it printed: "File \"bin/web.py\""`, `a "b" c`, `C:\new folder\`, `\`} {
		out.Reset()
		log.Info("m", "error", errors.New(value))
		_, logged, _ := strings.Cut(strings.TrimSuffix(out.String(), "\n"), "error=")
		if back, err := strconv.Unquote(logged); err != nil || back != value {
			t.Errorf("%s is logged as %s, which is %s (%v)", value, logged, back, err)
		}
	}
}
