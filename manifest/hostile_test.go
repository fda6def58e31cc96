package manifest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"patchagent/manifest/hostile"
	"patchagent/manifest/reason"
)

func TestHostile(t *testing.T) {
	limits := Limits{MaxUnpacked: hostile.MaxUnpacked, MaxFiles: hostile.MaxFiles, MaxRatio: hostile.MaxRatio}
	all := hostile.All()
	t.Logf("%d packages", len(all))
	for _, c := range all {
		t.Run(c.Name, func(t *testing.T) {
			data := c.Zip.Bytes()
			_, _, err := openAll(data, limits)
			wantCode(t, err, c.Code)
			if err != nil && strings.ContainsAny(err.Error(), "\n\r") {
				t.Errorf("the sentence has line breaks: %q", err)
			}
			// Nothing of this can become good by further writing, so it is claimed and refused.
			if shape, why := Examine(bytes.NewReader(data), int64(len(data)), limits); shape < Whole {
				t.Errorf("it looks %s: %v", shape, why)
			}
		})
	}
	if len(all) < 263 {
		t.Errorf("%d packages, there were 263", len(all))
	}
}

func TestLimits(t *testing.T) {
	many := hostile.Zip{}
	for i := range 11 {
		many.Parts = append(many.Parts, hostile.Part{Name: fmt.Sprintf("new/%d", i)})
	}
	zeros := strings.Repeat("\x00", 200_000)
	long := hostile.Zip{Parts: []hostile.Part{{Name: "manifest.json", Data: hostile.PlainDoc}}}
	for i := range 4200 {
		long.Parts = append(long.Parts, hostile.Part{Name: fmt.Sprintf("%04d", i) + strings.Repeat("/"+strings.Repeat("n", 250), 16)})
	}
	numbers := hostile.Doc(`{"region": "r", "build": 1, "x": [0` + strings.Repeat(`, 0`, minValues) + `]}`)
	var keys strings.Builder
	for i := range maxKeys {
		fmt.Fprintf(&keys, `, "x%d": 1`, i)
	}
	for _, c := range []struct {
		name   string
		m      hostile.Zip
		limits Limits
		says   string
	}{
		{"too many entries", many, Limits{MaxFiles: 10}, "more than verify.max_files (10)"},
		{"too large", hostile.Plain(hostile.Part{Data: "x"}), Limits{MaxSize: 100}, "more than verify.max_size (100)"},
		{"too large unpacked", hostile.Plain(hostile.Part{Data: zeros}), Limits{MaxUnpacked: 100_000}, "more than verify.max_unpacked (100000 bytes)"},
		{"too tightly packed", hostile.Plain(hostile.Part{Data: zeros, Method: methodDeflate}), Limits{MaxRatio: 50}, "(verify.max_ratio)"},
		{"a manifest that is too large", hostile.Zip{Parts: []hostile.Part{{Name: "manifest.json", Method: methodDeflate, Data: strings.Repeat(" ", maxManifest+1)}}}, Limits{MaxRatio: 1 << 20}, "more than 33554432"},
		{"names that are too long together", long, Limits{MaxFiles: 5000}, "its directory has"},
		{"too many numbers", numbers, Limits{MaxFiles: 100}, "more keys and values than go with verify.max_files (100)"},
		{"a string that is too long", hostile.Doc(`{"region": "r", "build": 1, "x": "` + strings.Repeat(`\"`, maxText/2) + `y"}`), Limits{}, "a string of more than 65536 bytes (at byte 34)"},
		{"too many keys", hostile.Doc(`{"region": "r", "build": 1` + keys.String() + `}`), Limits{}, "the document has more than 1000 keys"},
		{"too many keys in an item", hostile.Doc(`{"region": "r", "build": 1, "delfiles": [{"name": "a", "path": ""` + keys.String() + `}]}`), Limits{}, `"delfiles" has more than 1000 keys`},
		{"folders of entries", hostile.Plain(hostile.Part{Name: "mod/" + strings.Repeat("d/", 10) + "a"}), Limits{MaxFiles: 10}, "it has more folders than verify.max_files (10)"},
		{"folders of places", hostile.Doc(`{"region": "r", "build": 1, "delfiles": [{"name": "a", "path": "` + strings.Repeat("d/", 11) + `"}]}`), Limits{MaxFiles: 10}, "places in more folders than verify.max_files (10)"},
		{"items", hostile.Doc(`{"region": "r", "build": 1, "delfiles": [{"name": "a", "path": ""}, {"name": "b", "path": ""}, {"name": "c", "path": ""}]}`), Limits{MaxFiles: 2}, "more items than verify.max_files (2)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, _, err := openAll(c.m.Bytes(), c.limits)
			code := reason.LimitExceeded
			if strings.Contains(c.name, "keys") {
				code = reason.ManifestInvalid
			}
			wantCode(t, err, code)
			if err != nil && !strings.Contains(err.Error(), c.says) {
				t.Errorf("%q does not say %q", err, c.says)
			}
		})
	}
	// As many as may be are let in, counted once each.
	fits := hostile.Doc(`{"region": "r", "build": 1, "delfiles": [{"name": "a", "path": "d/e"}, {"name": "b", "path": "d/e"}, {"name": "c", "path": "d"}, {"name": "c", "path": "d-"}]}`,
		"x/y/a", "x/y/b", "x/z")
	if _, _, err := openAll(fits.Bytes(), Limits{MaxFiles: 4}); err != nil {
		t.Error(err)
	}
}

// counted counts how often it is read.
type counted struct {
	io.ReaderAt
	reads atomic.Int64
}

func (c *counted) ReadAt(p []byte, at int64) (int, error) {
	c.reads.Add(1)
	return c.ReaderAt.ReadAt(p, at)
}

// An entry that is full of what may be an end is read as fast as another one, and until
// nobody wants to know any more.
func TestManyEndsInAnEntry(t *testing.T) {
	data := hostile.Plain(hostile.Part{Data: strings.Repeat("PK\x07\x08", 1<<19), Desc: 16}).Bytes()
	r := &counted{ReaderAt: bytes.NewReader(data)}
	p, err := Open(r, int64(len(data)), Limits{})
	if err == nil {
		err = p.Verify(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	if most := int64(len(data) / 1024); r.reads.Load() > most {
		t.Errorf("%d reads of %d bytes", r.reads.Load(), len(data))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.Verify(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// Streams that ask for a large window each get one between them.
func TestWindowsAreShared(t *testing.T) {
	const entries, window = 300, 8 << 20
	var m hostile.Zip
	m.Parts = append(m.Parts, hostile.Part{Name: "manifest.json", Data: hostile.PlainDoc})
	// RFC 8878: no content size, a window of 2^(10+13) bytes, one raw block of one byte, which is the last.
	stream := []byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, 13 << 3, 0x09, 0x00, 0x00, 'a'}
	for i := range entries {
		m.Parts = append(m.Parts, hostile.Part{Name: fmt.Sprintf("mod/%d", i), Data: "a", Method: methodZstd, Packed: stream})
	}
	m.Parts = append(m.Parts, hostile.Part{Name: "mod/a"})
	data := m.Bytes()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, _, err := openAll(data, Limits{}); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	// With the race detector a sync.Pool loses a quarter of what it is given.
	if used := after.TotalAlloc - before.TotalAlloc; used > entries*window/2 {
		t.Errorf("%d streams have used %d MiB", entries, used>>20)
	}
}

// Every beginning of a good package is incomplete, and never accepted: with the
// rest missing, and with the rest not written yet.
func TestEveryBeginning(t *testing.T) {
	data := hostile.Plain(hostile.Part{Data: "some content", Method: methodDeflate}).Bytes()
	for n := range len(data) {
		for name, now := range map[string][]byte{"cut": data[:n], "preallocated": append(bytes.Clone(data[:n]), make([]byte, len(data)-n)...)} {
			if _, _, err := openAll(now, Limits{}); err == nil && !bytes.Equal(now, data) {
				t.Errorf("%s at %d: accepted", name, n)
			}
			shape, _ := Examine(bytes.NewReader(now), int64(len(now)), Limits{})
			if want := map[bool]Shape{true: NotZip, false: Incomplete}[n == 0 || name == "preallocated" && n < 4]; shape != want && !bytes.Equal(now, data) {
				t.Errorf("%s at %d: %s, want %s", name, n, shape, want)
			}
		}
		// The end first, as some clients write.
		tail := append(make([]byte, n), data[n:]...)
		if _, _, err := openAll(tail, Limits{}); err == nil && n > 0 && !bytes.Equal(tail, data) {
			t.Errorf("tail from %d: accepted", n)
		}
	}
}
