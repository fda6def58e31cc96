package manifest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"patchagent/manifest/reason"
)

const (
	match = iota
	mismatch
	none
	unfinished
)

type sidecarCase struct {
	name string
	s    Sidecars
	want int
}

// sidecarCases are checksum files beside a.zip, which has that digest and CRC-32.
func sidecarCases(hex, crc string) []sidecarCase {
	other := strings.Repeat("0", 64)
	return []sidecarCase{
		{"none", Sidecars{}, none},
		{"sha256sum", Sidecars{SHA256: []byte(hex + "  a.zip\n")}, match},
		{"binary mark", Sidecars{SHA256: []byte(hex + " *a.zip\n")}, match},
		{"another name does not matter", Sidecars{SHA256: []byte(hex + "  dir/b.zip\n")}, match},
		{"no name", Sidecars{SHA256: []byte(hex)}, match},
		{"upper case, CRLF, BOM", Sidecars{SHA256: []byte("\ufeff" + strings.ToUpper(hex) + "  a.zip\r\n")}, match},
		{"an escaped name", Sidecars{SHA256: []byte(`\` + hex + "  a\\nb.zip\n")}, match},
		{"BSD", Sidecars{SHA256: []byte("SHA256 (a.zip) = " + hex + "\n")}, match},
		{"another digest", Sidecars{SHA256: []byte(other + "  a.zip\n")}, mismatch},
		{"empty", Sidecars{SHA256: []byte{}}, unfinished},
		{"half", Sidecars{SHA256: []byte(hex[:30])}, unfinished},
		{"words", Sidecars{SHA256: []byte("no such file\n")}, unfinished},
		{"two lines", Sidecars{SHA256: []byte(hex + "  a.zip\n" + hex + "  b.zip\n")}, unfinished},
		{"crc32", Sidecars{CRC32: []byte(crc)}, match},
		{"crc32 with blanks", Sidecars{CRC32: []byte(" " + crc + " \r\n")}, match},
		{"another crc32", Sidecars{CRC32: []byte("1")}, mismatch},
		{"a digest in .crc32", Sidecars{CRC32: []byte(hex)}, unfinished},
		{"a crc in .sha256", Sidecars{SHA256: []byte(crc)}, unfinished},
		{"both, one of them wrong", Sidecars{SHA256: []byte(hex), CRC32: []byte("1")}, mismatch},
		{"in a list", Sidecars{List: []byte(other + "  b.zip\n" + hex + "  a.zip\n# words\n")}, match},
		{"in a list, with ./", Sidecars{Checksums: []byte(hex + " *./a.zip\r\n")}, match},
		{"in a list, as crc32", Sidecars{Checksums: []byte(crc + " a.zip\n")}, match},
		{"in a list, wrong", Sidecars{Checksums: []byte("12 a.zip\n")}, mismatch},
		{"in a list, another folder's", Sidecars{List: []byte(other + "  x/a.zip\n")}, none},
		{"in a list, others only", Sidecars{List: []byte(other + "  A.zip\n" + hex[:20])}, none},
		{"in a list, more than once, one of them wrong", Sidecars{List: []byte(hex + "  a.zip\n" + other + " *a.zip\n")}, mismatch},
		{"in a list, BSD", Sidecars{List: []byte("SHA256 (b.zip) = " + other + "\nSHA256 (a.zip) = " + hex + "\n")}, match},
		{"in a list, of another algorithm", Sidecars{List: []byte("SHA512 (a.zip) = " + hex + hex + "\n" + hex + hex + "  a.zip\n" + strings.Repeat("a", 40) + "  a.zip\n")}, none},
		{"in a list, with tabs", Sidecars{Checksums: []byte("\ufeff" + crc + "\t\ta.zip")}, match},
		{"in a list, half a line", Sidecars{List: []byte(hex + "  a.z")}, none},
		{"in a list, a name that begins with its mark", Sidecars{List: []byte(other + "  *a.zip\n" + hex + "  a.zip\n")}, match},
		{"in a list, no name", Sidecars{List: []byte(other + "\n" + hex + "  \n")}, none},
		{"an empty list", Sidecars{List: []byte{}, Checksums: []byte{}}, none},
		{"a crc32 with zeros before it", Sidecars{CRC32: []byte("000" + crc)}, match},
		{"a crc32 with its name", Sidecars{CRC32: []byte(crc + " a.zip\n")}, match},
		{"a crc32 in hex", Sidecars{CRC32: []byte("3610A686")}, unfinished},
		{"a crc32 with a sign", Sidecars{CRC32: []byte("+" + crc)}, unfinished},
		{"a crc32 of more than 32 bits", Sidecars{CRC32: []byte("4294967296")}, unfinished},
		{"an escaped name, BSD", Sidecars{SHA256: []byte(`\SHA256 (a\nb.zip) = ` + hex + "\n")}, match},
		{"BSD, half", Sidecars{SHA256: []byte("SHA256 (a.zip) = " + hex[:63])}, unfinished},
		{"BSD, no digest yet", Sidecars{SHA256: []byte("SHA256 (a.zip)")}, unfinished},
		{"blank lines around it", Sidecars{SHA256: []byte("\r\n" + hex + "  a.zip\r\n\r\n")}, match},
		{"zeros that are not written yet", Sidecars{SHA256: append([]byte(hex[:20]), make([]byte, 44)...)}, unfinished},
		{"in both lists, one of them wrong", Sidecars{List: []byte(hex + "  a.zip\n"), Checksums: []byte(other + "  a.zip\n")}, mismatch},
	}
}

func TestSidecars(t *testing.T) {
	got, err := Sum(strings.NewReader("hello"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range sidecarCases(fmt.Sprintf("%x", got.SHA256), fmt.Sprint(got.CRC32)) {
		t.Run(c.name, func(t *testing.T) {
			found, err := c.s.Check("a.zip", got)
			code, _ := reason.Of(err)
			was := none
			switch {
			case errors.Is(err, ErrSidecarUnfinished):
				was = unfinished
			case code == reason.ChecksumMismatch:
				was = mismatch
			case err != nil:
				t.Fatal(err)
			case found:
				was = match
			}
			if was != c.want {
				t.Errorf("got %d (%v), want %d", was, err, c.want)
			}
		})
	}
}

// What the programs write that people use, whatever the zip is called.
func TestSidecarsMadeByPrograms(t *testing.T) {
	for _, name := range []string{"a.zip", "with blanks.zip", "*star.zip", `back\slash.zip`, "new\nline.zip", "\u00fc.zip"} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, name), []byte("hello"), 0o644); err != nil {
			t.Fatal(err)
		}
		got, err := Sum(strings.NewReader("hello"))
		if err != nil {
			t.Fatal(err)
		}
		wrong, err := Sum(strings.NewReader("hallo"))
		if err != nil {
			t.Fatal(err)
		}
		for _, command := range [][]string{{"sha256sum"}, {"sha256sum", "-b"}, {"sha256sum", "--tag"}, {"shasum", "-a", "256"}} {
			if _, err := exec.LookPath(command[0]); err != nil {
				t.Log(command[0], "is not installed")
				continue
			}
			cmd := exec.CommandContext(t.Context(), command[0], append(command[1:], "--", name)...)
			cmd.Dir = dir
			said, err := cmd.Output()
			if err != nil {
				t.Fatal(command, err)
			}
			for _, s := range []Sidecars{{SHA256: said}, {List: said}, {Checksums: append([]byte("# words\n"), said...)}} {
				if found, err := s.Check(name, got); !found || err != nil {
					t.Errorf("%q of %v: %v, %v", said, command, found, err)
				}
				if _, err := s.Check(name, wrong); err == nil {
					t.Errorf("%q of %v is taken for another file's", said, command)
				}
			}
		}
	}
}
