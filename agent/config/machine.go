package config

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// A Finding is one thing that was looked at on this machine.
type Finding struct {
	OK      bool
	Doubt   bool   // it works, and should be looked at
	Subject string // a key
	Message string
	Hint    string // what to do, where it is not OK or in doubt
}

// CheckMachine looks whether the configuration can work on this machine. It
// changes nothing.
func (c *Config) CheckMachine(ctx context.Context) []Finding {
	var all []Finding
	check := func(subject, good string, err error) {
		f := Finding{OK: err == nil, Subject: subject, Message: good}
		if err != nil {
			f.Message = err.Error()
			if h, ok := errors.AsType[*hinted](err); ok {
				f.Message, f.Hint = h.message, h.hint
			}
		}
		all = append(all, f)
	}
	t := c.Target
	check("target.root", t.Root, needDir("target.root", t.Root))
	check("target.dir", t.WorkDir(), needDir("target.dir", t.WorkDir()))
	for _, c := range slices.Concat([]command{{"target.command", t.Command}}, t.commands()) {
		if len(c.argv) > 0 {
			check(c.key, strings.Join(c.argv, " "), t.findCommand(c.argv))
		}
	}
	if t.User != "" {
		_, err := user.Lookup(t.User)
		if err == nil && os.Getuid() > 0 {
			if me, meErr := user.Current(); meErr != nil || me.Username != t.User {
				err = hint("sudo, or a system service", "only root can run the process as %s", t.User)
			}
		}
		check("target.user", t.User, err)
	}
	t.checkTreatment(check)
	for _, doubt := range t.narrow() {
		check("target.rlimits", "", doubt)
		all[len(all)-1].OK, all[len(all)-1].Doubt = true, true
	}
	t.checkSockets(ctx, check)
	check("patch.dir", c.Patch.Dir, cmp.Or(checkPatchDir(c.Patch.Dir), canMake(c.Patch.Dir)))
	check("state.dir", c.State.Dir, cmp.Or(checkPrivate("state.dir", c.State.Dir), canMake(c.State.Dir)))
	check("agent.toml", c.Path, checkOwnFile(c.Path))
	for _, doubt := range c.Doubts() {
		check("others", "", doubt)
		all[len(all)-1].OK, all[len(all)-1].Doubt = true, true
	}
	for _, file := range c.Verify.Keys {
		key, err := readKey(file)
		check("verify.keys", fmt.Sprintf("%s, the key %s", file, key.ID()), err)
	}
	if err := c.distinct(); err != nil {
		check("state.dir", "", err)
	}
	check("state.dir", "on the filesystem of target.root", sameFilesystem(c.State.Dir, t.Root))
	for _, p := range []struct{ key, path string }{{"log.file", c.Log.File}, {"target.output", t.Output}} {
		if p.path != "" {
			check(p.key, p.path, canAppend(p.key, p.path))
		}
	}
	return all
}

// CheckFolders refuses folders through which others could get at the tree, or in
// which nothing could be replaced in one step. It needs them to exist.
func (c *Config) CheckFolders() error {
	for _, err := range []error{
		needDir("target.root", c.Target.Root),
		checkPatchDir(c.Patch.Dir),
		checkPrivate("state.dir", c.State.Dir),
		checkOwnFile(c.Path),
		c.checkKeys(c.Verify.Keys),
		sameFilesystem(c.State.Dir, c.Target.Root),
		c.distinct(),
	} {
		if err != nil {
			return err
		}
	}
	return nil
}

// hinted is an error with what to do about it.
type hinted struct{ message, hint string }

func (h *hinted) Error() string { return h.message + "; mend it with: " + h.hint }

func hint(hint, format string, args ...any) error {
	return &hinted{message: fmt.Sprintf(format, args...), hint: hint}
}

func needDir(key, path string) error {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return hint("mkdir -p "+path+", or change the key", "%s %s is not there", key, path)
	}
	if err != nil {
		return fmt.Errorf("cannot use %s: %w", key, err)
	}
	if !info.IsDir() {
		return fmt.Errorf("%s %s is not a folder", key, path)
	}
	return nil
}

// cannotWrite is about a folder that is there.
func cannotWrite(dir string, err error) error {
	return hint(fmt.Sprintf("another folder, that the user %q can write to, or run this as root", myName()), "cannot write to %s: %v", dir, err)
}

// canMake says whether the folder is there, or could be made.
func canMake(path string) error {
	for up := path; ; up = filepath.Dir(up) {
		info, err := os.Stat(up)
		switch {
		case errors.Is(err, fs.ErrNotExist) && up != filepath.Dir(up):
			continue
		case err != nil:
			return err
		case !info.IsDir():
			return fmt.Errorf("%s is not a folder", up)
		}
		if err := writable(up); err != nil {
			return cannotWrite(up, err)
		}
		return nil
	}
}

// canAppend says whether a file can be written in a folder that is there.
func canAppend(key, path string) error {
	dir := filepath.Dir(path)
	if err := needDir("the folder of "+key, dir); err != nil {
		return err
	}
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = writable(dir)
	case err == nil && info.IsDir():
		return fmt.Errorf("%s %s is a folder; it must be a file", key, path)
	case err == nil:
		err = appendable(path)
	}
	if err != nil {
		return fmt.Errorf("cannot write %s %s: %w", key, path, err)
	}
	return nil
}

// distinct refuses folders that are one and the same by way of a link or a mount,
// which their names do not show.
func (c *Config) distinct() error {
	folders := []struct{ key, path string }{{"patch.dir", c.Patch.Dir}, {"state.dir", c.State.Dir}, {"target.root", c.Target.Root}}
	for i, a := range folders {
		for _, b := range folders[i+1:] {
			x, errX := os.Stat(a.path)
			y, errY := os.Stat(b.path)
			if errX == nil && errY == nil && os.SameFile(x, y) {
				return fmt.Errorf("%s %s and %s %s are the same folder; each must be one of its own", a.key, a.path, b.key, b.path)
			}
		}
	}
	return nil
}

const anyExecute = 0o111

// findCommand says whether the program is there and can be executed, as the
// process will look for it; a relative name with a slash starts at WorkDir.
func (t Target) findCommand(argv []string) error {
	name := argv[0]
	if strings.Contains(name, "/") && !filepath.IsAbs(name) {
		name = filepath.Join(t.WorkDir(), name)
	}
	_, err := exec.LookPath(name)
	if info, statErr := os.Stat(name); errors.Is(err, fs.ErrPermission) && statErr == nil && info.Mode().IsRegular() {
		if info.Mode().Perm()&anyExecute == 0 {
			return hint("chmod +x "+name+", or change the key", "cannot run %s: it is there, and not executable", argv[0])
		}
		return hint("chmod +x "+name+", or a mount without noexec, or change the key", "cannot run %s: it is there, and %s may not execute it", argv[0], myName())
	}
	if e, ok := errors.AsType[*exec.Error](err); ok {
		return fmt.Errorf("cannot run %s: %w; build or install it, or change the key", argv[0], e.Err)
	}
	return err
}

func checkPatchDir(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() == fs.ModeSymlink:
		target, _ := os.Readlink(path)
		return hint("in [patch]: dir = "+fmt.Sprintf("%q", target), "patch.dir %s is a link, which somebody could point elsewhere", path)
	case !info.IsDir():
		return fmt.Errorf("patch.dir %s is not a folder", path)
	case worldWritable(info):
		return hint("chmod o-w "+path, "everybody on this machine can write to patch.dir %s", path)
	}
	return nil
}

// checkPrivate refuses a folder or file that others than this user and root can
// write to, or give themselves the right to; one that is missing is fine.
func checkPrivate(key, path string) error {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if othersWritable(info) {
		return hint("chmod go-w "+path, "others can write to %s %s", key, path)
	}
	if !isOurs(info) {
		owner, _ := OwnedByUs(info)
		return hint("run this as "+owner+"; or, if the agent is to be "+myName()+" from now on: chown -R "+myName()+" "+path,
			"%s %s belongs to %s, and this is %s", key, path, owner, myName())
	}
	return nil
}

// checkOwnFile refuses an agent.toml that everybody can write to: it says what is run.
func checkOwnFile(path string) error {
	info, err := os.Stat(path)
	if err == nil && worldWritable(info) {
		err = hint("chmod o-w "+path, "everybody on this machine can write to %s", path)
	}
	return err
}

// Doubts say who else than this user and root could put another agent.toml in the place
// of this one, and so run commands as this user, or another state folder, and so make
// old packages new. A running agent does not take a changed agent.toml then.
func (c *Config) Doubts() []error {
	_, toml := ownWay("agent.toml", c.Path)
	_, state := follow(c.State.Dir, func(here string, info fs.FileInfo, _ bool) error { return ours("state.dir", here, info) })
	if errors.Is(state, fs.ErrNotExist) {
		state = nil
	}
	return slices.DeleteFunc([]error{toml, state}, func(err error) bool { return err == nil })
}

func myName() string {
	if me, err := user.Current(); err == nil {
		return me.Username
	}
	return strconv.Itoa(os.Geteuid())
}

// sameFilesystem compares the nearest folders that exist. The device is not enough:
// no file is renamed from one mount to another, even of one filesystem.
func sameFilesystem(state, root string) error {
	a, x, err := nearestDir(state)
	if err != nil {
		return err
	}
	b, y, err := nearestDir(root)
	if err != nil {
		return err
	}
	beside := fmt.Sprintf("state.dir = %q", filepath.Join(besideRoot(root), ".patchagent"))
	switch {
	case device(x) != device(y):
		return hint(beside, "state.dir %s and target.root %s are on different filesystems, and only within one can a file be replaced in one step", state, root)
	case mountID(a) != mountID(b):
		return hint("one mount of the folder that holds both (of systemd's ReadWritePaths= and BindPaths= each folder is a mount of its own: name that one), or "+beside,
			"state.dir %s and target.root %s are on one filesystem but below different mounts, and only within one mount can a file be replaced in one step", state, root)
	}
	return nil
}

// besideRoot is the folder that holds root, or root itself if a mount begins there.
func besideRoot(root string) string {
	up := filepath.Dir(root)
	x, errX := os.Stat(root)
	y, errY := os.Stat(up)
	if errX == nil && errY == nil && (device(x) != device(y) || mountID(root) != mountID(up)) {
		return root
	}
	return up
}

func nearestDir(path string) (string, fs.FileInfo, error) {
	for {
		info, err := os.Stat(path)
		if !errors.Is(err, fs.ErrNotExist) || path == filepath.Dir(path) {
			return path, info, err
		}
		path = filepath.Dir(path)
	}
}
