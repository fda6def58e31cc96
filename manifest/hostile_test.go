package manifest

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"hash/crc32"
	"slices"
	"strings"
	"testing"

	"patchagent/manifest/reason"
)

func set16(at int, v uint16) func([]byte) { return func(h []byte) { put16(h, at, v) } }
func set32(at int, v uint32) func([]byte) { return func(h []byte) { put32(h, at, v) } }

// unicodePath is an extra field that gives an entry another name.
func unicodePath(raw, name string) []byte {
	b := make([]byte, 9, 9+len(name))
	put16(b, 0, extraUnicode)
	put16(b, 2, uint16(5+len(name)))
	b[4] = 1
	put32(b, 5, crc32.ChecksumIEEE([]byte(raw)))
	return append(b, name...)
}

type hostile struct {
	name string
	m    maker
	code reason.Code
}

// containers are zips that two programs could read in two ways, or that are more
// than they say.
func containers() []hostile {
	pk56 := "PK\x05\x06" + strings.Repeat("\x00", 18)
	return []hostile{
		{"a gap between entries", maker{parts: []part{{name: "manifest.json", data: plainDoc, gap: "x"}, {name: "mod/a"}}}, reason.NotAZip},
		{"a gap before the directory", maker{parts: plain(part{}).parts, before: "xxxx"}, reason.NotAZip},
		{"something before the first entry", maker{parts: plain(part{}).parts, prefix: "#!/bin/sh\n"}, reason.NotAZip},
		{"something after the end", maker{parts: plain(part{}).parts, suffix: "x"}, reason.NotAZip},
		{"a second end record in the comment", maker{parts: plain(part{}).parts, comment: pk56}, reason.NotAZip},
		{"half an end record in the comment", maker{parts: plain(part{}).parts, comment: "PK\x05\x06 hello"}, reason.NotAZip},
		{"overlapping entries", maker{parts: []part{{name: "manifest.json", data: plainDoc}, {name: "mod/a"}, {name: "mod/b", central: set32(42, 0)}}}, reason.NotAZip},
		{"the same name twice", maker{parts: append(plain(part{}).parts, part{name: "mod/a"})}, reason.NotAZip},
		{"names that differ in case", maker{parts: append(plain(part{}).parts, part{name: "MOD/A"})}, reason.NotAZip},
		{"names that differ in normalisation", maker{parts: append(plain(part{}).parts, part{name: "mod/\u00e9"}, part{name: "mod/e\u0301"})}, reason.NotAZip},
		{"names that fold to one", maker{parts: append(plain(part{}).parts, part{name: "mod/stra\u00dfe"}, part{name: "mod/STRASSE"})}, reason.NotAZip},
		{"a file that is a folder", maker{parts: append(plain(part{}).parts, part{name: "mod/a/b"})}, reason.NotAZip},
		{"a folder twice", maker{parts: append(plain(part{}).parts, part{name: "x/"}, part{name: "x/"})}, reason.NotAZip},
		{"a folder with content", maker{parts: append(plain(part{}).parts, part{name: "x/", data: "y"})}, reason.NotAZip},
		{"another name in the local header", plain(part{localName: "mod/b"}), reason.NotAZip},
		{"another method in the local header", plain(part{local: set16(8, methodDeflate)}), reason.NotAZip},
		{"other flags in the local header", plain(part{local: set16(6, 1<<11)}), reason.NotAZip},
		{"another checksum in the local header", plain(part{local: set32(14, 7)}), reason.NotAZip},
		{"another size in the local header", plain(part{local: set32(22, 7)}), reason.NotAZip},
		{"another packed size in the local header", plain(part{local: set32(18, 7)}), reason.NotAZip},
		{"encrypted", plain(part{flags: flagEncrypted}), reason.NotAZip},
		{"strongly encrypted", plain(part{flags: 1 << 6}), reason.NotAZip},
		{"with a masked directory", plain(part{flags: 1 << 13}), reason.NotAZip},
		{"an unknown flag", plain(part{flags: 1 << 14}), reason.NotAZip},
		{"patch data", plain(part{flags: 1 << 5}), reason.NotAZip},
		{"an unknown method", plain(part{method: 14}), reason.NotAZip},
		{"a version to come", plain(part{central: set16(6, 64)}), reason.NotAZip},
		{"a version to come, locally", plain(part{local: set16(4, 64)}), reason.NotAZip},
		{"another disk", plain(part{central: set16(34, 1)}), reason.NotAZip},
		{"several disks", maker{parts: plain(part{}).parts, end: set16(4, 1)}, reason.NotAZip},
		{"entries on other disks", maker{parts: plain(part{}).parts, end: set16(8, 1)}, reason.NotAZip},
		{"more entries than there are", maker{parts: plain(part{}).parts, end: func(h []byte) { put16(h, 8, 3); put16(h, 10, 3) }}, reason.NotAZip},
		{"fewer entries than there are", maker{parts: plain(part{}).parts, end: func(h []byte) { put16(h, 8, 1); put16(h, 10, 1) }}, reason.NotAZip},
		{"a directory elsewhere", maker{parts: plain(part{}).parts, end: set32(16, 3)}, reason.NotAZip},
		{"a zip64 record that disagrees", maker{parts: plain(part{}).parts, zip64: true, end: func(h []byte) { put16(h, 8, 1); put16(h, 10, 1) }}, reason.NotAZip},
		{"a zip64 record elsewhere", maker{parts: plain(part{}).parts, zip64: true, end64: func(h []byte) { put64(h, end64Len+8, 0) }}, reason.NotAZip},
		{"a zip64 record that is longer", maker{parts: plain(part{}).parts, zip64: true, end64: func(h []byte) { put64(h, 4, 60) }}, reason.NotAZip},
		{"zip64 sizes and no record", maker{parts: plain(part{}).parts, end: set32(16, full32)}, reason.NotAZip},
		{"a zip64 field that is missing", plain(part{central: set32(24, full32)}), reason.NotAZip},
		{"a stored entry of two sizes", plain(part{data: "abc", central: set32(24, 2)}), reason.NotAZip},
		{"a malformed extra field", plain(part{extra: []byte{1, 2, 3}}), reason.NotAZip},
		{"an extra field that is too long", plain(part{extra: []byte{1, 2, 255, 0}}), reason.NotAZip},
		{"a Unicode Path to another file", plain(part{extra: unicodePath("mod/a", "mod/b")}), reason.NotAZip},
		{"a Unicode Path with a stale checksum", plain(part{extra: unicodePath("mod/x", "mod/a")}), reason.NotAZip},
		{"a data descriptor that disagrees", maker{parts: []part{{name: "manifest.json", data: plainDoc}, {name: "mod/a", data: "abc", desc: 16, central: set32(16, 7)}}}, reason.NotAZip},
		{"a data descriptor of an odd length", plain(part{desc: 16, gap: "x"}), reason.NotAZip},
		{"a folder by its mode only", plain(part{mode: 0o040755}), reason.NotAZip},
		{"a DOS folder without a slash", plain(part{central: set32(38, dosFolder)}), reason.NotAZip},
		{"data after the deflate stream", plain(part{data: "abc", method: methodDeflate, packed: append(compress(methodDeflate, "abc"), "tail"...)}), reason.NotAZip},
	}
}

// contents are entries that are not what their headers say.
func contents() []hostile {
	return []hostile{
		{"a wrong checksum", plain(part{data: "abc", local: set32(14, 7), central: set32(16, 7)}), reason.Incomplete},
		{"a stream that is shorter", plain(part{data: "abcd", method: methodDeflate, packed: compress(methodDeflate, "abc")}), reason.Incomplete},
		{"a stream that is longer", plain(part{data: "abc", method: methodDeflate, packed: compress(methodDeflate, "abcdefgh")}), reason.Incomplete},
		{"a broken deflate stream", plain(part{data: "abc", method: methodDeflate, packed: []byte("\xff\xff\xff\xff")}), reason.Incomplete},
		{"a broken zstd stream", plain(part{data: "abc", method: methodZstd, packed: []byte("nothing")}), reason.Incomplete},

		{"a symbolic link", plain(part{mode: 0o120777}), reason.UnsafePath},
		{"a pipe", plain(part{mode: 0o010644}), reason.UnsafePath},
		{"a device", plain(part{mode: 0o060644}), reason.UnsafePath},
		{"a huge unpacked size", plain(part{data: strings.Repeat("a", 5000), method: methodDeflate, packed: compress(methodDeflate, strings.Repeat("a", 5000))}), reason.LimitExceeded},
	}
}

// names that are no plain relative path.
func names() []hostile {
	var all []hostile
	for _, c := range []struct {
		name string
		code reason.Code
	}{
		{"../x", reason.UnsafePath}, {"mod/../../x", reason.UnsafePath}, {"/etc/passwd", reason.UnsafePath}, {`mod\a`, reason.UnsafePath},
		{`..\x`, reason.UnsafePath}, {"mod//a", reason.UnsafePath}, {"./mod/a", reason.UnsafePath}, {"mod/.", reason.UnsafePath},
		{"mod/a\x00b", reason.UnsafePath}, {"mod/a\nb", reason.UnsafePath}, {"mod/a\x7f", reason.UnsafePath}, {"mod/a\u200bb", reason.UnsafePath},
		{"mod/\u202etxt.exe", reason.UnsafePath}, {"mod/a\u00a0b", reason.UnsafePath}, {"mod/\u3164", reason.UnsafePath}, {"mod/\xff\xfe", reason.UnsafePath},
		{"mod/a\ufe0f", reason.UnsafePath}, {"mod/" + strings.Repeat("n", 256), reason.UnsafePath}, {strings.Repeat("d/", 101) + "x", reason.LimitExceeded},
		{strings.Repeat(strings.Repeat("p", 200)+"/", 21) + "x", reason.LimitExceeded}, {"/", reason.UnsafePath},
	} {
		all = append(all, hostile{fmt.Sprintf("the name %.40q", c.name), maker{parts: append(plain(part{}).parts, part{name: c.name})}, c.code})
	}
	return all
}

// documents are manifests that are not what their schema says.
func documents() []hostile {
	file2 := func(keys string) string {
		return `{"schema": 2, "region": "r", "build": 1, "newfiles": [{"name": "a", "path": "/"` + keys + `}]}`
	}
	sum, right := strings.Repeat("0", 64), fmt.Sprintf("%x", sha256.Sum256([]byte("payload")))
	var all []hostile
	for text, code := range map[string]reason.Code{
		``: reason.ManifestInvalid, `[]`: reason.ManifestInvalid, `"x"`: reason.ManifestInvalid, `{"region": "r", "build": "1"} x`: reason.ManifestInvalid,
		`{"region": "r", "build": "1"}{}`: reason.ManifestInvalid, `{"region": "r", "build": "1",}`: reason.ManifestInvalid, `{`: reason.ManifestInvalid,
		`{"region": "r", "build": "1", "build": "2"}`: reason.ManifestInvalid, `{"region": "r", "build": "1", "Build": "2"}`: reason.ManifestInvalid,
		`{"region": "r", "build": "1", "NewFiles": []}`: reason.ManifestInvalid, `{"region": "r", "build": "1", "delfiles": [{"name": "a", "Path": "", "path": ""}]}`: reason.ManifestInvalid,
		`{"Region": "r", "build": "1"}`: reason.ManifestInvalid, `{"build": "1"}`: reason.ManifestInvalid, `{"region": "r"}`: reason.ManifestInvalid,
		`{"region": 1, "build": "1"}`: reason.ManifestInvalid, `{"region": "r", "build": "x"}`: reason.ManifestInvalid, `{"region": "r", "build": ""}`: reason.ManifestInvalid,
		`{"region": "r", "build": -1}`: reason.ManifestInvalid, `{"region": "r", "build": 1.5}`: reason.ManifestInvalid, `{"region": "r", "build": 1e3}`: reason.ManifestInvalid,
		`{"region": "r", "build": " 1"}`: reason.ManifestInvalid, `{"region": "r", "build": "+1"}`: reason.ManifestInvalid, `{"region": "r", "build": null}`: reason.ManifestInvalid,
		`{"region": "r", "build": 99999999999999999999}`: reason.ManifestInvalid, `{"region": "r", "build": "1", "justres": "true"}`: reason.ManifestInvalid,
		`{"region": "r", "build": "1", "justres": null}`: reason.ManifestInvalid, `{"region": "r", "build": "1", "newfiles": {}}`: reason.ManifestInvalid,
		`{"region": "r", "build": "1", "newfiles": ["a"]}`: reason.ManifestInvalid, `{"region": "r", "build": "1", "delfiles": [{"path": "/"}]}`: reason.ManifestInvalid,
		`{"region": "r", "build": "1", "delfiles": [{"name": "a"}]}`: reason.ManifestInvalid, `{"region": "r", "build": "1", "delfiles": [{"name": "", "path": "/x"}]}`: reason.ManifestInvalid,
		`{"region": "r", "build": "1", "delfiles": [{"name": "/", "path": "/x"}]}`: reason.ManifestInvalid, `{"schema": 3, "region": "r", "build": 1}`: reason.ManifestInvalid,
		`{"schema": 0, "region": "r", "build": 1}`: reason.ManifestInvalid, `{"schema": "2", "region": "r", "build": 1}`: reason.ManifestInvalid,
		`{"schema": 2, "region": "r", "build": "1"}`: reason.ManifestInvalid, `{"schema": 2, "region": "r", "build": 1, "extra": 1}`: reason.ManifestInvalid,
		`{"schema": 2, "region": "r", "build": 1, "expires": "tomorrow"}`: reason.ManifestInvalid, `{"schema": 2, "region": "r", "build": 1, "requires": "1"}`: reason.ManifestInvalid,
		`{"region": "r", "build": "1", "x": ` + strings.Repeat("[", 20) + strings.Repeat("]", 20) + `}`: reason.ManifestInvalid,
		"{\"region\": \"\xff\", \"build\": \"1\"}":                                                      reason.ManifestInvalid,

		`{"region": "r", "build": "1", "delfiles": [{"name": "a", "path": "/"}, {"name": "/a", "path": ""}]}`:                                           reason.ManifestInvalid,
		`{"region": "r", "build": "1", "delfiles": [{"name": "a", "path": "/"}, {"name": "b", "path": "a"}]}`:                                           reason.ManifestInvalid,
		`{"region": "r", "build": "1", "newfiles": [{"name": "a", "path": "/"}], "modfiles": [{"name": "a", "path": "/"}]}`:                             reason.ManifestInvalid,
		`{"region": "r", "build": "1", "newfiles": [{"name": "a", "path": "/"}], "delfiles": [{"name": "a", "path": "/"}, {"name": "a", "path": "/"}]}`: reason.ManifestInvalid,
		`{"region": "r", "build": "1", "delfiles": [{"name": "..", "path": "/"}]}`:                                                                      reason.UnsafePath,
		`{"region": "r", "build": "1", "delfiles": [{"name": "x", "path": "a/../.."}]}`:                                                                 reason.UnsafePath,
		`{"region": "r", "build": "1", "newfiles": [{"name": "missing", "path": "/"}]}`:                                                                 reason.PayloadMissing,
		file2(``): reason.ManifestInvalid, file2(`, "size": 7`): reason.ManifestInvalid, file2(`, "size": 7, "sha256": "x"`): reason.ManifestInvalid,
		file2(`, "size": 7, "sha256": "` + sum + `", "mode": "9"`): reason.ManifestInvalid, file2(`, "size": 7, "sha256": "` + sum + `", "mode": "4755"`): reason.ManifestInvalid,
		file2(`, "size": 7, "sha256": "` + sum + `", "why": ""`): reason.ManifestInvalid, file2(`, "size": 8, "sha256": "` + sum + `"`): reason.PayloadMismatch,
		file2(`, "size": 7, "sha256": "` + sum + `"`): reason.PayloadMismatch, file2(`, "size": 7, "sha256": "` + sum + `", "source": "../a"`): reason.UnsafePath,
		file2(`, "size": 8, "sha256": "` + right + `"`): reason.PayloadMismatch, file2(`, "size": "7", "sha256": "` + right + `"`): reason.ManifestInvalid,
		file2(`, "size": 7, "sha256": "` + right + `", "mode": 420`): reason.ManifestInvalid, file2(`, "size": 7, "sha256": "` + right + `", "was": ""`): reason.ManifestInvalid,
		file2(`, "size": 7, "sha256": "` + sum + `"}, {"name": "a", "path": "/b", "size": 7, "sha256": "` + right + `"`): reason.PayloadMismatch,
		`{"schema": 2, "region": "r", "build": 1, "product": 1}`:                                                         reason.ManifestInvalid, `{"schema": 2, "region": "r", "build": 1, "expires": 2030}`: reason.ManifestInvalid,
		`{"schema": 2, "region": "r", "build": 1, "description": null}`: reason.ManifestInvalid, `{"schema": 2, "region": "r", "build": 1, "requires": -1}`: reason.ManifestInvalid,
		`{"schema": 2, "region": "r", "build": 1}`: reason.PayloadMismatch, // new/a is not listed
	} {
		all = append(all, hostile{"the manifest " + text, doc(text, "new/a"), code})
	}
	nested := doc(plainDoc, "mod/a")
	nested.parts = append(nested.parts, part{name: "patch/manifest.json", data: plainDoc})
	return append(all,
		hostile{"no manifest", maker{parts: []part{{name: "mod/a"}}}, reason.ManifestMissing},
		hostile{"an empty zip", maker{}, reason.ManifestMissing},
		hostile{"a manifest that is a folder", maker{parts: []part{{name: "manifest.json/"}}}, reason.ManifestMissing},
		hostile{"two manifests", nested, reason.ManifestInvalid},
		hostile{"payload that is a folder", maker{parts: []part{{name: "manifest.json", data: plainDoc}, {name: "mod/a/"}}}, reason.PayloadMissing})
}

func TestHostile(t *testing.T) {
	limits := Limits{MaxUnpacked: 4096, MaxFiles: 10, MaxRatio: 100}
	all := slices.Concat(containers(), sizes(), contents(), names(), documents())
	t.Logf("%d packages", len(all))
	for _, c := range all {
		t.Run(c.name, func(t *testing.T) {
			data := c.m.bytes()
			_, _, err := openAll(data, limits)
			wantCode(t, err, c.code)
			if err != nil && strings.ContainsAny(err.Error(), "\n\r") {
				t.Errorf("the sentence has line breaks: %q", err)
			}
			// Nothing of this can become good by further writing, so it is claimed and refused.
			if shape, why := Examine(bytes.NewReader(data), int64(len(data)), limits); shape < Whole {
				t.Errorf("it looks %s: %v", shape, why)
			}
		})
	}
	if len(all) < 170 {
		t.Errorf("%d packages, there were 176", len(all))
	}
}

func TestLimits(t *testing.T) {
	many := maker{}
	for i := range 11 {
		many.parts = append(many.parts, part{name: fmt.Sprintf("new/%d", i)})
	}
	zeros := strings.Repeat("\x00", 200_000)
	for _, c := range []struct {
		name   string
		m      maker
		limits Limits
	}{
		{"too many entries", many, Limits{MaxFiles: 10}},
		{"too large", plain(part{data: "x"}), Limits{MaxSize: 100}},
		{"too large unpacked", plain(part{data: zeros}), Limits{MaxUnpacked: 100_000}},
		{"too tightly packed", plain(part{data: zeros, method: methodDeflate}), Limits{MaxRatio: 50}},
		{"a manifest that is too large", maker{parts: []part{{name: "manifest.json", method: methodDeflate, data: strings.Repeat(" ", maxManifest+1)}}}, Limits{MaxRatio: 1 << 20}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, _, err := openAll(c.m.bytes(), c.limits)
			wantCode(t, err, reason.LimitExceeded)
		})
	}
}

// Every beginning of a good package is incomplete, and never accepted: with the
// rest missing, and with the rest not written yet.
func TestEveryBeginning(t *testing.T) {
	data := plain(part{data: "some content", method: methodDeflate}).bytes()
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
