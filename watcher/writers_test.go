//go:build linux

package watcher

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"patchagent/manifest/reason"
)

// open opens a file of the folder for writing.
func (s *stage) open(name string, flags int) *os.File {
	s.t.Helper()
	f, err := os.OpenFile(s.path(name), os.O_WRONLY|flags, 0o644)
	s.must(err)
	s.t.Cleanup(func() { _ = f.Close() })
	return f
}

func (s *stage) write(f *os.File, content []byte, at int) {
	s.t.Helper()
	_, err := f.WriteAt(content, int64(at))
	s.must(err)
}

// The seven kinds of writer. Each looks at the folder after every step it makes.
var writers = map[string]func(s *stage, name string, content []byte){
	"a plain copy": func(s *stage, name string, content []byte) {
		f := s.open(name, os.O_CREATE)
		s.waits("created")
		for at := 0; at < len(content); at += 1000 {
			s.write(f, content[at:min(at+1000, len(content))], at)
			s.waits(fmt.Sprint("written from ", at))
		}
		s.must(f.Close())
	},
	"a rename into place": func(s *stage, name string, content []byte) {
		s.must(os.WriteFile(s.path(name+".part"), content, 0o644))
		s.nothing("while it has another name")
		s.must(os.Rename(s.path(name+".part"), s.path(name)))
	},
	"a stall with the file open": func(s *stage, name string, content []byte) {
		f := s.open(name, os.O_CREATE)
		s.write(f, content[:len(content)/2], 0)
		for range 5 {
			s.waits("stalled half way")
			s.now = s.now.Add(patience)
		}
		s.write(f, content[len(content)/2:], len(content)/2)
		for range 5 {
			s.waits("stalled at the end")
			s.now = s.now.Add(patience)
		}
		s.must(f.Close())
	},
	"room made first, then a stall": func(s *stage, name string, content []byte) {
		f := s.open(name, os.O_CREATE)
		s.must(f.Truncate(int64(len(content))))
		s.waits("all zeros, open")
		s.must(f.Close())
		s.waits("all zeros, closed")
		f = s.open(name, 0)
		s.write(f, content[:len(content)/2], 0)
		s.waits("half of it, open")
		s.must(f.Close())
		s.now = s.now.Add(patience - 1)
		s.waits("half of it, closed")
		f = s.open(name, 0)
		s.write(f, content, 0)
		s.waits("all of it, open")
		s.must(f.Close())
	},
	"the tail first": func(s *stage, name string, content []byte) {
		f := s.open(name, os.O_CREATE)
		for at := len(content); at > 0; at -= 1000 {
			from := max(at-1000, 0)
			s.write(f, content[from:at], from)
			s.waits(fmt.Sprint("written down to ", from))
			s.must(f.Close())
			if from > 0 {
				s.waits(fmt.Sprint("written down to ", from, " and closed"))
			}
			f = s.open(name, 0)
		}
		s.must(f.Close())
	},
	"closing and opening again five times": func(s *stage, name string, content []byte) {
		for i := range 5 {
			if i > 0 {
				s.waits(fmt.Sprint("closed after part ", i))
			}
			f := s.open(name, os.O_CREATE)
			from, to := len(content)*i/5, len(content)*(i+1)/5
			s.write(f, content[from:to], from)
			s.waits(fmt.Sprint("open with part ", i))
			s.must(f.Close())
		}
	},
	"a client that died, and comes back": func(s *stage, name string, content []byte) {
		s.must(os.WriteFile(s.path(name), content[:len(content)*6/10], 0o644))
		s.waits("60 %")
		s.now = s.now.Add(patience - 1)
		s.waits("still 60 %")
		s.must(os.WriteFile(s.path(name), content, 0o644))
	},
}

// TestWriters looks on while each kind of writer works, once with the checksum
// first and once with it last. In the end the drop is taken, once.
func TestWriters(t *testing.T) {
	content := schema1("seven writers")
	for what, write := range writers {
		t.Run(what, func(t *testing.T) {
			s := newStage(t)
			s.put("a.zip.sha256", sumLine("a.zip", content))
			write(s, "a.zip", content)
			s.takes("all is there", content)
			s.nothing("once it is taken")
		})
		t.Run(what+", its checksum last", func(t *testing.T) {
			s := newStage(t)
			write(s, "a.zip", content)
			s.waits("without its checksum")
			s.put("a.zip.sha256", sumLine("a.zip", content))
			s.takes("with its checksum", content)
		})
		t.Run(what+", and no checksum comes", func(t *testing.T) {
			s := newStage(t)
			write(s, "a.zip", content)
			s.givesUp("without its checksum", reason.ChecksumMissing)
		})
		t.Run(what+", over an older drop that waits for its turn", func(t *testing.T) {
			s := newStage(t, func(o *Options) { o.NeedChecksum = false })
			older := schema1("older")
			s.put("a.zip", older)
			first := s.takes("the older one", older)
			if what != "a rename into place" {
				s.must(os.Truncate(s.path("a.zip"), 0))
			}
			write(s, "a.zip", content)
			second := s.takes("the newer one", content)
			s.holds(first, older)
			s.putAway(first, applied)
			s.putAway(second, applied)
			if got := s.tree(); len(got) != 2 || got["applied/300_a.zip"] != string(older) || got["applied/300_a-2.zip"] != string(content) {
				t.Errorf("put away: %v", slices.Sorted(maps.Keys(got)))
			}
		})
	}
}

// TestUnfinished is about drops that never become whole.
func TestUnfinished(t *testing.T) {
	whole := schema1("unfinished")
	for what, tc := range map[string]struct {
		content []byte
		code    reason.Code
	}{
		"a client that died at 60 %": {whole[:len(whole)*6/10], reason.Incomplete},
		"only the first byte":        {whole[:1], reason.Incomplete},
		"all but the last byte":      {whole[:len(whole)-1], reason.Incomplete},
		"the head missing":           {append(make([]byte, 100), whole[100:]...), reason.NotAZip},
		"only zeros":                 {make([]byte, len(whole)), reason.NotAZip},
		"nothing at all":             {nil, reason.NotAZip},
		"a text":                     {[]byte("hello, world\n"), reason.NotAZip},
	} {
		t.Run(what, func(t *testing.T) {
			s := newStage(t)
			s.drop("a.zip", tc.content)
			s.givesUp(what, tc.code)
		})
	}
}

// TestPatience begins anew with every change.
func TestPatience(t *testing.T) {
	s := newStage(t)
	content := schema1("patience")
	for n := 100; n < 600; n += 100 {
		s.must(os.WriteFile(s.path("a.zip"), content[:n], 0o644))
		s.waits("grown")
		s.now = s.now.Add(patience - 1)
		s.waits("before patience is over")
	}
	s.put("a.zip.sha256", []byte("half a che"))
	s.waits("a sidecar has come")
	s.now = s.now.Add(patience - 1)
	s.waits("before patience is over for the sidecar")
	s.now = s.now.Add(1)
	if found := s.scan(); len(found.Claims) != 1 || found.Claims[0].Reject == nil || found.Claims[0].Reject.Code != reason.Incomplete {
		t.Errorf("after patience: %+v", found)
	}
}

// TestZipInTheFolder looks on while zip(1) makes its file in the patch folder.
func TestZipInTheFolder(t *testing.T) {
	program, err := exec.LookPath("zip")
	if err != nil {
		t.Skip("there is no zip here")
	}
	s := newStage(t, func(o *Options) { o.NeedChecksum, o.MaxSize = false, 0 })
	source := t.TempDir()
	s.must(os.MkdirAll(source+"/patch/new", 0o755))
	s.must(os.WriteFile(source+"/patch/manifest.json", []byte(`{"region":"r","build":"1","newfiles":[{"name":"a","path":"/"}]}`), 0o644))
	s.must(os.WriteFile(source+"/patch/new/a", []byte(strings.Repeat("a line of text\n", 1<<17)), 0o644))
	cmd := exec.CommandContext(t.Context(), program, "-qr", s.path("a.zip"), "patch")
	cmd.Dir = source
	done := make(chan error, 1)
	go func() { done <- cmd.Run() }()
	var claims []*Claim
	for running := true; running; {
		select {
		case err := <-done:
			s.must(err)
			running = false
		default:
		}
		claims = append(claims, s.scan().Claims...)
	}
	if len(claims) != 1 || claims[0].Reject != nil {
		t.Fatalf("claimed: %+v", claims)
	}
	content, err := os.ReadFile(s.path("a.zip"))
	s.must(err)
	s.holds(claims[0], content)
}

// TestLinkAndUnlink is how OpenSSH's server renames; a second name that stays is refused.
func TestLinkAndUnlink(t *testing.T) {
	content := schema1("linked")
	s := newStage(t)
	s.put("a.zip.sha256", sumLine("a.zip", content))
	upload := filepath.Join(t.TempDir(), "upload")
	s.must(os.WriteFile(upload, content, 0o644))
	s.must(os.Link(upload, s.path("a.zip")))
	if found := s.waits("it has two names"); found.Again > time.Second {
		t.Errorf("no event tells of a name that goes in another folder, and it asks for a look only after %v", found.Again)
	}
	s.must(os.Remove(upload))
	s.takes("it has one name", content)

	s.drop("b.zip", content)
	s.must(os.Link(s.path("b.zip"), s.path("other")))
	c := s.givesUp("a second name that stays", reason.Incomplete)
	if want := "hard link"; !strings.Contains(c.Reject.Detail, want) {
		t.Errorf("detail %q does not say %q", c.Reject.Detail, want)
	}
}

// TestGiant is a file that is larger than allowed, and nearly all hole.
func TestGiant(t *testing.T) {
	s := newStage(t)
	f := s.open("a.zip", os.O_CREATE)
	s.must(f.Truncate(1 << 40))
	for range 3 {
		s.now = s.now.Add(time.Hour)
		s.waits("open")
	}
	s.must(f.Close())
	s.givesUp("a sparse giant", reason.LimitExceeded)
	if left := s.left(); len(left) != 1 {
		t.Errorf("claims on the disk: %v", left)
	}
}
