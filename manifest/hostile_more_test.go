package manifest

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"patchagent/manifest/hostile"
	"patchagent/manifest/reason"
)

// What a package says of itself ends up on terminals and in receipts: one line, of a
// length that can be read, with nothing in it that a terminal obeys.
func TestSentencesAreTame(t *testing.T) {
	esc, long := "\\u001b[2J\\r\\u202e", strings.Repeat("9", 1<<20)
	for name, m := range map[string]hostile.Zip{
		"a key":                  hostile.Doc(`{"schema": 2, "region": "r", "build": 1, "`+esc+`": 1}`, "new/a"),
		"a key that is twice":    hostile.Doc(`{"`+esc+`": 1, "`+esc+`": 2}`, "new/a"),
		"a long key":             hostile.Doc(`{"schema": 2, "region": "r", "build": 1, "`+long+`": 1}`, "new/a"),
		"a long number":          hostile.Doc(`{"region": "r", "build": `+long+`}`, "new/a"),
		"a long string":          hostile.Doc(`{"region": "r", "build": "x`+long+`"}`, "new/a"),
		"a long name in the zip": hostile.Plain(hostile.Part{Name: strings.Repeat("\xff", 60_000)}),
		"a key in a note":        hostile.Doc(`{"region": "r", "build": 1, "`+esc+`": 1, "newfiles": [{"name": "a", "path": "", "`+esc+long+`": 1}]}`, "new/a"),
	} {
		t.Run(name, func(t *testing.T) {
			p, _, err := openAll(m.Bytes(), Limits{MaxRatio: 1 << 20})
			said := []string{fmt.Sprint(err)}
			if err == nil {
				said = p.Notes
			}
			for _, s := range said {
				if i := strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }); i >= 0 || !utf8.ValidString(s) {
					t.Errorf("%q at %d in %.200q", s[i:i+1], i, s)
				}
				if len(s) > 4<<10 {
					t.Errorf("a sentence of %d bytes: %.60q", len(s), s)
				}
			}
		})
	}
}

// One payload cannot have two digests, whichever of them is right; Verify alone says so.
func TestTwoDigestsForOnePayload(t *testing.T) {
	right, wrong := fmt.Sprintf("%x", sha256.Sum256([]byte("payload"))), strings.Repeat("0", 64)
	for _, sums := range [][2]string{{right, wrong}, {wrong, right}} {
		data := hostile.Doc(fmt.Sprintf(`{"schema": 2, "region": "r", "build": 1, "newfiles": [{"name": "a", "path": "x", "size": 7, "sha256": %q},
			{"name": "a", "path": "y", "size": 7, "sha256": %q}]}`, sums[0], sums[1]), "new/a").Bytes()
		p, err := Open(bytes.NewReader(data), int64(len(data)), Limits{})
		if err != nil {
			t.Fatal(err)
		}
		wantCode(t, p.Verify(t.Context()), reason.PayloadMismatch)
	}
}

// faulty is a disk that fails from its nth read on.
type faulty struct {
	r    *bytes.Reader
	left int
}

var errDisk = errors.New("input/output error")

func (f *faulty) ReadAt(p []byte, at int64) (int, error) {
	if f.left--; f.left < 0 {
		return 0, errDisk
	}
	return f.r.ReadAt(p, at)
}

// A package on a disk that fails is never accepted, and the sentence says why.
func TestFaultyDisk(t *testing.T) {
	data := with(hostile.Doc(crlfDoc, payloads()...), func(p *hostile.Part) { p.Desc, p.Method = 16, methodDeflate }).Bytes()
	for n := range 1000 {
		// One entry at a time, so that reads have an order.
		p, err := Open(&faulty{bytes.NewReader(data), n}, int64(len(data)), Limits{})
		for i := 0; err == nil && i < len(p.entries); i++ {
			_, err = p.readAll(p.entries[i])
		}
		if err == nil {
			if n < 10 {
				t.Errorf("accepted after %d reads", n)
			}
			return
		}
		if code, _ := reason.Of(err); !strings.Contains(err.Error(), errDisk.Error()) || code != reason.Incomplete {
			t.Errorf("at read %d: %s, %v", n, code, err)
		}
	}
	t.Error("never accepted")
}
