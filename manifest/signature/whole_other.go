//go:build !unix

package signature

import "io"

// whole calls use with all of a file's bytes.
func whole(r io.ReaderAt, size int64, use func([]byte)) error { return readWhole(r, size, use) }
