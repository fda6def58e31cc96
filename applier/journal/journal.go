// Package journal makes the steps of a transaction durable, so that after a
// crash or a power loss the next start can tell how far the last one came.
//
// There is at most one journal. Its first line is the Plan: everything that the
// transaction is going to do, written before the tree is touched. Each later
// line is an Entry: the transaction has reached a State. A line is
//
//	CRC-32C of the JSON, eight hex digits, a space, the JSON, a line feed
//
// The plan is written to another name, synced, renamed and its folder synced;
// an entry is appended and synced. So the only damage that a crash can do is a
// torn last line, which was never promised and is ignored. Damage anywhere else
// did not come from a crash: Open then returns ErrDamaged, and nobody guesses.
//
// States, in the order in which they can follow each other:
//
//	prepared   the new files are staged and durable; the tree may be in between
//	committed  the tree is the new build, and durable
//	undoing    it was decided to go back; the tree may be in between
//	undone     the tree is the old build again, and durable
package journal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"patchagent/manifest/reason"
)

// Version is the format that this program writes, and the only one it reads.
const Version = 1

// Going back must not need new blocks on a full disk, so room for the entries of a
// transaction is set aside with its plan: two with a detail, the others are short.
const (
	maxDetail  = 4 << 10
	maxOutput  = 24 << 10
	entrySpace = 384 << 10 // JSON escapes can make a detail six times as long
)

// ErrDamaged is returned for a journal that no crash can have left.
var ErrDamaged = errors.New("the journal is damaged")

// A State says how far a transaction has come.
type State string

// The states; the package comment says what each promises.
const (
	Prepared  State = "prepared"
	Committed State = "committed"
	Undoing   State = "undoing"
	Undone    State = "undone"
)

// A Kind is what a step does to its place.
type Kind string

// The kinds of steps. Each can be undone by names alone, without new data.
const (
	StepMkdir   Kind = "mkdir"   // make the folder
	StepReplace Kind = "replace" // swap the staged file and the live one
	StepCreate  Kind = "create"  // move the staged file into its place
	StepDelete  Kind = "delete"  // move the live file out to the stage
)

// An Object is what is, or will be, at a place: enough to know it again.
type Object struct {
	Mode   fs.FileMode `json:"mode"`             // type, permission and set-id bits
	Size   int64       `json:"size,omitempty"`   // bytes; regular files only
	SHA256 string      `json:"sha256,omitempty"` // of the content; regular files only
	Link   string      `json:"link,omitempty"`   // where a symbolic link leads
}

// A Step is one change of one place.
type Step struct {
	Kind  Kind    `json:"kind"`
	Path  string  `json:"path"`            // slash-separated, relative to the root
	Stage string  `json:"stage,omitempty"` // name in the stage folder
	Old   *Object `json:"old,omitempty"`   // nil: nothing was there
	New   *Object `json:"new,omitempty"`   // nil: nothing will be there
	Aside bool    `json:"aside,omitempty"` // what is there was made by hand and is kept aside
}

// A Plan is all that a transaction is going to do.
type Plan struct {
	Version   int       `json:"version"`
	ID        string    `json:"id"`
	Patch     string    `json:"patch"`            // file name of the drop; empty for a rollback by hand
	KeyID     string    `json:"key_id,omitempty"` // of whoever signed it
	Warm      bool      `json:"warm"`
	Build     int64     `json:"build"`
	FromBuild int64     `json:"from_build"`
	Started   time.Time `json:"started"`
	Root      string    `json:"root"`             // the tree, without symbolic links
	RootIno   uint64    `json:"root_ino"`         // its inode number: it may be moved
	Sick      bool      `json:"sick,omitempty"`   // the process was unhealthy before it began
	Note      string    `json:"note,omitempty"`   // what is to be said of it when it is done
	Undoes    []string  `json:"undoes,omitempty"` // the kept builds that a rollback by hand uses up
	Exchange  bool      `json:"exchange"`         // the filesystem swaps two names in one call
	Steps     []Step    `json:"steps"`
	Counts    Counts    `json:"counts"`
}

// Back says whether it is a rollback by hand.
func (p Plan) Back() bool { return len(p.Undoes) > 0 }

// Counts is what the receipt says of a plan.
type Counts struct {
	Created  int   `json:"created"`
	Modified int   `json:"modified"`
	Deleted  int   `json:"deleted"`
	Bytes    int64 `json:"bytes"` // written for new content
}

// An Entry records that a state was reached.
type Entry struct {
	State  State       `json:"state"`
	Time   time.Time   `json:"time"`
	Code   reason.Code `json:"code,omitempty"`   // why it is being undone
	Detail string      `json:"detail,omitempty"` // the sentence that goes with it
	Output string      `json:"output,omitempty"` // the last lines that the process had printed

	// Of Committed: how often an agent has begun to confirm it, and whether the last
	// one was stopped in order, which does not count.
	Attempt int  `json:"attempt,omitempty"`
	Paused  bool `json:"paused,omitempty"`

	// Of Prepared: an agent after the one that began it has found steps in their places.
	Touched bool `json:"touched,omitempty"`

	// Of a cold transaction from Committed on: since when its process is away, not set if it
	// was up again, and for how long it was away before.
	Stopped time.Time     `json:"stopped,omitzero"`
	Down    time.Duration `json:"down,omitempty"`
}

// A Journal is an open transaction's record. Only one goroutine may use it.
type Journal struct {
	Plan Plan
	Last Entry // the newest entry; Prepared from the beginning

	path string
	file *os.File
	size int64 // of all that is whole
}

// A Draft is a plan that is written and does not count yet.
type Draft struct {
	path string
	plan Plan
	size int64
}

// NewDraft writes the plan under another name than path, so that it can be made
// durable together with what it needs. After an error nothing is there.
func NewDraft(path string, plan Plan) (*Draft, error) {
	plan.Version = Version
	line, err := encode(plan)
	if err != nil {
		return nil, err
	}
	if err := writeTemp(path, line, 0o600, entrySpace); err != nil {
		return nil, err
	}
	return &Draft{path: path, plan: plan, size: int64(len(line))}, nil
}

// Sync makes the draft's content durable.
func (d *Draft) Sync() error { return syncFile(d.path + tempSuffix) }

// Begin makes the draft the journal, durably; the state is then Prepared.
// Everything that the plan needs must be durable before. After an error there may
// be a journal on disk or none; either way the tree is untouched.
func (d *Draft) Begin() (*Journal, error) {
	if err := replace(d.path); err != nil {
		return nil, err
	}
	return open(d.path, d.plan, Entry{State: Prepared, Time: d.plan.Started}, d.size)
}

// Open reads the journal at path. The error is fs.ErrNotExist where there is
// none, and wraps ErrDamaged where it cannot be relied on; the file is then left
// as it is. A torn last line is removed.
func Open(path string) (*Journal, error) {
	plan, last, size, err := read(path)
	if err != nil {
		return nil, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if size < info.Size() {
		if err := os.Truncate(path, size); err != nil {
			return nil, fmt.Errorf("cannot cut the torn last line off the journal: %w", err)
		}
	}
	return open(path, plan, last, size)
}

// Read returns the plan of the journal at path and touches nothing; the errors are
// those of Open.
func Read(path string) (Plan, error) {
	plan, _, _, err := read(path)
	return plan, err
}

// ReadLast is Read, and also says how far the transaction has come.
func ReadLast(path string) (Plan, Entry, error) {
	plan, last, _, err := read(path)
	return plan, last, err
}

// read also returns the last entry, and how long the part is that is whole.
func read(path string) (plan Plan, last Entry, size int64, err error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return plan, last, 0, err
	}
	whole := data[:bytes.LastIndexByte(data, '\n')+1]
	last = Entry{State: Prepared}
	number := 0
	for line := range bytes.Lines(whole) {
		number++
		var target any = &last
		if number == 1 {
			target = &plan
		} else {
			last = Entry{}
		}
		if err := decode(line, target); err != nil {
			return plan, last, 0, fmt.Errorf("%w: %s, line %d: %v", ErrDamaged, path, number, err)
		}
	}
	if number == 0 {
		return plan, last, 0, fmt.Errorf("%w: %s holds no complete line", ErrDamaged, path)
	}
	if plan.Version != Version {
		return plan, last, 0, fmt.Errorf("cannot use %s: it was written by another version of this program (format %d, this one reads %d); "+
			"start the version that wrote it once more and let it finish", path, plan.Version, Version)
	}
	return plan, last, int64(len(whole)), nil
}

func open(path string, plan Plan, last Entry, size int64) (*Journal, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return nil, err
	}
	return &Journal{Plan: plan, Last: last, path: path, file: f, size: size}, nil
}

// Enter appends an entry and makes it durable. After an error of the sync it is
// unknown whether the entry will be there after a crash: the caller must not
// rely on either. Details are cut to what was set aside for them, and of the output
// the end is kept.
func (j *Journal) Enter(e Entry) error {
	e.Detail = e.Detail[:min(len(e.Detail), maxDetail)]
	e.Output = e.Output[max(0, len(e.Output)-maxOutput):]
	line, err := encode(e)
	if err != nil {
		return err
	}
	if _, err := j.file.Write(line); err != nil {
		// Half a line in the middle would be damage once another follows.
		if cut := os.Truncate(j.path, j.size); cut != nil {
			return fmt.Errorf("cannot write the journal: %w (nor cut it back: %w)", err, cut)
		}
		return fmt.Errorf("cannot write the journal: %w", err)
	}
	j.size += int64(len(line))
	if err := Synced(j.file.Sync()); err != nil {
		return fmt.Errorf("cannot make the journal durable: %w", err)
	}
	j.Last = e
	return nil
}

// Remove takes the journal away, durably: the transaction is over. What it
// needed for going back may be removed afterwards, not before.
func (j *Journal) Remove() error {
	j.Close()
	if err := os.Remove(j.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot remove the journal: %w", err)
	}
	return SyncDir(filepath.Dir(j.path))
}

// Trim gives back the room that was set aside for entries: there will be no more.
func (j *Journal) Trim() { _ = os.Truncate(j.path, j.size) }

// Close lets go of the file and leaves the journal where it is.
func (j *Journal) Close() { _ = j.file.Close() }

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// sumLen is the length of a line's checksum and the space after it.
const sumLen = 9

func encode(v any) ([]byte, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, "%08x %s\n", crc32.Checksum(body, castagnoli), body), nil
}

func decode(line []byte, v any) error {
	if len(line) < sumLen+1 || line[sumLen-1] != ' ' {
		return errors.New("it has no checksum")
	}
	want, err := strconv.ParseUint(string(line[:sumLen-1]), 16, 32)
	if err != nil {
		return errors.New("its checksum is not a number")
	}
	body := bytes.TrimSuffix(line[sumLen:], []byte("\n"))
	if crc32.Checksum(body, castagnoli) != uint32(want) {
		return errors.New("its checksum does not match")
	}
	return json.Unmarshal(body, v)
}
