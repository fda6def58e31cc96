package supervisor

import (
	"context"
	"errors"
	"fmt"
	"math"
	"testing"
)

// A start that fails names the limits that it may have failed of, and no others.
func TestLimitsAreNamed(t *testing.T) {
	ended := fmt.Errorf("%w: it ended before it was ready (signal: segmentation fault)", ErrStartFailed)
	narrow := Limits{Resources: []Resource{{"as", 4096, 4096}, {"core", 0, 0}, {"nofile", 10, 20}, {"nproc", 9, math.MaxUint64}, {"stack", math.MaxUint64, math.MaxUint64}}}
	for _, c := range []struct {
		limits Limits
		err    error
		says   string
	}{
		{narrow, ended, ended.Error() + "; target.rlimits sets as=4096, nofile=10:20, nproc=9:unlimited"},
		{Limits{Resources: []Resource{{"core", 0, 0}}}, ended, ended.Error()},
		{Limits{}, ended, ended.Error()},
		{narrow, ErrNotReady, ErrNotReady.Error()},
		{narrow, context.Canceled, context.Canceled.Error()},
	} {
		if err := c.limits.blamed(c.err); err.Error() != c.says || !errors.Is(err, c.err) {
			t.Errorf("%v, want %s", err, c.says)
		}
	}
	if err := narrow.blamed(nil); err != nil {
		t.Errorf("a start that succeeded: %v", err)
	}
}
