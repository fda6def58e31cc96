//go:build unix

package journal

import "os"

func syncDir(d *os.File) error { return d.Sync() }
