//go:build !unix

package applier

import (
	"fmt"
	"os"
)

// takeLock opens the file without a lock: this system's locks are not used, and
// keeping a second agent away is up to the operator.
func takeLock(path, _ string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot open the lock of the state folder: %w", err)
	}
	return f, nil
}
