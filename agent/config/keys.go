package config

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"patchagent/manifest/signature"
)

// ReadKeys reads the public keys of verify.keys from the disk, as they are there now.
// It returns those that can be trusted, with the reasons why others cannot: they are
// missing, no keys, or others can write to them or put something else in their place.
func (c *Config) ReadKeys() (signature.Keys, error) {
	var keys signature.Keys
	var bad []error
	for _, file := range c.Verify.Keys {
		key, err := readKey(file)
		if err != nil {
			bad = append(bad, err)
			continue
		}
		keys = append(keys, key)
	}
	return keys, errors.Join(bad...)
}

// checkKeys refuses keys that cannot be trusted. One of those that are known may be
// missing: removing its file is a way to withdraw it.
func (c *Config) checkKeys(known []string) error {
	var bad []error
	for _, file := range c.Verify.Keys {
		_, err := readKey(file)
		if _, missing := errors.AsType[missingKey](err); !missing || !slices.Contains(known, file) {
			bad = append(bad, err)
		}
	}
	return errors.Join(bad...)
}

// missingKey is the file of a key that is not there.
type missingKey string

func (m missingKey) Error() string {
	return fmt.Sprintf("verify.keys: %s is not there; put the public key there, or take it out of the list", string(m))
}

func readKey(file string) (signature.Key, error) {
	real, err := ownWay("a key of verify.keys", file)
	if err == nil {
		var data []byte
		if data, err = ReadFile(real, signature.MaxKeyFile); err == nil {
			return signature.ParseKey(file, data)
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = missingKey(file)
	} else if _, is := errors.AsType[*hinted](err); !is {
		err = fmt.Errorf("cannot read a key of verify.keys: %w", err)
	}
	return signature.Key{}, err
}
