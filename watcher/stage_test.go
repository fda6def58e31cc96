//go:build linux

package watcher

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"patchagent/manifest"
	"patchagent/manifest/reason"
)

// stage is a patch folder with a clock that stands still until it is told to go on.
type stage struct {
	t    *testing.T
	dir  string
	opts Options
	now  time.Time
	*Folder
}

const patience = 30 * time.Second

func newStage(t *testing.T, change ...func(*Options)) *stage {
	t.Helper()
	s := &stage{t: t, dir: t.TempDir(), now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	var limits manifest.Limits
	s.opts = Options{
		Dir: s.dir, Claims: filepath.Join(t.TempDir(), "state", "claims"), Patience: patience, MaxSize: 1 << 20, NeedChecksum: true,
		Examine: func(r io.ReaderAt, size int64) (Shape, error) {
			shape, err := manifest.Examine(r, size, limits)
			return Shape(shape), err
		},
		Verify: func(ctx context.Context, r io.ReaderAt, size int64, _ Sidecars) error {
			pkg, err := manifest.Open(r, size, limits)
			if err != nil {
				return err
			}
			return pkg.Verify(ctx)
		},
		Vouched: func(name string, s Sidecars) (bool, bool) {
			found, err := manifest.Sidecars(s).Check(name, manifest.Sums{})
			return found, errors.Is(err, manifest.ErrSidecarUnfinished)
		},
		Signed: func(minisig []byte) bool { return len(minisig) > 0 },
		Now:    func() time.Time { return s.now },
	}
	for _, c := range change {
		c(&s.opts)
	}
	s.Folder = NewFolder(s.opts)
	return s
}

// restart is what a new process knows: only what is on the disk.
func (s *stage) restart() []*Claim {
	s.t.Helper()
	s.Folder = NewFolder(s.opts)
	claims, err := s.Resume()
	s.must(err)
	return claims
}

func (s *stage) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *stage) path(name string) string { return filepath.Join(s.dir, name) }

// put has content appear at once, as rename does.
func (s *stage) put(name string, content []byte) {
	s.t.Helper()
	s.must(os.WriteFile(s.path(".arriving.tmp"), content, 0o644))
	s.must(os.Rename(s.path(".arriving.tmp"), s.path(name)))
}

// drop puts a zip and its checksum.
func (s *stage) drop(name string, content []byte) {
	s.t.Helper()
	s.put(name+".sha256", sumLine(name, content))
	s.put(name, content)
}

func (s *stage) scan() Found {
	s.t.Helper()
	found, err := s.Scan(s.t.Context())
	s.must(err)
	return found
}

// waits wants nothing taken, and a word why.
func (s *stage) waits(what string) Found {
	s.t.Helper()
	found := s.scan()
	if len(found.Claims) > 0 {
		s.t.Fatalf("%s: taken early: %+v", what, found.Claims[0])
	}
	if len(found.Waiting) == 0 || found.Waiting[0].Why == "" {
		s.t.Fatalf("%s: nothing waits: %+v", what, found)
	}
	if found.Again <= 0 || found.Again > s.opts.Patience {
		s.t.Fatalf("%s: it asks to be called again after %v", what, found.Again)
	}
	return found
}

// nothing wants a scan that finds nothing to do.
func (s *stage) nothing(what string) {
	s.t.Helper()
	if found := s.scan(); len(found.Claims)+len(found.Waiting)+len(found.Gone)+len(found.Held) > 0 || found.Again != 0 {
		s.t.Fatalf("%s: found %+v", what, found)
	}
}

// takes wants one claim, whose copy is whole and has the right sums.
func (s *stage) takes(what string, content []byte) *Claim {
	s.t.Helper()
	found := s.scan()
	if len(found.Claims) != 1 || found.Claims[0].Reject != nil {
		s.t.Fatalf("%s: not taken: %+v", what, found)
	}
	s.holds(found.Claims[0], content)
	return found.Claims[0]
}

func (s *stage) holds(c *Claim, content []byte) {
	s.t.Helper()
	file, err := c.Open()
	s.must(err)
	defer file.Close()
	got, err := io.ReadAll(file)
	s.must(err)
	if !bytes.Equal(got, content) || c.SHA256 != sha256.Sum256(content) || c.CRC32 != crc32.ChecksumIEEE(content) || c.Size != int64(len(content)) {
		s.t.Fatalf("the claim of %s holds %d bytes (its size: %d), want %d, or its sums are wrong", c.Name, len(got), c.Size, len(content))
	}
}

// givesUp wants the drop to be waited for till patience is over, and then refused.
func (s *stage) givesUp(what string, code reason.Code) *Claim {
	s.t.Helper()
	s.waits(what)
	s.now = s.now.Add(patience - time.Nanosecond)
	if found := s.waits(what + ", just before patience is over"); found.Again > time.Millisecond {
		s.t.Fatalf("%s: it asks for the last look %v too late", what, found.Again)
	}
	s.now = s.now.Add(time.Nanosecond)
	found := s.scan()
	if len(found.Claims) != 1 || found.Claims[0].Reject == nil || found.Claims[0].Reject.Code != code {
		s.t.Fatalf("%s: after patience: %+v, want %s", what, found, code)
	}
	s.nothing(what + ", once it is given up")
	return found.Claims[0]
}

func (s *stage) place(c *Claim, to Destination) string {
	s.t.Helper()
	path, err := s.Place(c, to)
	s.must(err)
	rel, err := filepath.Rel(s.dir, path)
	s.must(err)
	return filepath.ToSlash(rel)
}

// putAway places and releases.
func (s *stage) putAway(c *Claim, to Destination) string {
	s.t.Helper()
	rel := s.place(c, to)
	s.must(s.Release(c))
	return rel
}

// tree is every file below the patch folder, with its content.
func (s *stage) tree() map[string]string {
	s.t.Helper()
	files := map[string]string{}
	s.must(filepath.WalkDir(s.dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		rel, err := filepath.Rel(s.dir, path)
		if err != nil {
			return err
		}
		content, err := os.ReadFile(path)
		files[filepath.ToSlash(rel)] = string(content)
		return err
	}))
	return files
}

// left are the claims on the disk.
func (s *stage) left() []string {
	entries, err := os.ReadDir(s.opts.Claims)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		s.t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

var (
	applied  = Destination{Applied: true, Build: 300}
	rejected = Destination{Code: reason.WrongRegion, Sentence: "It is for India.", Advice: "Send it there."}
)

// schema1 is a package; text makes it differ from others.
func schema1(text string) []byte {
	return zipOf(
		"manifest.json", `{"justres":true,"region":"r","build":"300","newfiles":[{"name":"a.txt","path":"/"}]}`,
		"new/a.txt", text+strings.Repeat("0123456789abcdef", 600))
}

// schema2 is a package that vouches for itself.
func schema2(text string) []byte {
	return zipOf(
		"manifest.json", fmt.Sprintf(`{"schema":2,"region":"r","build":300,"newfiles":[{"name":"a.txt","path":"/","sha256":"%x","size":%d}]}`,
			sha256.Sum256([]byte(text)), len(text)),
		"new/a.txt", text)
}

// zipOf is a zip of stored files: names and contents in turn.
func zipOf(files ...string) []byte {
	var out bytes.Buffer
	w := zip.NewWriter(&out)
	for pair := range slices.Chunk(files, 2) {
		f, err := w.CreateRaw(&zip.FileHeader{
			Name: pair[0], CRC32: crc32.ChecksumIEEE([]byte(pair[1])),
			CompressedSize64: uint64(len(pair[1])), UncompressedSize64: uint64(len(pair[1])),
		})
		if err == nil {
			_, err = io.WriteString(f, pair[1])
		}
		if err != nil {
			panic(err)
		}
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return out.Bytes()
}

func sumLine(name string, content []byte) []byte {
	return fmt.Appendf(nil, "%x  %s\n", sha256.Sum256(content), name)
}
