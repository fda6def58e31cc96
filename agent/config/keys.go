package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"patchagent/manifest/signature"
	"path/filepath"
)

// ReadKeys reads the public keys of verify.keys from the disk, as they are there now.
// It returns those that can be trusted, with the reasons why others cannot: they are
// missing, no keys, or others can write to them or to their folder.
func (c *Config) ReadKeys() (signature.Keys, error) {
	var keys signature.Keys
	var bad []error
	for _, file := range c.Verify.Keys {
		key, err := c.readKey(file)
		if err != nil {
			bad = append(bad, err)
			continue
		}
		keys = append(keys, key)
	}
	return keys, errors.Join(bad...)
}

func (c *Config) checkKeys() error { _, err := c.ReadKeys(); return err }

func (c *Config) readKey(file string) (signature.Key, error) {
	const key = "verify.keys"
	real, err := filepath.EvalSymlinks(file)
	if errors.Is(err, fs.ErrNotExist) {
		return signature.Key{}, fmt.Errorf("%s: %s is not there; put the public key there, or take it out of the list", key, file)
	}
	if err != nil {
		return signature.Key{}, fmt.Errorf("%s: %w", key, err)
	}
	// A folder in which others can replace the file, unless it is like /tmp.
	folder, err := os.Stat(filepath.Dir(real))
	if err == nil && othersWritable(folder) && folder.Mode()&fs.ModeSticky == 0 {
		err = hint("chmod go-w "+filepath.Dir(real), "others can write to the folder of a key of %s, %s", key, filepath.Dir(real))
	}
	if err == nil {
		err = checkPrivate("a key of "+key+",", real)
	}
	if err != nil {
		return signature.Key{}, err
	}
	return signature.ReadKey(real)
}
