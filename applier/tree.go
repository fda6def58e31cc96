package applier

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"patchagent/applier/journal"
)

// found is what the tree has at a place.
type found struct {
	journal.Object
	owner *owner
	links uint64
	fixed string // as of marks
}

// keptMode is what of a mode makes an object what it is.
const keptMode = fs.ModeType | fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky

// look says what is at a place; nil if nothing is. Anything but a regular file,
// a folder or a symbolic link is drift: no patch means to replace a device. So is
// what is mounted there, and the agent's own files are protected.
func (a *Applier) look(place string) (*found, error) {
	info, err := a.root.Lstat(place)
	if isNotExist(err) || notDir(err) {
		return nil, nil
	}
	if err != nil {
		return nil, drift("cannot look at %s: %w", place, err)
	}
	m, err := a.check(place, place, info)
	if err != nil {
		return nil, err
	}
	f := &found{Object: journal.Object{Mode: info.Mode() & keptMode}, owner: ownerOf(info), links: links(info), fixed: m.fixed}
	switch {
	case info.IsDir():
	case info.Mode().IsRegular():
		f.Size = info.Size()
		if f.SHA256, err = a.digestOf(place); err != nil {
			return nil, drift("cannot read %s: %w", place, err)
		}
	case info.Mode().Type() == fs.ModeSymlink:
		if f.Link, err = a.root.Readlink(place); err != nil {
			return nil, drift("cannot read the link %s: %w", place, err)
		}
	default:
		return nil, drift("%s is neither a file nor a folder (%s)", place, info.Mode().Type())
	}
	return f, nil
}

// check refuses what is the agent's own, or on another mount than the tree: a name
// goes from one mount to another only by being copied. place is without links, name
// is how the package calls it.
func (a *Applier) check(place, name string, info fs.FileInfo) (marks, error) {
	if err := a.own(name, info); err != nil {
		return marks{}, err
	}
	dir, err := a.openFolder(path.Dir(place))
	if err != nil {
		return marks{}, drift("cannot look at %s: %w", name, err)
	}
	defer dir.Close()
	m := marksOf(dir, path.Base(place))
	// Of a folder the device counts as well: one mount may hold several filesystems.
	// Of a file it does not: on an overlay its device is that of its layer.
	across := m.mount != a.mount && m.mount != 0 && a.mount != 0
	if across || info.IsDir() && device(info) != a.device {
		return marks{}, drift("%s is on another mount than target.root, and nothing can be replaced across mounts in one step; "+
			"unmount it, or leave it out of the patch", name)
	}
	return m, nil
}

// openFolder opens nothing else: a pipe in its place would keep the agent waiting.
func (a *Applier) openFolder(place string) (*os.File, error) {
	return a.root.OpenFile(place, openFolder, 0)
}

// top is the root of the tree as a folder.
func (a *Applier) top() folder {
	return folder{exists: true, fixed: marksOf(a.tree, ".").fixed}
}

func (a *Applier) digestOf(place string) (string, error) {
	f, err := a.root.OpenFile(place, openQuietly, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	return digest(context.Background(), f)
}

// digest returns the SHA-256 of what is left in r, in hex.
func digest(ctx context.Context, r io.Reader) (string, error) {
	h := sha256.New()
	if _, err := copyContext(ctx, h, r); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// copyContext is io.Copy that ends when ctx does.
func copyContext(ctx context.Context, w io.Writer, r io.Reader) (int64, error) {
	return io.Copy(w, readerFunc(func(p []byte) (int, error) {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		return r.Read(p)
	}))
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func (a *Applier) emptyFolder(place string) error {
	d, err := a.openFolder(place)
	if err != nil {
		return drift("cannot look into %s: %w", place, err)
	}
	defer d.Close()
	switch names, err := d.Readdirnames(1); {
	case len(names) > 0:
		return drift("%s is a folder that is not empty (%s is in it), so it is not deleted", place, names[0])
	case !errors.Is(err, io.EOF):
		return drift("cannot look into %s: %w", place, err)
	}
	return nil
}

// folderAt follows one name of a path: real is its place, and name how the
// package calls it.
func (a *Applier) folderAt(real, name string) (folder, error) {
	info, err := a.root.Lstat(real)
	switch {
	case isNotExist(err):
		return folder{real: real}, nil
	case err != nil:
		return folder{}, drift("cannot look at %s: %w", name, err)
	case info.Mode().Type() == fs.ModeSymlink:
		target, err := filepath.EvalSymlinks(filepath.Join(a.realRoot, filepath.FromSlash(real)))
		if err != nil {
			return folder{}, drift("cannot follow the link %s: %w", name, err)
		}
		if !within(target, a.realRoot) {
			return folder{}, drift("%s is a link that leads out of the tree, to %s", name, target)
		}
		inside, err := filepath.Rel(a.realRoot, target)
		if err != nil {
			return folder{}, drift("cannot follow the link %s: %w", name, err)
		}
		if inside == "." {
			return a.top(), nil
		}
		return a.folderBehind(path.Clean(filepath.ToSlash(inside)), name)
	case !info.IsDir():
		return folder{}, drift("%s is not a folder in the tree, and is one in the package", name)
	}
	m, err := a.check(real, name, info)
	return folder{real: real, exists: true, fixed: m.fixed}, err
}

// folderBehind is the folder that a link leads to. The folders above it are not on the
// way of the name, so they are looked at here: one may be the agent's own.
func (a *Applier) folderBehind(real, name string) (folder, error) {
	for up := path.Dir(real); up != "."; up = path.Dir(up) {
		info, err := a.root.Lstat(up)
		if err != nil {
			return folder{}, drift("cannot follow the link %s: %w", name, err)
		}
		if err := a.own(name, info); err != nil {
			return folder{}, err
		}
	}
	return a.folderAt(real, name)
}

// matches says whether an object in the stage or the tree is the one that was
// planned. Content is compared only where kind, mode and size agree: content returns
// the digest of a file, and where a symbolic link leads.
func matches(want *journal.Object, info fs.FileInfo, content func() (string, error)) (bool, error) {
	if want == nil || info.Mode()&keptMode != want.Mode {
		return false, nil
	}
	switch {
	case info.Mode().Type() == fs.ModeSymlink:
		got, err := content()
		return err == nil && got == want.Link, err
	case !info.Mode().IsRegular():
		return true, nil
	case info.Size() != want.Size:
		return false, nil
	default:
		got, err := content()
		return err == nil && got == want.SHA256, err
	}
}
