package supervisor

import (
	"bytes"
	"io"
	"os"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"
)

// How much Tail tells.
const (
	tailLines = 60
	tailLine  = 300       // bytes of a line
	tailText  = 24 << 10  // bytes of all
	tailBytes = 512 << 10 // bytes at the end of a file that are looked at
)

// written says where in the files that it writes to the newest process began.
type written struct {
	mu    sync.Mutex // held while such a file is read, or its beginning taken out
	files []beginning
}

type beginning struct {
	path, heading string
	at            int64
}

// begin is called before a process is started: what comes from now on is its own.
func (w *written) begin(opts Options) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case opts.Output != "":
		w.files = []beginning{{path: opts.Output}}
	case opts.Spool != "":
		w.files = []beginning{{path: opts.Spool + ".out", heading: "stdout:"}, {path: opts.Spool + ".err", heading: "stderr:"}}
	default:
		w.files = nil
	}
	for i, b := range w.files {
		if info, err := os.Stat(b.path); err == nil && info.Mode().IsRegular() {
			w.files[i].at = info.Size()
		}
	}
}

// resume is begin for a process that an earlier agent started. A file that is
// shorter than it was had its beginning taken out.
func (w *written) resume(opts Options, at []int64) {
	w.begin(opts)
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, b := range w.files {
		if i >= len(at) || at[i] > b.at {
			w.files[i].at = 0
		} else {
			w.files[i].at = at[i]
		}
	}
}

// begins returns where the process's part of each file begins.
func (w *written) begins() []int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	var at []int64
	for _, b := range w.files {
		at = append(at, b.at)
	}
	return at
}

// taken is told that the first n bytes of a file were taken out of it. The caller
// holds mu since before it did that.
func (w *written) taken(path string, n int64) {
	for i, b := range w.files {
		if b.path == path {
			w.files[i].at = max(0, b.at-n)
		}
	}
}

// rotate keeps the files that the process writes to from growing without bounds.
func (s *Supervisor) rotate() {
	s.written.mu.Lock()
	taken, err := rotateOutput(s.opts.Output, s.opts.OutputMaxSize, s.opts.OutputMaxFiles)
	s.written.taken(s.opts.Output, taken)
	s.written.mu.Unlock()
	if err != nil {
		s.log.Warn("cannot rotate the process's output", "file", s.opts.Output, "error", err)
	}
	s.spool.bound()
}

// Tail returns the last lines that the process has written since it was started,
// or the last one has if there is none: as plain text of a bounded size, whatever
// they hold, and empty if there are none or they cannot be read.
func (s *Supervisor) Tail() string {
	w := &s.written
	w.mu.Lock()
	defer w.mu.Unlock()
	var texts, headings []string
	for i := range w.files {
		if text := w.files[i].lines(); len(text) > 0 {
			texts, headings = append(texts, text), append(headings, w.files[i].heading)
		}
	}
	switch len(texts) {
	case 0:
		return ""
	case 1:
		return texts[0] // tailLines of tailLine have room
	}
	// Each has the half of the room, and what the other leaves of its own.
	room := tailText - len(headings[0]) - len(headings[1]) - 3
	out := newest(texts[0], max(room/2, room-len(texts[1])))
	return headings[0] + "\n" + out + "\n" + headings[1] + "\n" + newest(texts[1], room-len(out))
}

// lines returns the last lines of the file since the beginning, made plain.
func (b *beginning) lines() string {
	// Anything else, such as a pipe, could not be read without taking it away.
	if info, err := os.Stat(b.path); err != nil || !info.Mode().IsRegular() {
		return ""
	}
	f, err := os.Open(b.path)
	if err != nil {
		return ""
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return ""
	}
	if info.Size() < b.at {
		b.at = 0 // somebody has emptied it
	}
	from := max(b.at, info.Size()-tailBytes)
	data, err := io.ReadAll(io.NewSectionReader(f, from, info.Size()-from))
	if err != nil || len(data) == 0 {
		return ""
	}
	if _, rest, found := bytes.Cut(data, []byte("\n")); found && from > b.at && len(rest) > 0 {
		data = rest // the first line may be half of one
	}
	all := bytes.Split(bytes.TrimSuffix(data, []byte("\n")), []byte("\n"))
	var plain []string
	for _, line := range all[max(0, len(all)-tailLines):] {
		plain = append(plain, plainLine(string(bytes.TrimSuffix(line, []byte("\r")))))
	}
	return strings.Join(plain, "\n")
}

// newest returns as many whole lines of the end of text as have room.
func newest(text string, room int) string {
	for len(text) > room {
		_, rest, found := strings.Cut(text, "\n")
		if !found {
			return ""
		}
		text = rest
	}
	return text
}

// plainLine returns the line without anything that could do more to its reader than
// be read, and not longer than tailLine.
func plainLine(line string) string {
	const more = "…"
	plain := make([]byte, 0, tailLine+utf8.UTFMax)
	fits := 0 // bytes that leave room for more
	for _, r := range line {
		if r != '\t' && unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp) {
			r = utf8.RuneError
		}
		plain = utf8.AppendRune(plain, r)
		if len(plain) > tailLine {
			return string(plain[:fits]) + more
		}
		if len(plain) <= tailLine-len(more) {
			fits = len(plain)
		}
	}
	return string(plain)
}
