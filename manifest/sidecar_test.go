package manifest

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"patchagent/manifest/reason"
)

func TestSidecars(t *testing.T) {
	got, err := Sum(strings.NewReader("hello"))
	if err != nil {
		t.Fatal(err)
	}
	hex, crc := fmt.Sprintf("%x", got.SHA256), fmt.Sprint(got.CRC32)
	other := strings.Repeat("0", 64)
	const (
		match = iota
		mismatch
		none
		unfinished
	)
	for _, c := range []struct {
		name string
		s    Sidecars
		want int
	}{
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
		{"in both lists, one of them wrong", Sidecars{List: []byte(hex + "  a.zip\n"), Checksums: []byte(other + "  a.zip\n")}, mismatch},
	} {
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
