package journal

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// ErrSync is wrapped by the error of a sync. What was written before may be lost, and
// the kernel takes it for written: to ask again proves nothing. Only the disk tells,
// at the next start.
var ErrSync = errors.New("a sync failed")

// Synced gives the error of a sync its kind.
func Synced(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", ErrSync, err)
}

// tempSuffix is what a file's name ends in until it is whole.
const tempSuffix = ".new"

// WriteFile replaces the file at path by data so that after a crash at any
// moment it is whole, the old one or the new one; when it returns nil the new one
// is durable. It writes path+".new", syncs it, renames it and syncs the folder.
// After an error path is the old file or the new one, never a mixture.
func WriteFile(path string, data []byte, perm os.FileMode) error {
	if err := writeTemp(path, data, perm, 0); err != nil {
		return err
	}
	if err := syncFile(path + tempSuffix); err != nil {
		return err
	}
	return replace(path)
}

// writeTemp writes what path is to become, and sets spare bytes of disk aside
// behind it.
func writeTemp(path string, data []byte, perm os.FileMode, spare int64) (err error) {
	f, err := os.OpenFile(path+tempSuffix, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, perm)
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	_, err = f.Write(data)
	if err == nil && spare > 0 {
		err = reserve(f, int64(len(data)), spare)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		_ = os.Remove(path + tempSuffix)
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	return nil
}

// replace makes the temporary file the one at path, durably.
func replace(path string) error {
	if err := os.Rename(path+tempSuffix, path); err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	return SyncDir(filepath.Dir(path))
}

// syncFile makes the content of a file durable.
func syncFile(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("cannot make %s durable: %w", path, err)
	}
	if err := errors.Join(Synced(f.Sync()), f.Close()); err != nil {
		return fmt.Errorf("cannot make %s durable: %w", path, err)
	}
	return nil
}

// SyncDir makes the names in a folder durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("cannot make %s durable: %w", dir, err)
	}
	if err := errors.Join(Synced(syncDir(d)), d.Close()); err != nil {
		return fmt.Errorf("cannot make %s durable: %w", dir, err)
	}
	return nil
}
