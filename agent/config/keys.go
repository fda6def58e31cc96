package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

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

// maxLinks is how many links a way may have, as the kernel has it (path_resolution(7)).
const maxLinks = 40

// ownWay follows a path from the root of the file system, link by link, and returns
// the same without links. It refuses a way on which others than this user and root
// can put something else in its place: a folder that they own or can write to (but
// one like /tmp, where they cannot touch what is not theirs), a link that is theirs,
// and in the end the file itself. what is at its end, for the refusal.
func ownWay(what, path string) (string, error) {
	here, links := filepath.VolumeName(path)+string(filepath.Separator), 0
	left := segments(path)
	for {
		info, err := os.Lstat(here)
		if err != nil {
			return "", err
		}
		if len(left) == 0 && info.Mode().Type() != fs.ModeSymlink && !info.Mode().IsRegular() {
			return "", &fs.PathError{Op: "use", Path: here, Err: errNotFile}
		}
		if err := ours(what, here, info); err != nil {
			return "", err
		}
		if info.Mode().Type() == fs.ModeSymlink {
			if links++; links > maxLinks {
				return "", fmt.Errorf("%s leads through more than %d links", path, maxLinks)
			}
			to, err := os.Readlink(here)
			if err != nil {
				return "", err
			}
			if here = filepath.Dir(here); filepath.IsAbs(to) {
				here = filepath.VolumeName(to) + string(filepath.Separator)
			}
			left = slices.Concat(segments(to), left)
		}
		if len(left) == 0 {
			return here, nil
		}
		here, left = filepath.Join(here, left[0]), left[1:]
	}
}

// segments takes a path apart. One that begins with ".." stays so: behind a link it
// is the folder above the one that the link leads to.
func segments(path string) []string {
	path = path[len(filepath.VolumeName(path)):]
	return slices.DeleteFunc(strings.Split(filepath.ToSlash(path), "/"), func(s string) bool { return s == "" || s == "." })
}

// ours refuses one object of a way.
func ours(what, path string, info fs.FileInfo) error {
	if owner, own := OwnedByUs(info); !own && !ownedByRoot(info) {
		return hint("run this as "+owner+", or have "+what+" where only "+writers()+" can write, such as in /etc/patchagent",
			"%s belongs to %s, and this is %s: %s could be another one by now", path, owner, myName(), what)
	}
	if info.Mode().Type() == fs.ModeSymlink || info.IsDir() && info.Mode()&fs.ModeSticky != 0 || !othersWritable(info) {
		return nil
	}
	return hint("chmod go-w "+path, "others can write to %s: %s could be another one by now, so look at it first", path, what)
}

// writers are those who may have written what this user trusts.
func writers() string {
	if me := myName(); me != "root" {
		return "root and " + me
	}
	return "root"
}
