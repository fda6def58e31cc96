package manifest

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"patchagent/manifest/hostile"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const crlfDoc = "{\r\n\t\"justres\": true,\r\n\t\"region\": \"r\", \"build\": \"00300\",\r\n" +
	"\t\"newfiles\": [{\"name\": \"abc.py\", \"path\": \"/work/api/\"}, {\"name\": \"sub/deep.txt\", \"path\": \"/\"}],\r\n" +
	"\t\"modfiles\": [{\"name\": \"abc.txt\", \"path\": \"work\"}, {\"name\": \"abc.txt\", \"path\": \"/other//place\"}],\r\n" +
	"\t\"delfiles\": [{\"name\": \"lib.txt\", \"path\": \"/work/libs/\"}, {\"name\": \"abc.py\", \"path\": \"work/api\"}]\r\n}\r\n"

var crlfItems = map[string]string{
	"delete work/libs/lib.txt": "", "delete work/api/abc.py": "", "modify work/abc.txt": "payload", "modify other/place/abc.txt": "payload",
	"new work/api/abc.py": "payload", "new sub/deep.txt": "payload",
}

// under puts everything into one folder.
func under(dir string, m hostile.Zip) hostile.Zip {
	for i := range m.Parts {
		m.Parts[i].Name = dir + m.Parts[i].Name
	}
	return m
}

func payloads() []string { return []string{"new/abc.py", "new/sub/deep.txt", "mod/abc.txt"} }

// with sets all entries but the first to be written in another way.
func with(m hostile.Zip, change func(p *hostile.Part)) hostile.Zip {
	for i := range m.Parts {
		change(&m.Parts[i])
	}
	return m
}

func TestGoodContainers(t *testing.T) {
	for name, m := range map[string]hostile.Zip{
		"plain":                  hostile.Doc(crlfDoc, payloads()...),
		"in a folder":            under("patch/", hostile.Doc(crlfDoc, payloads()...)),
		"with a BOM":             hostile.Doc("\ufeff"+crlfDoc, payloads()...),
		"with folders":           {Parts: append([]hostile.Part{{Name: "new/"}, {Name: "new/sub/", Mode: 0o040755}, {Name: "del/"}}, hostile.Doc(crlfDoc, payloads()...).Parts...)},
		"with folders, packed":   {Parts: append([]hostile.Part{{Name: "new/", Method: methodDeflate}, {Name: "del/", Method: methodDeflate, Desc: 16}}, hostile.Doc(crlfDoc, payloads()...).Parts...)},
		"with a comment":         {Parts: hostile.Doc(crlfDoc, payloads()...).Parts, Comment: "made by hand"},
		"with zip64 records":     {Parts: hostile.Doc(crlfDoc, payloads()...).Parts, Zip64: true},
		"deflated":               with(hostile.Doc(crlfDoc, payloads()...), func(p *hostile.Part) { p.Method = methodDeflate }),
		"zstd":                   with(hostile.Doc(crlfDoc, payloads()...), func(p *hostile.Part) { p.Method = methodZstd }),
		"descriptors, bare":      with(hostile.Doc(crlfDoc, payloads()...), func(p *hostile.Part) { p.Desc = 12 }),
		"descriptors, signed":    with(hostile.Doc(crlfDoc, payloads()...), func(p *hostile.Part) { p.Desc = 16 }),
		"descriptors, long":      with(hostile.Doc(crlfDoc, payloads()...), func(p *hostile.Part) { p.Desc = 20 }),
		"descriptors, long, sig": with(hostile.Doc(crlfDoc, payloads()...), func(p *hostile.Part) { p.Desc = 24 }),
		"UTF-8 flag":             with(hostile.Doc(crlfDoc, payloads()...), func(p *hostile.Part) { p.Flags = 1 << 11 }),
		"Unicode Path fields":    with(hostile.Doc(crlfDoc, payloads()...), func(p *hostile.Part) { p.Extra = hostile.UnicodePath(p.Name, p.Name) }),
		"made on Unix":           with(hostile.Doc(crlfDoc, payloads()...), func(p *hostile.Part) { p.Mode = 0o100644 }),
		"zip64 sizes": with(hostile.Doc(crlfDoc, payloads()...), func(p *hostile.Part) {
			p.Extra = make([]byte, 4+16)
			hostile.Put16(p.Extra, 0, extraZip64)
			hostile.Put16(p.Extra, 2, 16)
			hostile.Put64(p.Extra, 4, uint64(len(p.Data)))
			hostile.Put64(p.Extra, 12, uint64(len(hostile.Compress(p.Method, p.Data))))
			p.Central = func(h []byte) { hostile.Put32(h, 20, full32); hostile.Put32(h, 24, full32) }
		}),
	} {
		t.Run(name, func(t *testing.T) {
			data := m.Bytes()
			p, got, err := openAll(data, Limits{})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(crlfItems, got); diff != "" {
				t.Error(diff)
			}
			if m := p.Manifest; !m.Warm || m.Build != 300 || m.Region != "r" || m.Schema != 1 {
				t.Errorf("%+v", m)
			}
			if ops := p.Items(); ops[0].Op != Delete || ops[2].Op != Modify || ops[5].Op != New {
				t.Errorf("out of order: %v", ops)
			}
			if shape, err := Examine(bytes.NewReader(data), int64(len(data)), Limits{}); shape != Whole {
				t.Errorf("it looks %s: %v", shape, err)
			}
		})
	}
}

func TestModes(t *testing.T) {
	for _, c := range []struct{ unix, want uint32 }{{0, 0o644}, {0o100755, 0o755}, {0o104755, 0o755}, {0o600, 0o600}, {0o100000, 0o644}} {
		p, _, err := openAll(hostile.Plain(hostile.Part{Mode: c.unix}).Bytes(), Limits{})
		if err != nil {
			t.Fatal(err)
		}
		if got := uint32(p.Items()[0].ZipMode); got != c.want {
			t.Errorf("%o: %o, want %o", c.unix, got, c.want)
		}
		if dropped := strings.Contains(strings.Join(p.Notes, ""), "set-id"); dropped != (c.unix&0o7000 != 0) {
			t.Errorf("%o: notes %q", c.unix, p.Notes)
		}
	}
}

func TestUnlistedIsNoted(t *testing.T) {
	m := hostile.Doc(`{"region": "r", "build": 1, "author": "me"}`, "new/a", "readme.txt", "del/old")
	p, got, err := openAll(m.Bytes(), Limits{})
	if err != nil || len(got) != 0 {
		t.Fatal(got, err)
	}
	if len(p.Notes) != 3 {
		t.Errorf("notes: %q", p.Notes)
	}
}

func TestSchema2(t *testing.T) {
	sum := fmt.Sprintf("%x", sha256.Sum256([]byte("payload")))
	m := hostile.Doc(fmt.Sprintf(`{"schema": 2, "region": "r", "build": 300, "product": "shop", "requires": 200, "expires": "2030-01-31T00:00:00Z",
		"description": "words", "newfiles": [{"name": "tool", "path": "/bin", "sha256": %q, "size": 7, "mode": "0750", "source": "t/ool"}],
		"delfiles": [{"name": "x", "path": "", "was": %q}]}`, strings.ToUpper(sum), sum), "new/t/ool")
	data := m.Bytes()
	p, got, err := openAll(data, Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"new bin/tool": "payload", "delete x": ""}, got); diff != "" {
		t.Error(diff)
	}
	it := p.Items()[1]
	if !it.ModeSet || it.Mode != 0o750 || it.SHA256 != sum || p.Items()[0].Was != sum || *p.Manifest.Requires != 200 || p.Manifest.Expires.Year() != 2030 {
		t.Errorf("%+v, %+v", it, p.Manifest)
	}
	if shape, _ := Examine(bytes.NewReader(data), int64(len(data)), Limits{}); shape != WholeWithDigests {
		t.Errorf("it looks %s", shape)
	}
}

// What ordinary programs make is accepted.
func TestMadeByPrograms(t *testing.T) {
	const python = `import os, sys, zipfile
with zipfile.ZipFile(sys.argv[1], "w", zipfile.ZIP_DEFLATED) as z:
    for d, _, fs in os.walk("patch"):
        for f in fs: z.write(os.path.join(d, f))`
	for name, c := range map[string][]string{
		"zip":     {"zip", "-qr", "OUT", "patch"},
		"zip -X0": {"zip", "-qrX0", "OUT", "patch"},
		"zip fd":  {"sh", "-c", "zip -qr - patch | cat >OUT"},
		"python3": {"python3", "-c", python, "OUT"},
		"python3 with zip64": {"python3", "-c", strings.Replace(python, "ZIP_DEFLATED)", "ZIP_STORED)", 1) + `
    z.open(zipfile.ZipInfo("patch/wide"), "w", force_zip64=True).close()`, "OUT"},
		"python3 into a pipe": {"sh", "-c", "python3 -c '" + strings.Replace(python, "sys.argv[1]", "sys.stdout.buffer", 1) + "' | cat >OUT"},
		"zip with zip64":      {"zip", "-qr", "-fz", "OUT", "patch"},
		"jar":                 {"jar", "-c", "-M", "-f", "OUT", "patch"},
		"jar, stored":         {"jar", "-c", "-M", "-0", "-f", "OUT", "patch"},
		"jar with its own":    {"jar", "-c", "-f", "OUT", "patch"}, // META-INF/MANIFEST.MF is noted
		"7z":                  {"7zz", "a", "-bd", "-tzip", "OUT", "patch"},
		"7z, stored":          {"7zz", "a", "-bd", "-tzip", "-mx0", "OUT", "patch"},
		"7z, UTF-8":           {"7zz", "a", "-bd", "-tzip", "-mcu=on", "OUT", "patch"},
		"bsdtar":              {"bsdtar", "--format", "zip", "-cf", "OUT", "patch"},
		"bsdtar, stored":      {"bsdtar", "--format", "zip", "--options", "zip:compression=store", "-cf", "OUT", "patch"},
		"go":                  nil,
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for file, content := range map[string]string{"manifest.json": crlfDoc, "new/abc.py": "payload", "new/sub/deep.txt": "payload", "mod/abc.txt": "payload", "del/.keep": "", "mod/\u00fcnlisted": ""} {
				path := filepath.Join(dir, "patch", file)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(content), 0o640); err != nil {
					t.Fatal(err)
				}
			}
			data := pack(t, dir, c)
			_, got, err := openAll(data, Limits{})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(crlfItems, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// What they can make and is not read is refused with a sentence that says what it is.
func TestMadeByProgramsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		command []string
		says    string
	}{
		"bzip2":              {[]string{"zip", "-qr", "-Z", "bzip2", "OUT", "patch"}, "packed by method 12"},
		"LZMA":               {[]string{"7zz", "a", "-bd", "-tzip", "-mm=LZMA", "OUT", "patch"}, "packed by method 14"},
		"encrypted by zip":   {[]string{"zip", "-qr", "-P", "secret", "OUT", "patch"}, "is encrypted"},
		"encrypted by 7z":    {[]string{"7zz", "a", "-bd", "-tzip", "-psecret", "-mem=AES256", "OUT", "patch"}, "is encrypted"},
		"with a link":        {[]string{"sh", "-c", "ln -s /etc/passwd patch/new/link && zip -qry OUT patch"}, "is neither a file nor a folder"},
		"unpacking itself":   {[]string{"sh", "-c", "zip -qr p.zip patch && (echo '#!/bin/sh'; cat p.zip) >OUT"}, "does not end where the end record begins"},
		"bsdtar into a pipe": {[]string{"sh", "-c", "bsdtar --format zip -cf - patch | cat >OUT"}, "data after the end"}, // it fills up a block
		"with a tail":        {[]string{"sh", "-c", "zip -qr OUT patch && echo tail >>OUT"}, "data after the end"},
		"the same twice": {[]string{"python3", "-Wignore", "-c", `import sys, zipfile
with zipfile.ZipFile(sys.argv[1], "w") as z:
    for n in "patch/manifest.json", "patch/new/abc.py", "patch/new/abc.py": z.writestr(n, "{}")`, "OUT"}, "is in it twice"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for file, content := range map[string]string{"manifest.json": crlfDoc, "new/abc.py": strings.Repeat("payload", 100)} {
				path := filepath.Join(dir, "patch", file)
				if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o640)); err != nil {
					t.Fatal(err)
				}
			}
			_, _, err := openAll(pack(t, dir, c.command), Limits{})
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v, want %q", err, c.says)
			}
		})
	}
}

func pack(t *testing.T, dir string, command []string) []byte {
	t.Helper()
	out := filepath.Join(t.TempDir(), "out.zip")
	if command == nil {
		var buf bytes.Buffer
		w := zip.NewWriter(&buf)
		if err := w.AddFS(os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return buf.Bytes()
	}
	if _, err := exec.LookPath(command[0]); err != nil {
		t.Skip(command[0], "is not installed")
	}
	var args []string
	for _, a := range command {
		args = append(args, strings.ReplaceAll(a, "OUT", out))
	}
	cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "LC_ALL=C.UTF-8")
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	data, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestVerifyEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	data := hostile.Plain(hostile.Part{}).Bytes()
	p, err := Open(bytes.NewReader(data), int64(len(data)), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Verify(ctx); err != context.Canceled {
		t.Errorf("%v", err)
	}
}

// The corners of the first format: lists that are absent or empty, empty files, one
// payload for two places, names that are not ASCII, blanks in names.
func TestCornersOfSchema1(t *testing.T) {
	for name, c := range map[string]struct {
		text  string
		parts []hostile.Part
		want  map[string]string
		warm  bool
		build int64
		notes int
	}{
		"nothing to do":     {text: `{"region": "r", "build": "7"}`, want: map[string]string{}, build: 7},
		"empty lists":       {text: `{"region": "r", "build": 7, "justres": false, "newfiles": [], "modfiles": [], "delfiles": []}`, want: map[string]string{}, build: 7},
		"schema 1, said":    {text: `{"schema": 1, "region": "r", "build": "0"}`, want: map[string]string{}},
		"the largest build": {text: `{"region": "r", "build": "9223372036854775807", "justres": true}`, want: map[string]string{}, build: 1<<63 - 1, warm: true},
		"no region by name": {text: `{"region": "", "build": 1}`, want: map[string]string{}, build: 1},
		"an empty file":     {text: `{"region": "r", "build": 1, "newfiles": [{"name": "e", "path": "/"}]}`, parts: []hostile.Part{{Name: "new/e"}}, want: map[string]string{"new e": ""}, build: 1},
		"an empty file, deflated, streamed": {text: `{"region": "r", "build": 1, "newfiles": [{"name": "e", "path": "/"}]}`,
			parts: []hostile.Part{{Name: "new/e", Method: methodDeflate, Desc: 16}}, want: map[string]string{"new e": ""}, build: 1},
		"a name that is not ASCII": {text: `{"region": "r", "build": 1, "newfiles": [{"name": "\u00fcn\u4e16 \ud83d\ude00.txt", "path": "/d e/"}]}`,
			parts: []hostile.Part{{Name: "new/\u00fcn\u4e16 \U0001f600.txt", Data: "x"}}, want: map[string]string{"new d e/\u00fcn\u4e16 \U0001f600.txt": "x"}, build: 1},
		"one payload, two places, two ways": {text: `{"region": "r", "build": 1, "newfiles": [{"name": "a", "path": "x"}, {"name": "/a/", "path": "//y//./z/"}]}`,
			parts: []hostile.Part{{Name: "new/a", Data: "1"}}, want: map[string]string{"new x/a": "1", "new y/z/a": "1"}, build: 1},
		"the same name in mod and new": {text: `{"region": "r", "build": 1, "newfiles": [{"name": "a", "path": "x"}], "modfiles": [{"name": "a", "path": "y"}]}`,
			parts: []hostile.Part{{Name: "mod/a", Data: "m"}, {Name: "new/a", Data: "n"}}, want: map[string]string{"new x/a": "n", "modify y/a": "m"}, build: 1},
		"names that only look unsafe": {text: `{"region": "r", "build": 1, "delfiles": [{"name": "..a", "path": "/..."}, {"name": ".hidden", "path": "a..b"}]}`,
			want: map[string]string{"delete .../..a": "", "delete a..b/.hidden": ""}, build: 1},
		"keys that are not known": {text: `{"region": "r", "build": 1, "by": {"who": [1, null, true]}, "delfiles": [{"name": "a", "path": "", "why": "old"}]}`,
			want: map[string]string{"delete a": ""}, build: 1, notes: 2},
	} {
		t.Run(name, func(t *testing.T) {
			m := hostile.Doc(c.text)
			m.Parts = append(m.Parts, c.parts...)
			p, got, err := openAll(m.Bytes(), Limits{})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
			if p.Manifest.Warm != c.warm || p.Manifest.Build != c.build || len(p.Notes) != c.notes {
				t.Errorf("%+v, notes %q", p.Manifest, p.Notes)
			}
		})
	}
}

// The package that docs/package-format.md makes by hand, made by hand.
func TestDocumentedExample(t *testing.T) {
	for _, program := range []string{"sh", "zip", "sha256sum"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skip(program, "is not installed")
		}
	}
	page, err := os.ReadFile("../docs/package-format.md")
	if err != nil {
		t.Fatal(err)
	}
	_, script, _ := strings.Cut(string(page), "```sh\n")
	script, _, found := strings.Cut(script, "```")
	if !found {
		t.Fatal("the page has no example")
	}
	dir := t.TempDir()
	script = "mkdir build drop; echo 2 >build/version; echo logo >build/logo.txt\n" + strings.ReplaceAll(script, "/srv/app/patch/", "drop/")
	cmd := exec.CommandContext(t.Context(), "sh", "-ec", script)
	cmd.Dir = dir
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	data, err := os.ReadFile(filepath.Join(dir, "drop", "fix.zip"))
	if err != nil {
		t.Fatal(err)
	}
	beside, err := os.ReadFile(filepath.Join(dir, "drop", "fix.zip.sha256"))
	if err != nil {
		t.Fatal(err)
	}
	_, got, err := openAll(data, Limits{})
	if diff := cmp.Diff(map[string]string{"modify version": "2\n", "new res/logo.txt": "logo\n"}, got); diff != "" || err != nil {
		t.Error(diff, err)
	}
	sums, err := Sum(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	if found, err := (Sidecars{SHA256: beside}).Check("fix.zip", sums); !found || err != nil {
		t.Error(found, err)
	}
}
