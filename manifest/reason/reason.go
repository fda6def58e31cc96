// Package reason is the closed list of reasons for which a patch is not
// applied. A code is part of the program's interface: it stands in receipts,
// log lines and the .reason.txt beside a refused patch, and scripts decide on it.
//
// Each code belongs to one outcome and carries the advice that an operator
// reads with it. To add a code, add a row to the table in this file, raise it
// where it is found out, and add it to the outcome table of README.md; a test
// holds the two tables together.
package reason

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// An Outcome is how a drop ended.
type Outcome string

// The outcomes that a receipt can have.
const (
	Applied    Outcome = "applied"     // the tree is the new build
	Rejected   Outcome = "rejected"    // refused before anything outside the state folder was touched
	RolledBack Outcome = "rolled-back" // begun and undone: the tree is the old build
	Failed     Outcome = "failed"      // neither: an operator must act
)

// A Code names why a patch was not applied.
type Code string

// Codes of rejected patches, in the order in which they are looked for.
const (
	Incomplete       Code = "incomplete"
	NotAZip          Code = "not-a-zip"
	ChecksumMissing  Code = "checksum-missing"
	ChecksumMismatch Code = "checksum-mismatch"
	SignatureMissing Code = "signature-missing"
	SignatureInvalid Code = "signature-invalid"
	UnsafePath       Code = "unsafe-path"
	LimitExceeded    Code = "limit-exceeded"
	ManifestMissing  Code = "manifest-missing"
	ManifestInvalid  Code = "manifest-invalid"
	PayloadMissing   Code = "payload-missing"
	PayloadMismatch  Code = "payload-mismatch"
	WrongRegion      Code = "wrong-region"
	WrongProduct     Code = "wrong-product"
	OlderBuild       Code = "older-build"
	RequiresUnmet    Code = "requires-unmet"
	Expired          Code = "expired"
	ProtectedPath    Code = "protected-path"
	Drift            Code = "drift"
	NoSpace          Code = "no-space"
	NotAllowed       Code = "not-allowed"
	WaitedTooLong    Code = "waited-too-long"
)

// Codes of patches that were begun and undone.
const (
	PrecheckFailed Code = "precheck-failed"
	StopFailed     Code = "stop-failed"
	CommitFailed   Code = "commit-failed"
	ReloadFailed   Code = "reload-failed"
	StartFailed    Code = "start-failed"
	NotReady       Code = "not-ready"
	Unhealthy      Code = "unhealthy"
	Interrupted    Code = "interrupted"
	Requested      Code = "requested"
)

// RollbackFailed is the code of a patch that could neither be applied nor undone.
const RollbackFailed Code = "rollback-failed"

type row struct {
	code    Code
	outcome Outcome
	advice  string
}

var table = []row{
	{Incomplete, Rejected, "Copy the zip into the folder again, whole; if it is damaged at its source, build it again."},
	{NotAZip, Rejected, "Build the package again, with zip; only zips in the documented form are read."},
	{ChecksumMissing, Rejected, "Put NAME.zip.sha256 (from `sha256sum NAME.zip`) beside the zip, and drop both again."},
	{ChecksumMismatch, Rejected, "The zip or its checksum was changed or damaged on the way: fetch both again from where they were made."},
	{SignatureMissing, Rejected, "Put NAME.zip.minisig (from `patchagent sign` or `minisign -S`) beside the zip, and drop both again."},
	{SignatureInvalid, Rejected, "If trouble with a key is named, mend that and drop the package again. Otherwise do not use it: ask its maker for one that is signed with a key of verify.keys."},
	{UnsafePath, Rejected, "Do not use this package. A name in it leaves the tree or cannot be a safe file name, or it holds a link or device; have it built again."},
	{LimitExceeded, Rejected, "Raise the limit that is named in [verify] if the package is meant to be so large."},
	{ManifestMissing, Rejected, "Put manifest.json at the root of the zip or into its folder patch/, and build it again."},
	{ManifestInvalid, Rejected, "Mend what is named of manifest.json, and build the package again."},
	{PayloadMissing, Rejected, "Add the named file to the zip under new/ or mod/, or remove it from the manifest."},
	{PayloadMismatch, Rejected, "The payload is not what the manifest says: build the package again, with fresh digests."},
	{WrongRegion, Rejected, "Use the package for this region; `region` in agent.toml says which one this is, and what the process says must be the same."},
	{WrongProduct, Rejected, "Use the package for this product; `product` in agent.toml says which one this is."},
	{OlderBuild, Rejected, "Nothing to do: a newer build is installed. To go back, use `patchagent rollback`; if the agent's record of it is wrong, set `build` in agent.toml."},
	{RequiresUnmet, Rejected, "Apply the package for the required build first, or go back to that build with `patchagent rollback`; then drop this one again."},
	{Expired, Rejected, "Ask for a current package; if this one is current, this machine's clock is wrong, or was: mend what is named."},
	{ProtectedPath, Rejected, "Take the named path out of the package, or out of target.protect if patches may change it."},
	{Drift, Rejected, "The tree is not as the package expects at the named path: put it right there, or build the package against this tree."},
	{NoSpace, Rejected, "Free space on the filesystem that is named, and drop the package again."},
	{NotAllowed, Rejected, "The process, or the hook before_stop, refused the patch; the detail says why. Drop the package again when it would agree."},
	{WaitedTooLong, Rejected, "The process said WAIT for all of target.gate.max_wait: drop the package again at a better time."},

	{PrecheckFailed, RolledBack, "The check command, or the hook after_files, refused the new files; its output says why. Mend the package and drop the new one."},
	{StopFailed, RolledBack, "Find out why the process does not stop (a process in uninterruptible sleep, missing rights), then drop the package again."},
	{CommitFailed, RolledBack, "See the system's error in the detail (disk, rights, quota), mend it, then drop the package again."},
	{ReloadFailed, RolledBack, "The process could not be told of the new files: check what the detail names of target.reload or, for a service that another manager runs, target.external.reload; and the process's own log."},
	{StartFailed, RolledBack, "The new version did not come up: see its output, and mend the package or what is named of agent.toml; then drop it again."},
	{NotReady, RolledBack, "The new version was not ready in time: see its output, or raise target.ready.timeout."},
	{Unhealthy, RolledBack, "The new version became unhealthy, or the hook after_start failed on it: see the output, mend the package and drop the new one."},
	{Interrupted, RolledBack, "The agent was interrupted in the middle of this patch each time it was tried: find out why, then drop the package again."},
	{Requested, RolledBack, "Nothing to do: an operator asked for this rollback."},

	{RollbackFailed, Failed, "No further patch is applied. Mend what the detail names (disk, rights), then start the agent again: it goes on undoing where it stopped."},
}

func (c Code) row() (row, bool) {
	for _, r := range table {
		if r.code == c {
			return r, true
		}
	}
	return row{}, false
}

// Outcome says how a drop ends that has this code; "" for an unknown one.
func (c Code) Outcome() Outcome { r, _ := c.row(); return r.outcome }

// Advice is one or two sentences that tell an operator what to do.
func (c Code) Advice() string { r, _ := c.row(); return r.advice }

// All returns every code, in the order in which they are looked for.
func All() []Code {
	codes := make([]Code, len(table))
	for i, r := range table {
		codes[i] = r.code
	}
	return codes
}

// An Error is a reason with the sentence that says what was found. Whatever
// refuses or undoes a patch returns one (perhaps wrapped), and the outcome is
// decided on its Code.
type Error struct {
	Code   Code
	Detail string // one line, a sentence without a final stop; names the file or field
	Output string // the last lines that the process had printed; "" for most reasons
	cause  error
}

// Errorf makes an Error from a format as fmt.Errorf takes it, with at most one
// %w. The detail is what Line makes of it.
func Errorf(code Code, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Code: code, Detail: Line(err.Error()), cause: errors.Unwrap(err)}
}

// maxLine is how many bytes of a sentence are kept.
const maxLine = 4 << 10

// Line makes one line of a sentence that may quote a stranger: line breaks and
// whatever else a terminal might obey become spaces, and a long one is cut.
func Line(sentence string) string {
	const cut = "…"
	if len(sentence) > maxLine {
		sentence = strings.ToValidUTF8(sentence[:maxLine-len(cut)], "") + cut
	}
	return strings.Map(func(r rune) rune {
		switch {
		case r == utf8.RuneError:
			return '?' // so that it does not grow
		case !unicode.IsPrint(r):
			return ' '
		}
		return r
	}, sentence)
}

func (e *Error) Error() string { return e.Detail }

func (e *Error) Unwrap() error { return e.cause }

// Of finds the code in err's chain; ok is false if there is none.
func Of(err error) (code Code, ok bool) {
	if e, found := errors.AsType[*Error](err); found {
		return e.Code, true
	}
	return "", false
}
