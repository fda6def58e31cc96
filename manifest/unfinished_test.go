package manifest

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"patchagent/manifest/hostile"
	"patchagent/manifest/reason"
)

// A payload that is itself a zip (a jar, say) is often stored. While the package is
// copied there is a moment at which the file ends just where the inner zip ends.
func TestEveryBeginningWithAZipInside(t *testing.T) {
	for name, inner := range map[string]hostile.Zip{
		"a zip":            {Parts: []hostile.Part{{Name: "Main.class", Data: "classes"}}, Comment: "inner"},
		"a zip64":          {Parts: []hostile.Part{{Name: "Main.class", Data: "classes"}}, Zip64: true},
		"an empty zip":     {},
		"a zip in a zip":   {Parts: []hostile.Part{{Name: "inner.jar", Data: string(hostile.Zip{Parts: []hostile.Part{{Name: "x"}}}.Bytes())}}},
		"a package itself": hostile.Plain(hostile.Part{}),
	} {
		t.Run(name, func(t *testing.T) {
			data := hostile.Plain(hostile.Part{Data: string(inner.Bytes())}).Bytes()
			if _, _, err := openAll(data, Limits{}); err != nil {
				t.Fatal(err)
			}
			for n := range len(data) {
				if shape, why := look(data[:n]); shape >= Whole {
					t.Errorf("cut at %d of %d it looks %s: %v", n, len(data), shape, why)
				}
				if _, _, err := openAll(data[:n], Limits{}); n > 4 {
					wantCode(t, err, reason.Incomplete)
				}
			}
		})
	}
}

// Some writers make the whole length first and fill it from both ends, in pieces. A
// hole anywhere, larger than a header, is never accepted, and never held against
// the package's maker.
func TestHoles(t *testing.T) {
	for name, change := range map[string]func(p *hostile.Part){
		"stored":      func(p *hostile.Part) { p.Mode = 0o100644 },
		"descriptors": func(p *hostile.Part) { p.Desc, p.Method = 16, methodDeflate },
		"bare, long":  func(p *hostile.Part) { p.Desc = 20 },
	} {
		t.Run(name, func(t *testing.T) {
			data := with(hostile.Plain(hostile.Part{Data: "some content"}), change).Bytes()
			for from := range len(data) {
				for to := from + 64; to <= len(data); to += 5 {
					now := slices.Concat(data[:from], make([]byte, to-from), data[to:])
					_, got, err := openAll(now, Limits{})
					if err == nil && got["modify a"] != "some content" {
						t.Errorf("accepted with %d to %d missing, as %q", from, to, got)
					}
					if shape, _ := look(now); shape >= Whole && err != nil {
						wantCode(t, err, reason.Incomplete)
					}
				}
			}
		})
	}
}

func look(data []byte) (Shape, error) {
	return Examine(bytes.NewReader(data), int64(len(data)), Limits{})
}

// What does not begin like a zip is none, however it goes on.
func TestNoZip(t *testing.T) {
	whole := string(hostile.Plain(hostile.Part{}).Bytes())
	for said, want := range map[string]Shape{
		"": NotZip, "hello": NotZip, "\x1f\x8b\x08": NotZip, "PK\x01\x02": NotZip, "p": NotZip, " " + whole[:60]: NotZip, strings.Repeat("\x00", 100): NotZip,
		"P": Incomplete, "PK": Incomplete, "PK\x03": Incomplete, "PK\x03\x04": Incomplete, "PK\x05\x06": Incomplete, whole[:60]: Incomplete, whole: Whole,
	} {
		if shape, why := look([]byte(said)); shape != want {
			t.Errorf("%.20q looks %s (%v), want %s", said, shape, why, want)
		}
		if _, _, err := openAll([]byte(said), Limits{}); want < Whole {
			wantCode(t, err, map[Shape]reason.Code{NotZip: reason.NotAZip, Incomplete: reason.Incomplete}[want])
		}
	}
}
