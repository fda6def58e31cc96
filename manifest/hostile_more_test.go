package manifest

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"patchagent/manifest/reason"
)

// zip64Extra is a zip64 field with those numbers.
func zip64Extra(numbers ...uint64) []byte {
	b := make([]byte, 4+8*len(numbers))
	put16(b, 0, extraZip64)
	put16(b, 2, uint16(8*len(numbers)))
	for i, n := range numbers {
		put64(b, 4+8*i, n)
	}
	return b
}

// wide says that those fields of the directory's header are in a zip64 field.
func wide(offsets ...int) func([]byte) {
	return func(h []byte) {
		for _, at := range offsets {
			put32(h, at, full32)
		}
	}
}

// sizes are zip64 records and fields that lie, and content where there must be none.
func sizes() []hostile {
	parts := plain(part{data: "abc"}).parts
	folder := func(p part) maker {
		p.name = "mod/x/"
		return maker{parts: append(plain(part{}).parts, p)}
	}
	record := func(change func(h []byte)) maker { return maker{parts: parts, zip64: true, end64: change} }
	return []hostile{
		{"zip64 sizes that differ", plain(part{data: "abc", extra: zip64Extra(4, 3), central: wide(20, 24)}), reason.NotAZip},
		{"a zip64 size that is not the header's", plain(part{data: "abc", extra: zip64Extra(4), central: wide(24)}), reason.NotAZip},
		{"a zip64 size below zero", plain(part{data: "abc", extra: zip64Extra(1 << 63), central: wide(24)}), reason.NotAZip},
		{"an enormous zip64 size", plain(part{data: "abc", extra: zip64Extra(1<<63-1, 1<<63-1), central: wide(20, 24)}), reason.LimitExceeded},
		{"an enormous packed size", plain(part{method: methodDeflate, extra: zip64Extra(1<<63 - 1), central: wide(20)}), reason.NotAZip},
		{"an enormous offset", plain(part{extra: zip64Extra(1<<63 - 1), central: wide(42)}), reason.NotAZip},
		{"a zip64 field that is too short", plain(part{data: "abc", extra: zip64Extra(3), central: wide(20, 24)}), reason.NotAZip},
		{"two zip64 fields", plain(part{data: "abc", extra: append(zip64Extra(3), zip64Extra(3)...), central: wide(24)}), reason.NotAZip},
		{"another zip64 size in the local header", plain(part{data: "abc", localEx: zip64Extra(4, 3), local: wide(18, 22)}), reason.NotAZip},
		{"a malformed extra field in the local header", plain(part{localEx: []byte{1, 0, 9, 0}}), reason.NotAZip},
		{"a Unicode Path in the local header only", plain(part{localEx: unicodePath("mod/a", "mod/b")}), reason.NotAZip},
		{"a local header with other lengths", plain(part{data: "abc", local: set16(28, 2)}), reason.NotAZip},
		{"a size beyond the file", plain(part{method: methodDeflate, data: "abc", local: set32(18, 1<<20), central: set32(20, 1<<20)}), reason.NotAZip},
		{"a zip64 record of several disks", record(func(h []byte) { put32(h, 16, 1) }), reason.NotAZip},
		{"a zip64 directory on another disk", record(func(h []byte) { put32(h, 20, 1) }), reason.NotAZip},
		{"a zip64 locator of several disks", record(func(h []byte) { put32(h, end64Len+16, 2) }), reason.NotAZip},
		{"a zip64 record of a version to come", record(func(h []byte) { put16(h, 14, 64) }), reason.NotAZip},
		{"a zip64 record with another signature", record(func(h []byte) { put32(h, 0, 7) }), reason.NotAZip},
		{"a zip64 record that counts twice", record(func(h []byte) { put64(h, 24, 1) }), reason.NotAZip},
		{"a zip64 record with too many entries", record(func(h []byte) { put64(h, 24, 1<<62); put64(h, 32, 1<<62) }), reason.LimitExceeded},
		{"a zip64 directory of 2^62 bytes", record(func(h []byte) { put64(h, 40, 1<<62) }), reason.NotAZip},
		{"a zip64 directory below zero", record(func(h []byte) { put64(h, 48, 1<<63) }), reason.NotAZip},
		{"no zip64 record in a tiny file", maker{end: set16(10, full16)}, reason.NotAZip},
		{"no entry at the beginning", maker{before: "PK\x03\x04 nothing"}, reason.NotAZip},
		{"something after the last entry of the directory", maker{parts: parts, after: "PK\x05\x05\x01\x00x"}, reason.NotAZip},
		{"a folder that hides packed bytes", folder(part{method: methodDeflate, packed: append(compress(methodDeflate, ""), "hidden"...)}), reason.NotAZip},
		{"a folder with a checksum", folder(part{local: set32(14, 7), central: set32(16, 7)}), reason.Incomplete},
		{"a folder that unpacks to something", folder(part{method: methodDeflate, packed: compress(methodDeflate, "hidden")}), reason.Incomplete},
		{"a folder that is a link", folder(part{mode: 0o120777}), reason.UnsafePath},
		{"a file with a folder's name", folder(part{mode: 0o100644}), reason.NotAZip},
		{"a socket", plain(part{mode: 0o140644}), reason.UnsafePath},
		{"a link from a Mac", plain(part{mode: 0o120777, central: func(h []byte) { h[5] = madeOnMac }}), reason.UnsafePath},
		{"data after the zstd stream", plain(part{data: "abc", method: methodZstd, packed: append(compress(methodZstd, "abc"), "tail"...)}), reason.Incomplete},
		{"a zstd stream that is longer", plain(part{data: "abc", method: methodZstd, packed: compress(methodZstd, "abcdefgh")}), reason.Incomplete},
		{"a stream that is longer, with the checksum of all of it", plain(part{data: "abc", method: methodDeflate, packed: compress(methodDeflate, "abcdefgh"),
			local: set32(14, crc32.ChecksumIEEE([]byte("abcdefgh"))), central: set32(16, crc32.ChecksumIEEE([]byte("abcdefgh")))}), reason.Incomplete},
		{"a truncated deflate stream", plain(part{data: "abcdefgh", method: methodDeflate, packed: compress(methodDeflate, "abcdefgh")[:4]}), reason.Incomplete},
		{"a bomb of nothing", plain(part{method: methodDeflate, data: "", central: set32(24, 101), local: set32(22, 101)}), reason.Incomplete},
		{"a bomb out of no bytes", plain(part{method: methodDeflate, packed: []byte{}, data: "abc"}), reason.LimitExceeded},
	}
}

// What a package says of itself ends up on terminals and in receipts: one line, of a
// length that can be read, with nothing in it that a terminal obeys.
func TestSentencesAreTame(t *testing.T) {
	esc, long := "\\u001b[2J\\r\\u202e", strings.Repeat("9", 1<<20)
	for name, m := range map[string]maker{
		"a key":                  doc(`{"schema": 2, "region": "r", "build": 1, "`+esc+`": 1}`, "new/a"),
		"a key that is twice":    doc(`{"`+esc+`": 1, "`+esc+`": 2}`, "new/a"),
		"a long key":             doc(`{"schema": 2, "region": "r", "build": 1, "`+long+`": 1}`, "new/a"),
		"a long number":          doc(`{"region": "r", "build": `+long+`}`, "new/a"),
		"a long string":          doc(`{"region": "r", "build": "x`+long+`"}`, "new/a"),
		"a long name in the zip": plain(part{name: strings.Repeat("\xff", 60_000)}),
		"a key in a note":        doc(`{"region": "r", "build": 1, "`+esc+`": 1, "newfiles": [{"name": "a", "path": "", "`+esc+long+`": 1}]}`, "new/a"),
	} {
		t.Run(name, func(t *testing.T) {
			p, _, err := openAll(m.bytes(), Limits{MaxRatio: 1 << 20})
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
		data := doc(fmt.Sprintf(`{"schema": 2, "region": "r", "build": 1, "newfiles": [{"name": "a", "path": "x", "size": 7, "sha256": %q},
			{"name": "a", "path": "y", "size": 7, "sha256": %q}]}`, sums[0], sums[1]), "new/a").bytes()
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
	data := with(doc(crlfDoc, payloads()...), func(p *part) { p.desc, p.method = 16, methodDeflate }).bytes()
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
