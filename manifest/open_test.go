package manifest

import (
	"bytes"
	"context"
	"io"
	"testing"

	"patchagent/manifest/reason"
)

// openAll opens, verifies and reads everything there is.
func openAll(data []byte, limits Limits) (*Package, map[string]string, error) {
	p, err := Open(bytes.NewReader(data), int64(len(data)), limits)
	if err != nil {
		return p, nil, err
	}
	if err := p.Verify(context.Background()); err != nil {
		return p, nil, err
	}
	got := map[string]string{}
	for _, it := range p.Items() {
		if it.Op == Delete {
			got["delete "+it.Path] = ""
			continue
		}
		r, err := p.Payload(it)
		if err != nil {
			return p, nil, err
		}
		content, err := io.ReadAll(r)
		if err != nil {
			return p, nil, err
		}
		got[it.Op.String()+" "+it.Path] = string(content)
	}
	return p, got, nil
}

func wantCode(t *testing.T, err error, want reason.Code) {
	t.Helper()
	if code, _ := reason.Of(err); code != want {
		t.Errorf("got %q (%v), want %q", code, err, want)
	}
}
