package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"patchagent/agent/config"
	"patchagent/agent/record"
	"patchagent/applier"
	"patchagent/manifest"
	"patchagent/manifest/reason"
	"patchagent/manifest/signature"
	"patchagent/watcher"
)

// checked is what is known of a package once it was looked at.
type checked struct {
	pkg    *manifest.Package  // nil if it could not be read, or is not held open
	m      *manifest.Manifest // nil if it could not be read
	signer signature.Proof    // not signed if verify.keys is empty
}

// A patch is a verified drop whose turn has not come, or has.
type patch struct {
	claim *watcher.Claim
	file  *os.File // the private copy
	checked
	noticed string // why it waits, as it was last logged
	talk    talk   // with the gate
}

func (p *patch) close() { _ = p.file.Close() }

func (p *patch) manifest() *manifest.Manifest { return p.m }

// open sees to it that the package is there for its turn, and rest that it takes little
// memory while it waits. It is opened by the limits that hold then.
func (p *patch) open(cfg *config.Config) (err error) {
	if p.pkg == nil {
		p.pkg, err = manifest.Open(p.file, p.claim.Size, limitsOf(cfg))
	}
	return err
}

func (p *patch) rest() {
	if p.pkg != nil && p.pkg.Large() {
		p.pkg = nil
	}
}

// verify opens a package and holds it against everything that does not depend on
// when its turn comes: checksum, signature, structure, manifest, payload, region,
// product, in this order. The error is a *reason.Error, or the context's.
func verify(ctx context.Context, f *os.File, name string, sums manifest.Sums, sidecars manifest.Sidecars, cfg *config.Config, installed record.Installed) (c checked, err error) {
	if err := verifyChecksum(f, name, sums, sidecars, cfg); err != nil {
		return c, err
	}
	if c.signer, err = verifySignature(ctx, f, sums.Size, sidecars.Minisig, cfg); err != nil {
		return c, err
	}
	pkg, err := manifest.Open(f, sums.Size, limitsOf(cfg))
	if err != nil {
		return c, err
	}
	if sidecars.Minisig != nil && !c.signer.Signed() {
		pkg.Notes = append(pkg.Notes, "it is signed, and nobody has looked by whom: verify.keys names no key")
	}
	c.pkg, c.m = pkg, pkg.Manifest
	if err := pkg.Verify(ctx); err != nil {
		return c, err
	}
	return c, belongs(pkg.Manifest, installed)
}

// verifySignature asks for a signature by one of the keys, if there are any. A key
// that cannot be read is one that is not trusted.
func verifySignature(ctx context.Context, r io.ReaderAt, size int64, minisig []byte, cfg *config.Config) (signature.Proof, error) {
	if len(cfg.Verify.Keys) == 0 {
		return signature.Proof{}, nil
	}
	keys, unread := cfg.ReadKeys()
	if noDescriptor(unread) {
		return signature.Proof{}, fmt.Errorf("cannot read the keys: %w", unread) // for now
	}
	proof, err := keys.Check(ctx, r, size, minisig)
	if code, ok := reason.Of(err); ok && unread != nil {
		err = reason.Errorf(code, "%w; %s", err, unread)
	}
	return proof, err
}

// noDescriptor says whether too many files are open, here or on the whole machine.
func noDescriptor(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}

// trusted says whether a package that waited would be let in by the keys of now:
// one may have been removed meanwhile, or the first one added.
func trusted(signer signature.Proof, cfg *config.Config) error {
	if len(cfg.Verify.Keys) == 0 {
		return nil
	}
	if !signer.Signed() {
		return reason.Errorf(reason.SignatureMissing, "verify.keys asks for a signature since the patch began to wait; drop it again")
	}
	keys, unread := cfg.ReadKeys()
	if noDescriptor(unread) {
		return fmt.Errorf("cannot read the keys: %w", unread) // for now
	}
	if !keys.Trust(signer) {
		return reason.Errorf(reason.SignatureInvalid, "the key %s, which has signed it, was removed from verify.keys while it waited", signer.KeyID)
	}
	return nil
}

// belongs says whether a package is for this region and product.
func belongs(m *manifest.Manifest, installed record.Installed) error {
	if m.Region != installed.Region {
		return reason.Errorf(reason.WrongRegion, "the patch is for region %q, this is %q", m.Region, installed.Region)
	}
	if installed.Product != "" && m.Schema >= 2 && m.Product != installed.Product {
		return reason.Errorf(reason.WrongProduct, "the patch is for product %q, this is %q", m.Product, installed.Product)
	}
	return nil
}

func verifyChecksum(f *os.File, name string, sums manifest.Sums, sidecars manifest.Sidecars, cfg *config.Config) error {
	found, err := sidecars.Check(name, sums)
	if errors.Is(err, manifest.ErrSidecarUnfinished) {
		return reason.Errorf(reason.ChecksumMismatch, "a checksum file of %s cannot be read: %w", name, err)
	}
	if err != nil || found || cfg.Verify.Require == config.RequireNone || len(cfg.Verify.Keys) > 0 {
		return err // a signature is worth a checksum
	}
	if shape, _ := manifest.Examine(f, sums.Size, limitsOf(cfg)); shape == manifest.WholeWithDigests {
		return nil
	}
	return reason.Errorf(reason.ChecksumMissing, "there is no checksum for %s", name)
}

// admit holds a verified package against what is installed now: region and product
// once more, since agent.toml may have changed while it waited; then build,
// required build, expiry.
func admit(m *manifest.Manifest, installed record.Installed, clock *record.Clock) error {
	if err := belongs(m, installed); err != nil {
		return err
	}
	if err := follows(m, present{build: installed.Build}); err != nil {
		return err
	}
	return fresh(m, clock)
}

// present is the build that a package would replace.
type present struct {
	build    int64
	reported bool  // by the process; otherwise it is on record
	record   int64 // what is on record, where it is reported
}

func (p present) String() string {
	switch {
	case !p.reported:
		return fmt.Sprintf("build %d is installed", p.build)
	case p.build == p.record:
		return fmt.Sprintf("the process says that it is build %d, as is on record", p.build)
	default:
		return fmt.Sprintf("the process says that it is build %d, which counts for more than the record and agent.toml (build %d): if it is wrong, mend what the gate reports",
			p.build, p.record)
	}
}

// follows says whether a package may be applied to a build.
func follows(m *manifest.Manifest, to present) error {
	if m.Build < to.build {
		return reason.Errorf(reason.OlderBuild, "the patch is build %d, and %s", m.Build, to)
	}
	if m.Requires != nil && *m.Requires != to.build {
		return reason.Errorf(reason.RequiresUnmet, "the patch requires build %d, and %s", *m.Requires, to)
	}
	return nil
}

// fresh says whether a package has not expired.
func fresh(m *manifest.Manifest, clock *record.Clock) error {
	if !m.Expires.IsZero() && clock.Now().After(m.Expires) {
		late := reason.Errorf(reason.Expired, "the patch was good until %s", m.Expires.Format(time.RFC3339))
		if why := clock.Ahead(); why != "" {
			late = reason.Errorf(reason.Expired, "%w; %s", late, why)
		}
		return late
	}
	return nil
}

func limitsOf(cfg *config.Config) manifest.Limits {
	return manifest.Limits{
		MaxSize: int64(cfg.Verify.MaxSize), MaxUnpacked: int64(cfg.Verify.MaxUnpacked),
		MaxFiles: cfg.Verify.MaxFiles, MaxRatio: cfg.Verify.MaxRatio,
	}
}

// sums and sidecars of a claim, as the manifest package knows them.
func sumsOf(c *watcher.Claim) manifest.Sums {
	return manifest.Sums{SHA256: c.SHA256, CRC32: c.CRC32, Size: c.Size}
}

// receiptOf begins a receipt with what is known of the drop so far.
func receiptOf(c *watcher.Claim, known checked, from int64, began time.Time) record.Receipt {
	r := record.Receipt{ID: c.ID, Patch: c.Name, SHA256: hex.EncodeToString(c.SHA256[:]), KeyID: known.signer.KeyID, FromBuild: from, TookMS: time.Since(began).Milliseconds()}
	if c.SHA256 == ([sha256.Size]byte{}) {
		r.SHA256 = "" // it was given up before it was copied
	}
	if m := known.m; m != nil {
		r.Build, r.Region, r.Product, r.Strategy = &m.Build, m.Region, m.Product, applier.StrategyName(m.Warm)
	}
	return r
}

// refuse makes err the receipt's outcome.
func refuse(r record.Receipt, err error) record.Receipt {
	code, ok := reason.Of(err)
	if !ok {
		code = reason.CommitFailed
	}
	r.Outcome, r.Reason, r.Detail = code.Outcome(), code, fmt.Sprint(err)
	return r
}
