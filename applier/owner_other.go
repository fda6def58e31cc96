//go:build !unix

package applier

import (
	"io/fs"
	"os"
)

// owner is not kept: this system's owners are not numbers of a file.
type owner struct{}

func ownerOf(fs.FileInfo) *owner   { return nil }
func (*owner) give(*os.File) error { return nil }
func links(fs.FileInfo) uint64     { return 1 }
func device(fs.FileInfo) uint64    { return 0 }
func inode(fs.FileInfo) uint64     { return 0 }
func notDir(error) bool            { return false }

// notEmpty cannot tell here; the caller reports the error as it is.
func notEmpty(error) bool { return false }
