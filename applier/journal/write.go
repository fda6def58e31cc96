package journal

import (
	"fmt"
	"os"
	"path/filepath"
)

// WriteFile replaces the file at path by data so that after a crash at any
// moment it is whole, the old one or the new one; when it returns nil the new one
// is durable. It writes path+".new", syncs it, renames it and syncs the folder.
// After an error path is the old file or the new one, never a mixture.
func WriteFile(path string, data []byte, perm os.FileMode) error {
	return writeFile(path, data, perm, 0)
}

// writeFile also sets aside spare bytes of disk behind the data.
func writeFile(path string, data []byte, perm os.FileMode, spare int64) (err error) {
	temp := path + ".new"
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, perm)
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(temp)
		}
	}()
	if _, err := f.Write(data); err != nil {
		_ = f.Close()
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	if spare > 0 {
		if err := reserve(f, int64(len(data)), spare); err != nil {
			_ = f.Close()
			return fmt.Errorf("cannot set disk space aside for %s: %w", path, err)
		}
	}
	if err := f.Sync(); err != nil {
		_ = f.Close()
		return fmt.Errorf("cannot make %s durable: %w", path, err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	if err := os.Rename(temp, path); err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	return SyncDir(filepath.Dir(path))
}

// SyncDir makes the names in a folder durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("cannot make %s durable: %w", dir, err)
	}
	err = syncDir(d)
	if closeErr := d.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return fmt.Errorf("cannot make %s durable: %w", dir, err)
	}
	return nil
}
