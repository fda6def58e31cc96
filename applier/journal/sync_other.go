//go:build !unix

package journal

import "os"

// syncDir does nothing: this system cannot sync a folder, and whether a rename
// is durable is up to it.
func syncDir(*os.File) error { return nil }
