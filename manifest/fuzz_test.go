package manifest

import (
	"archive/zip"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"patchagent/manifest/hostile"
	"path"
	"path/filepath"
	"strings"
	"testing"
)

// What is accepted, another reader of zips reads too, with the same names and
// the same bytes.
func FuzzOpen(f *testing.F) {
	f.Add(hostile.Doc(crlfDoc, payloads()...).Bytes())
	f.Add(with(hostile.Doc(crlfDoc, payloads()...), func(p *hostile.Part) { p.Desc = 16; p.Method = methodDeflate }).Bytes())
	for _, c := range hostile.All() {
		f.Add(c.Zip.Bytes())
	}
	limits := Limits{MaxSize: 1 << 20, MaxUnpacked: 1 << 20, MaxFiles: 100}
	f.Fuzz(func(t *testing.T, data []byte) {
		p, _, err := openAll(data, limits)
		if err != nil {
			return
		}
		z, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			t.Fatalf("archive/zip: %v", err)
		}
		if len(z.File) != len(p.entries) {
			t.Fatalf("archive/zip sees %d entries, we %d", len(z.File), len(p.entries))
		}
		for i, other := range z.File {
			e := p.entries[i]
			if strings.TrimSuffix(other.Name, "/") != e.name || other.UncompressedSize64 != uint64(e.size) {
				t.Fatalf("archive/zip sees %q, we %q", other.Name, e.name)
			}
			if e.dir || e.method == methodZstd {
				continue
			}
			r, err := other.Open()
			if err != nil {
				t.Fatal(err)
			}
			theirs, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			if ours, err := p.readAll(e); err != nil || !bytes.Equal(ours, theirs) {
				t.Fatalf("%s: other bytes (%v)", e.name, err)
			}
		}
	})
}

// The places of an accepted manifest are plain paths below the root, and no place
// is named twice but to be deleted and new.
func FuzzDocument(f *testing.F) {
	f.Add([]byte(crlfDoc))
	for _, c := range hostile.Documents() {
		if len(c.Zip.Parts) > 0 {
			f.Add([]byte(c.Zip.Parts[0].Data))
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		m, items, err := parseDocument(data, 1000, new(notes))
		if err != nil {
			return
		}
		if m.Build < 0 || m.Schema < 1 || m.Schema > newestSchema {
			t.Fatalf("%+v", m)
		}
		seen := map[string]Op{}
		for _, it := range items {
			if !fs.ValidPath(it.Path) || !filepath.IsLocal(it.Path) || it.Path == "." {
				t.Fatalf("the place %q", it.Path)
			}
			if first, twice := seen[it.Path]; twice && (first != Delete || it.Op != New) {
				t.Fatalf("%q twice", it.Path)
			}
			seen[it.Path] = it.Op
		}
		for place := range seen {
			for up := path.Dir(place); up != "."; up = path.Dir(up) {
				if _, both := seen[up]; both {
					t.Fatalf("%q is a place, and the folder of %q", up, place)
				}
			}
		}
	})
}

// sumLine is what sha256sum writes for a file of that name.
func sumLine(sum [sha256.Size]byte, mark, name string) []byte {
	escaped := strings.NewReplacer(`\`, `\\`, "\n", `\n`, "\r", `\r`).Replace(name)
	line := fmt.Appendf(nil, "%x %s%s\n", sum, mark, escaped)
	if escaped != name {
		line = append([]byte(`\`), line...)
	}
	return line
}

// A checksum line that is made for a file is found and matches, and one that is
// changed in a digit does not, whatever the file is called.
func FuzzSidecar(f *testing.F) {
	f.Add("a.zip", []byte("content"), uint8(3))
	f.Add(" odd *name.zip", []byte{}, uint8(63))
	f.Add("*star.zip", []byte("x"), uint8(0))
	f.Add("new\nline\\n.zip", []byte("x"), uint8(0))
	f.Fuzz(func(t *testing.T, name string, content []byte, at uint8) {
		got, err := Sum(bytes.NewReader(content))
		if err != nil {
			t.Fatal(err)
		}
		line := fmt.Sprintf("%x  x.zip\n", got.SHA256)
		if found, err := (Sidecars{SHA256: []byte(line)}).Check(name, got); !found || err != nil {
			t.Fatalf("%v, %v", found, err)
		}
		changed := []byte(line)
		i := int(at) % 64
		changed[i] = map[bool]byte{true: '1', false: '0'}[changed[i] == '0']
		if _, err := (Sidecars{SHA256: changed}).Check(name, got); err == nil {
			t.Fatalf("%q is taken for %q", changed, line)
		}
		// In a list it is found by the name; one that begins with a blank is not.
		if plain := strings.TrimLeft(name, " \t"); plain == name && name != "" && !strings.HasPrefix(name, "./") {
			for _, mark := range []string{" ", "*"} {
				if found, err := (Sidecars{List: sumLine(got.SHA256, mark, name)}).Check(name, got); !found || err != nil {
					t.Fatalf("%q: %v, %v", name, found, err)
				}
				if found, err := (Sidecars{List: sumLine(got.SHA256, mark, name+"x")}).Check(name, got); found || err != nil {
					t.Fatalf("%q with the line of another file: %v, %v", name, found, err)
				}
			}
		}
		// Whatever is in a list, it does no harm.
		_, _ = Sidecars{List: content, Checksums: content, SHA256: content, CRC32: content}.Check(name, got)
	})
}
