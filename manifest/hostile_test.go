package manifest

import (
	"bytes"
	"fmt"
	"strings"
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
	if len(all) < 240 {
		t.Errorf("%d packages, there were 243", len(all))
	}
}

func TestLimits(t *testing.T) {
	many := hostile.Zip{}
	for i := range 11 {
		many.Parts = append(many.Parts, hostile.Part{Name: fmt.Sprintf("new/%d", i)})
	}
	zeros := strings.Repeat("\x00", 200_000)
	for _, c := range []struct {
		name   string
		m      hostile.Zip
		limits Limits
	}{
		{"too many entries", many, Limits{MaxFiles: 10}},
		{"too large", hostile.Plain(hostile.Part{Data: "x"}), Limits{MaxSize: 100}},
		{"too large unpacked", hostile.Plain(hostile.Part{Data: zeros}), Limits{MaxUnpacked: 100_000}},
		{"too tightly packed", hostile.Plain(hostile.Part{Data: zeros, Method: methodDeflate}), Limits{MaxRatio: 50}},
		{"a manifest that is too large", hostile.Zip{Parts: []hostile.Part{{Name: "manifest.json", Method: methodDeflate, Data: strings.Repeat(" ", maxManifest+1)}}}, Limits{MaxRatio: 1 << 20}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, _, err := openAll(c.m.Bytes(), c.limits)
			wantCode(t, err, reason.LimitExceeded)
		})
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
