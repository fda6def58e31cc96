package config

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
)

// CheckStart says why the process could not be started, as far as that is certain
// without a start. places are those of the tree that a patch changes before it: what may
// come with them is not missed, by whatever way it is named, nor is anything where a
// hook could bring it.
func (t Target) CheckStart(places []string) error {
	if t.External.Set {
		return nil
	}
	for _, err := range []error{t.canTreat(), t.canBe()} {
		if err != nil {
			return err
		}
	}
	if len(t.Hooks.BeforeStop)+len(t.Hooks.AfterFiles) > 0 {
		return nil
	}
	comes := func(path string) bool {
		return slices.ContainsFunc(places, func(place string) bool {
			return slices.Contains(strings.Split(place, "/"), filepath.Base(path))
		})
	}
	folders := []struct{ key, path string }{{"target.dir", t.WorkDir()}}
	if t.Output != "" {
		folders = append(folders, struct{ key, path string }{"the folder of target.output", filepath.Dir(t.Output)})
	}
	for _, f := range folders {
		if info, err := os.Stat(f.path); !comes(f.path) && (errors.Is(err, fs.ErrNotExist) || err == nil && !info.IsDir()) {
			return needDir(f.key, f.path)
		}
	}
	if name := t.Command[0]; !comes(name) {
		if err := t.missing(name); err != nil {
			return fmt.Errorf("cannot run %s of target.command: %w", name, err)
		}
	}
	return nil
}

// canTreat says whether the process can be given its limits.
func (t Target) canTreat() error {
	if t.Nice != nil {
		if err := canNice(*t.Nice); err != nil {
			return fmt.Errorf("target.nice: %w", err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(t.Rlimits)) {
		if err := canLimit(name, t.Rlimits[name]); err != nil {
			return fmt.Errorf("target.rlimits: %w", err)
		}
	}
	return nil
}

// canBe says whether there is the user that it is to run as.
func (t Target) canBe() error {
	if t.User == "" {
		return nil
	}
	if _, err := user.Lookup(t.User); err != nil {
		return fmt.Errorf("target.user: %w", err)
	}
	return nil
}

// missing says whether a program is not there, or is none for anybody. It goes by what
// can be seen: the process may have other rights than the agent.
func (t Target) missing(name string) error {
	if !strings.Contains(name, "/") {
		_, err := exec.LookPath(name)
		if e, ok := errors.AsType[*exec.Error](err); ok {
			err = e.Err
		}
		return err
	}
	if !filepath.IsAbs(name) {
		name = filepath.Join(t.WorkDir(), name)
	}
	info, err := os.Stat(name)
	link, linkErr := os.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist) && linkErr == nil && link.Mode().Type() == fs.ModeSymlink:
		return nil // what it leads to may come under another name
	case errors.Is(err, fs.ErrNotExist):
		return err
	case err != nil:
		return nil
	case info.IsDir():
		return fmt.Errorf("%s is a folder", name)
	case info.Mode().Perm()&0o111 == 0:
		return fmt.Errorf("%s cannot be executed; mend it with: chmod +x %s, or change the key", name, name)
	}
	return nil
}
