package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// maxLinks is how many links a way may have, as the kernel has it (path_resolution(7)).
const maxLinks = 40

// follow goes a path from the root of the file system, link by link, and returns the
// same without links. visit is called for each folder, link and file on the way; an
// error of it ends the way. So does what is missing: then that is returned, too, as it
// would be called.
func follow(path string, visit func(path string, info fs.FileInfo, last bool) error) (string, error) {
	here, links := filepath.VolumeName(path)+string(filepath.Separator), 0
	left := segments(path)
	for {
		info, err := os.Lstat(here)
		if err != nil {
			return filepath.Join(append([]string{here}, left...)...), err
		}
		isLink := info.Mode().Type() == fs.ModeSymlink
		if err := visit(here, info, len(left) == 0 && !isLink); err != nil {
			return "", err
		}
		if isLink {
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

// Names are the names by which a path is what it is: its own and the one without links;
// and apart from them the links that it leads through. It need not be there.
func Names(path string) (own, links []string) {
	real, err := follow(path, func(name string, info fs.FileInfo, _ bool) error {
		if info.Mode().Type() == fs.ModeSymlink && name != path {
			links = append(links, name)
		}
		return nil
	})
	own = []string{path}
	if real != path && (err == nil || errors.Is(err, fs.ErrNotExist)) {
		own = append(own, real)
	}
	return own, links
}

// ownWay returns a path to a file without links. It refuses one on the way to which
// others than this user and root can put something else in its place: a folder that
// they own or can write to (but one like /tmp, where they cannot touch what is not
// theirs), a link that is theirs, and in the end the file itself. what is at its end,
// for the refusal.
func ownWay(what, path string) (string, error) {
	return follow(path, func(here string, info fs.FileInfo, last bool) error {
		if last && !info.Mode().IsRegular() {
			return &fs.PathError{Op: "use", Path: here, Err: errNotFile}
		}
		return ours(what, here, info)
	})
}

// ours refuses one object of a way.
func ours(what, path string, info fs.FileInfo) error {
	if !isOurs(info) {
		owner, _ := OwnedByUs(info)
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
