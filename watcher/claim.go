package watcher

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"patchagent/manifest/reason"
)

// Names in a claim's folder.
const (
	packageName = "package.zip"
	recordName  = "claim.json"
)

// A Claim is a drop that the agent has taken, or given up. Its folder holds a
// private copy of the package and of its sidecars, so that nothing that happens in
// the patch folder can change it any more.
type Claim struct {
	ID       string
	Name     string // of the file in the patch folder
	SHA256   [sha256.Size]byte
	CRC32    uint32
	Size     int64
	Attempts int // how often applying it was interrupted
	Sidecars Sidecars

	// WaitsSince is when whoever is asked before it is applied said for the first time
	// that it has to wait; zero: never. It is kept by Save.
	WaitsSince time.Time

	// Reject is set for a drop that is given up: there is no copy of it.
	Reject *reason.Error

	dir     string // "" for a claim that was never on disk
	id      identity
	place   string // where it is put away, relative to the patch folder, once chosen
	decided bool
	lists   int64 // bytes of those that are on the disk only
	resumed bool  // an earlier agent claimed it, and its file has not been seen since
}

// record is claim.json.
type record struct {
	ID         string    `json:"id"`
	Name       text      `json:"name"`
	Dev        uint64    `json:"dev"`
	Ino        uint64    `json:"ino"`
	Size       int64     `json:"size"`
	MtimeNS    int64     `json:"mtime_ns"`
	SHA256     string    `json:"sha256"`
	CRC32      uint32    `json:"crc32"`
	Attempts   int       `json:"attempts"`
	WaitsSince time.Time `json:"waits_since,omitzero"`
	Place      text      `json:"place,omitempty"`
	Reject     string    `json:"reject,omitempty"` // the code of a drop that is given up
	Why        string    `json:"why,omitempty"`
}

// text is a name, which need not be UTF-8. In JSON one that is not is in base64, behind
// a zero, which no name has.
type text string

const notText = "\x00base64:"

func (t text) MarshalText() ([]byte, error) {
	if utf8.ValidString(string(t)) {
		return []byte(t), nil
	}
	return base64.StdEncoding.AppendEncode([]byte(notText), []byte(t)), nil
}

func (t *text) UnmarshalText(data []byte) error {
	encoded, is := bytes.CutPrefix(data, []byte(notText))
	if !is {
		*t = text(data)
		return nil
	}
	name, err := base64.StdEncoding.DecodeString(string(encoded))
	*t = text(name)
	return err
}

// identity tells a file from every other that has had its name.
type identity struct {
	dev, ino uint64
	size     int64
	mtime    int64 // ns
}

// newClaim makes a claim's folder. Its id begins with the time, so that ids sort.
func (f *Folder) newClaim(name string, id identity, sidecars Sidecars) (*Claim, error) {
	unique := make([]byte, 4)
	_, _ = rand.Read(unique) // never fails
	c := &Claim{
		ID:   f.opts.Now().UTC().Format("20060102T150405.000000000") + "-" + hex.EncodeToString(unique),
		Name: name, Size: id.size, Sidecars: sidecars, id: id,
	}
	c.dir = filepath.Join(f.opts.Claims, c.ID)
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return nil, err
	}
	for file, content := range sidecars.kept() {
		if *content == nil {
			continue
		}
		if err := os.WriteFile(filepath.Join(c.dir, file), *content, 0o600); err != nil {
			return nil, errors.Join(err, os.RemoveAll(c.dir))
		}
	}
	return c, nil
}

var errChanged = errors.New("it changed while it was copied")

// claim copies the drop, from the descriptor that was looked at, and looks once
// more whether it stayed as it was. After an error nothing is left.
func (f *Folder) claim(ctx context.Context, file *os.File, name string, id identity, sidecars Sidecars) (_ *Claim, err error) {
	c, err := f.newClaim(name, id, sidecars)
	if err != nil {
		return nil, fmt.Errorf("cannot claim it: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(c.dir))
		}
	}()
	if err := c.copyFrom(ctx, file); err != nil {
		return nil, fmt.Errorf("cannot copy it: %w", err)
	}
	if now, links, err := identify(file); err != nil || now != id || links != 1 || writerOf(file) == WriterOpen {
		return nil, errChanged
	}
	if err := c.Save(false); err != nil {
		return nil, fmt.Errorf("cannot claim it: %w", err)
	}
	f.claims[c.ID] = c
	return c, nil
}

// copyFrom copies the drop into the claim's folder and adds up its sums.
func (c *Claim) copyFrom(ctx context.Context, file *os.File) (err error) {
	out, err := os.OpenFile(filepath.Join(c.dir, packageName), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	sum := sha256.New()
	in := io.NewSectionReader(file, 0, c.Size)
	buf := make([]byte, min(c.Size+1, 1<<20))
	for {
		n, err := in.Read(buf)
		if n > 0 {
			sum.Write(buf[:n])
			c.CRC32 = crc32.Update(c.CRC32, crc32.IEEETable, buf[:n])
			if _, err := out.Write(buf[:n]); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			sum.Sum(c.SHA256[:0])
			return nil
		case err != nil:
			return err
		case ctx.Err() != nil:
			return context.Cause(ctx)
		}
	}
}

// giveUp makes a claim without a copy, for a drop that will not become whole.
func (f *Folder) giveUp(name string, id identity, sidecars Sidecars, v verdict) *Claim {
	c, err := f.newClaim(name, id, sidecars)
	if err == nil {
		c.Reject = reason.Errorf(v.code, "%s: %s (waited %s)", name, v.why, f.opts.Patience)
		err = c.Save(false)
	} else {
		c = &Claim{ID: f.opts.Now().UTC().Format("20060102T150405.000000000"), Name: name, id: id}
		c.Reject = reason.Errorf(v.code, "%s: %s (waited %s)", name, v.why, f.opts.Patience)
	}
	if err != nil {
		f.opts.Log.Warn("cannot put a drop on record", "patch", name, "error", err)
	}
	f.claims[c.ID] = c
	return c
}

// weight is what a claim with a copy takes, in bytes.
func (c *Claim) weight() int64 {
	size := c.Size
	for _, content := range c.Sidecars.kept() {
		size += int64(len(*content))
	}
	return size + c.lists
}

// ForgetLists gives up the lists in memory, once the claim was held against them. Its
// folder still has them.
func (c *Claim) ForgetLists() {
	c.lists += int64(len(c.Sidecars.List) + len(c.Sidecars.Checksums))
	c.Sidecars.List, c.Sidecars.Checksums = nil, nil
}

// Open opens the private copy.
func (c *Claim) Open() (*os.File, error) { return os.Open(filepath.Join(c.dir, packageName)) }

// Save writes the claim's record. A record that is lost in a power loss does no
// harm, the drop is claimed again from its file; with durable set it, the copy
// and the sidecars are on the disk when Save returns nil.
func (c *Claim) Save(durable bool) (err error) {
	if c.dir == "" {
		return nil
	}
	r := record{
		ID: c.ID, Name: text(c.Name), Dev: c.id.dev, Ino: c.id.ino, Size: c.id.size, MtimeNS: c.id.mtime,
		SHA256: hex.EncodeToString(c.SHA256[:]), CRC32: c.CRC32, Attempts: c.Attempts, WaitsSince: c.WaitsSince, Place: text(c.place),
	}
	if c.Reject != nil {
		r.Reject, r.Why = string(c.Reject.Code), c.Reject.Detail
	}
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	path := filepath.Join(c.dir, recordName)
	if err := os.WriteFile(path+".new", append(data, '\n'), 0o600); err != nil {
		return err
	}
	if durable {
		for _, p := range append(slices.Collect(maps.Keys(c.Sidecars.kept())), packageName, recordName+".new") {
			if err := syncPath(filepath.Join(c.dir, p)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	if err := os.Rename(path+".new", path); err != nil || !durable {
		return err
	}
	for _, p := range []string{c.dir, filepath.Dir(c.dir), filepath.Dir(filepath.Dir(c.dir))} {
		if err := syncPath(p); err != nil {
			return err
		}
	}
	return nil
}

// Resume returns the claims that an earlier run left, oldest first. What is not
// whole is removed: its drop is still in the folder and will be claimed again.
func (f *Folder) Resume() ([]*Claim, error) {
	entries, err := os.ReadDir(f.opts.Claims)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot look for claimed patches: %w", err)
	}
	var claims []*Claim
	for _, e := range entries {
		dir := filepath.Join(f.opts.Claims, e.Name())
		c, err := load(dir)
		if err != nil {
			f.opts.Log.Info("a claimed patch is not whole and will be claimed again", "id", e.Name(), "error", err)
			if err := os.RemoveAll(dir); err != nil {
				return nil, fmt.Errorf("cannot remove what is left of a claimed patch: %w", err)
			}
			continue
		}
		f.claims[c.ID] = c
		claims = append(claims, c)
	}
	slices.SortFunc(claims, func(x, y *Claim) int { return strings.Compare(x.ID, y.ID) })
	return claims, nil
}

// load reads a claim back and checks that its copy is what it was.
func load(dir string) (*Claim, error) {
	data, err := os.ReadFile(filepath.Join(dir, recordName))
	if err != nil {
		return nil, err
	}
	var r record
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, err
	}
	if r.ID != filepath.Base(dir) || r.Name == "" || string(r.Name) != filepath.Base(string(r.Name)) {
		return nil, errors.New("its record is not its own")
	}
	c := &Claim{
		ID: r.ID, Name: string(r.Name), CRC32: r.CRC32, Size: r.Size, Attempts: r.Attempts, WaitsSince: r.WaitsSince, dir: dir, place: string(r.Place),
		id: identity{dev: r.Dev, ino: r.Ino, size: r.Size, mtime: r.MtimeNS}, decided: r.Place != "",
		resumed: true,
	}
	for file, content := range c.Sidecars.kept() {
		if *content, err = os.ReadFile(filepath.Join(dir, file)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	if r.Reject != "" {
		c.Reject = reason.Errorf(reason.Code(r.Reject), "%s", r.Why)
		return c, nil
	}
	sum, err := hex.DecodeString(r.SHA256)
	if err != nil || len(sum) != sha256.Size {
		return nil, errors.New("its record is not whole")
	}
	c.SHA256 = [sha256.Size]byte(sum)
	file, err := c.Open()
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if got, err := sumOf(file); err != nil || got != c.SHA256 {
		return nil, errors.New("its copy is not whole")
	}
	return c, nil
}

func sumOf(r io.Reader) (sum [sha256.Size]byte, err error) {
	h := sha256.New()
	_, err = io.Copy(h, r)
	h.Sum(sum[:0])
	return sum, err
}

// isOriginal says whether the open file is the one that was claimed. Some clients
// set a file's time after they have closed it, so a different time alone does not
// make another drop: then the content decides. Nor does another number of the
// device, which it can have after the folder was mounted again; and on some
// filesystems the file itself has another one then.
func (c *Claim) isOriginal(file *os.File, id identity) bool {
	was := c.id
	was.dev = id.dev
	if id != was {
		was.mtime = id.mtime
		if c.resumed {
			was.ino = id.ino
		}
		timed := id.mtime == c.id.mtime && c.Reject != nil // there is no copy to compare with
		if id != was || !timed && !c.hasBytes(file) {
			return false
		}
	}
	c.id, c.resumed = id, false
	return true
}

// hasBytes says whether a file holds what was claimed.
func (c *Claim) hasBytes(file *os.File) bool {
	info, err := file.Stat()
	if err != nil || c.Reject != nil || info.Size() != c.Size {
		return false
	}
	sum, err := sumOf(io.NewSectionReader(file, 0, c.Size))
	return err == nil && sum == c.SHA256
}

// Release removes the private copy: the drop has its receipt and its place.
func (f *Folder) Release(c *Claim) error {
	if c.dir != "" {
		if err := os.RemoveAll(c.dir); err != nil {
			return fmt.Errorf("cannot remove the copy of %s: %w", c.Name, err)
		}
	}
	delete(f.claims, c.ID)
	return nil
}
