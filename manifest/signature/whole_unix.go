//go:build unix

package signature

import (
	"fmt"
	"io"
	"os"
	"runtime/debug"

	"golang.org/x/sys/unix"
)

// whole calls use with all of a file's bytes, of which the system keeps in memory
// only what it has room for.
func whole(r io.ReaderAt, size int64, use func([]byte)) (err error) {
	f, ok := r.(*os.File)
	if !ok || size == 0 {
		return readWhole(r, size, use)
	}
	mapped, err := unix.Mmap(int(f.Fd()), 0, int(size), unix.PROT_READ, unix.MAP_PRIVATE)
	if err != nil {
		return fmt.Errorf("cannot map %s into memory: %w", f.Name(), err)
	}
	defer func() { _ = unix.Munmap(mapped) }()
	// What is no longer in the file cannot be read from memory either, which would
	// end the program (mmap(2), SIGBUS).
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		switch p := recover().(type) {
		case nil:
		case interface{ Addr() uintptr }:
			err = errGone
		default:
			panic(p)
		}
	}()
	use(mapped)
	return nil
}
