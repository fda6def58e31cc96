package applier

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"

	"patchagent/applier/journal"
	"patchagent/manifest"
	"patchagent/manifest/reason"
)

// A Patch names what is being applied.
type Patch struct {
	ID        string
	Name      string // file name of the drop
	Warm      bool
	Build     int64
	FromBuild int64
	KeyID     string // of whoever signed it
	Sick      bool   // the process was not healthy before
	Note      string // what is to be said of it when it is done
}

// copyBuffer is how much of a payload is written at once.
const copyBuffer = 256 << 10

// space is what is free on a filesystem.
type space struct {
	bytes int64
	files int64 // -1: not counted
}

// Free is what an ordinary user may still write on the filesystem of path, in bytes;
// without bound on systems that are not asked.
func Free(path string) (int64, error) {
	s, err := freeSpace(path)
	return s.bytes, err
}

// Space refuses, as no-space, a plan that does not fit on the filesystem, with
// reserve bytes left over. It reads two numbers of the filesystem and no more.
func (a *Applier) Space(p *Plan, reserve int64) error {
	free, err := freeSpace(a.root.Name())
	if err != nil {
		return reason.Errorf(reason.NoSpace, "cannot find out the free space of %s: %w", a.opts.Root, err)
	}
	const block = 4 << 10 // what a small file takes up
	need := reserve + int64(len(p.Changes))*2*block
	for _, c := range p.Changes {
		if c.New != nil && c.kept == "" {
			need += c.New.Size
		}
	}
	if free.bytes < need {
		return reason.Errorf(reason.NoSpace, "%d bytes are needed on the filesystem of %s and %d are free", need, a.opts.Root, free.bytes)
	}
	if files := int64(len(p.Changes)) + 8; free.files >= 0 && free.files < files {
		return reason.Errorf(reason.NoSpace, "%d files are to be made on the filesystem of %s and %d more are possible", files, a.opts.Root, free.files)
	}
	return nil
}

// Stage writes all new files into the stage and the journal, and makes both
// durable. After an error the tree is untouched and there is no journal. Errors
// are *reason.Error: no-space, commit-failed, or the payload's; or the context's.
func (a *Applier) Stage(ctx context.Context, pkg *manifest.Package, plan *Plan, patch Patch) (_ *Tx, err error) {
	begun := false
	defer func() {
		if err != nil && !begun {
			a.clean()
		}
	}()
	a.clean()
	if err := a.probe(); err != nil {
		return nil, systemError(ctx, err, "cannot stage the new files")
	}
	stage, err := a.makeStage()
	if err != nil {
		return nil, systemError(ctx, err, "cannot stage the new files")
	}
	defer func() {
		if err != nil {
			_ = stage.Close()
		}
	}()
	if err := a.stageAll(ctx, stage, pkg, plan.Changes); err != nil {
		return nil, systemError(ctx, err, "cannot stage the new files")
	}
	steps := make([]journal.Step, len(plan.Changes))
	for i, c := range plan.Changes {
		steps[i] = c.Step
	}
	draft, err := journal.NewDraft(a.journalPath(), journal.Plan{
		ID: patch.ID, Patch: patch.Name, KeyID: patch.KeyID, Warm: patch.Warm, Build: patch.Build, FromBuild: patch.FromBuild,
		Started: time.Now(), Root: a.realRoot, RootIno: a.rootInode(), Sick: patch.Sick, Note: patch.Note, Undoes: plan.undoes, Exchange: a.exchange, Steps: steps, Counts: plan.Counts,
	})
	if err == nil {
		err = a.syncStage(stage, draft)
	}
	if err == nil {
		err = a.fault("journal")
	}
	if err != nil {
		return nil, systemError(ctx, err, "cannot begin")
	}
	j, err := draft.Begin()
	if err != nil {
		if removed := os.Remove(a.journalPath()); removed != nil && !isNotExist(removed) {
			begun = true // the journal counts, so what it speaks of stays for Recover
		}
		return nil, systemError(ctx, err, "cannot begin")
	}
	return &Tx{a: a, j: j, stage: stage}, nil
}

func (a *Applier) rootInode() uint64 {
	info, err := a.root.Stat(".")
	if err != nil {
		return 0
	}
	return inode(info)
}

// ownRoot says whether a plan was made for this tree, which may have been moved.
func (a *Applier) ownRoot(p journal.Plan) bool {
	return p.Root == a.realRoot || p.RootIno == a.rootInode()
}

// makeStage makes the folder of a transaction. The last one took its own with it.
func (a *Applier) makeStage() (*os.File, error) {
	path := filepath.Join(a.txPath(), stageName)
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, err
	}
	return os.Open(path)
}

// openTx is the transaction of a journal that was found.
func (a *Applier) openTx(j *journal.Journal) (*Tx, error) {
	stage, err := os.Open(filepath.Join(a.txPath(), stageName))
	if err != nil {
		return nil, fmt.Errorf("cannot open what the journal speaks of: %w", err)
	}
	return &Tx{a: a, j: j, stage: stage}, nil
}

// syncStage makes the staged files, their names and the draft durable.
func (a *Applier) syncStage(stage *os.File, draft *journal.Draft) error {
	if err := a.fault("sync stage"); err != nil {
		return err
	}
	if syncsFilesystem {
		return syncFilesystem(stage)
	}
	// The files were synced one by one.
	return errors.Join(draft.Sync(), stage.Sync(), journal.SyncDir(a.txPath()), journal.SyncDir(a.opts.State))
}

// systemError gives an error of the system its reason code.
func systemError(ctx context.Context, err error, doing string) error {
	if ctx.Err() != nil && errors.Is(err, context.Cause(ctx)) {
		return err
	}
	if _, ok := reason.Of(err); ok {
		return err
	}
	return reason.Errorf(commitCode(err), "%s: %w", doing, err)
}

// commitCode tells a full disk or quota from every other error of the system.
func commitCode(err error) reason.Code {
	if errors.Is(err, syscall.ENOSPC) || isQuota(err) {
		return reason.NoSpace
	}
	return reason.CommitFailed
}

// stageAll writes the files, a few at a time; the first error stops the rest.
func (a *Applier) stageAll(ctx context.Context, stage *os.File, pkg *manifest.Package, changes []Change) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	work := make(chan *Change)
	var writers sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(changes)) {
		writers.Go(func() {
			buf := make([]byte, copyBuffer)
			for c := range work {
				if err := a.stageOne(ctx, stage, pkg, c, buf); err != nil {
					cancel(err)
				}
			}
		})
	}
	func() {
		defer writers.Wait()
		defer close(work)
		for i := range changes {
			if c := &changes[i]; c.New != nil {
				if err := a.fault("stage %s", c.Path); err != nil {
					cancel(err)
					return
				}
				work <- c
			}
		}
	}()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

func (a *Applier) stageOne(ctx context.Context, stage *os.File, pkg *manifest.Package, c *Change, buf []byte) (err error) {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if c.kept != "" {
		return a.stageKept(stage, c)
	}
	payload, err := pkg.Payload(c.item)
	if err != nil {
		return err
	}
	defer payload.Close()
	f, err := os.OpenFile(filepath.Join(stage.Name(), c.Stage), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	sum := sha256.New()
	both := struct{ io.Writer }{io.MultiWriter(f, sum)}
	size, err := io.CopyBuffer(both, readerFunc(func(p []byte) (int, error) {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		return payload.Read(p)
	}), buf)
	if err != nil {
		return err
	}
	c.New.Size, c.New.SHA256 = size, hex.EncodeToString(sum.Sum(nil))
	// Owner before mode: changing the owner clears set-id bits.
	if c.owner != nil {
		if err := c.owner.give(f); err != nil {
			return reason.Errorf(reason.CommitFailed, "cannot keep the owner of %s: %w", c.Path, err)
		}
		if err := a.copyLiveAttributes(c.Path, f); err != nil {
			return reason.Errorf(reason.CommitFailed, "cannot keep the extended attributes of %s: %w", c.Path, err)
		}
	}
	if err := setMode(f, c.New.Mode); err != nil {
		return reason.Errorf(commitCode(err), "cannot keep the mode of %s: %w", c.Path, err)
	}
	if syncsFilesystem {
		return nil
	}
	return f.Sync()
}

// setMode is Chmod that says so when the system leaves set-id bits out, which it
// does silently for whoever may not set them.
func setMode(f *os.File, mode os.FileMode) error {
	if err := f.Chmod(mode); err != nil {
		return err
	}
	const setID = os.ModeSetuid | os.ModeSetgid
	if mode&setID == 0 {
		return nil
	}
	info, err := f.Stat()
	if err == nil && info.Mode()&setID != mode&setID {
		err = fmt.Errorf("the agent may not set %v, only %v", mode, info.Mode())
	}
	return err
}

func (a *Applier) copyLiveAttributes(place string, to *os.File) error {
	from, err := a.root.OpenFile(place, openQuietly, 0)
	if err != nil {
		return err
	}
	defer from.Close()
	return copyAttributes(from, to)
}
