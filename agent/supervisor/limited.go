package supervisor

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
)

// harmless are the resources that keep no program from coming up, however little there is
// of them.
var harmless = []string{"core", "locks", "msgqueue", "nice", "rss", "rtprio", "rttime", "sigpending"}

// blamed is the error of a start, with the limits that may be why the process ended: it
// cannot always say so itself.
func (l Limits) blamed(err error) error {
	if !errors.Is(err, ErrStartFailed) {
		return err
	}
	var set []string
	for _, r := range l.Resources {
		if r.Soft == math.MaxUint64 || slices.Contains(harmless, r.Name) {
			continue
		}
		text := fmt.Sprintf("%s=%d", r.Name, r.Soft)
		if r.Hard != r.Soft {
			text += ":" + strings.Replace(fmt.Sprint(r.Hard), fmt.Sprint(uint64(math.MaxUint64)), "unlimited", 1)
		}
		set = append(set, text)
	}
	if len(set) == 0 {
		return err
	}
	return fmt.Errorf("%w; target.rlimits sets %s", err, strings.Join(set, ", "))
}
