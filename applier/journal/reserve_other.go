//go:build !linux

package journal

import "os"

// reserve does nothing: setting blocks aside is not portable.
func reserve(*os.File, int64, int64) error { return nil }
