package watcher

import (
	"time"

	"patchagent/manifest/reason"
)

// Shape says how far a file has come; see manifest.Shape, which it mirrors.
type Shape int

// The shapes.
const (
	NotZip Shape = iota
	Incomplete
	Whole
	WholeWithDigests
)

// Writer says whether somebody has a file open for writing.
type Writer int

// What can be known of writers.
const (
	WriterUnknown Writer = iota // the system cannot say
	WriterNone
	WriterOpen
)

// sight is all that the rule is told about a drop.
type sight struct {
	size    int64
	links   uint64
	writer  Writer
	shape   Shape
	why     string // why it is not whole
	steady  bool   // it has not changed since the look before
	checked bool   // every byte is known to have arrived

	checksum  presence
	signature presence
	needSum   bool
	needSig   bool
	sizeLimit int64
	quiet     time.Duration // since the last change
	patience  time.Duration
}

// presence is the state of something beside the drop.
type presence int

const (
	absent presence = iota
	unfinished
	present
)

// verdict is what the rule decides: take it, give it up with code, or wait.
type verdict struct {
	take     bool
	code     reason.Code // "" unless it is given up
	why      string
	waitsFor string // if it is whole: NoProof, NoRoom or NoSpace
}

// decide is the rule. Content decides what is taken; stillness decides only when
// to give up. A drop that somebody is writing is waited for without end.
func decide(s sight) verdict {
	wait := func(why string) verdict { return verdict{why: why} }
	if s.writer == WriterOpen {
		return wait("somebody is still writing it")
	}
	over := s.quiet >= s.patience
	giveUp := func(code reason.Code, why string) verdict {
		if !over {
			return wait(why)
		}
		return verdict{code: code, why: why}
	}
	unproved := func(v verdict) verdict {
		v.waitsFor = NoProof
		return v
	}
	switch {
	case s.sizeLimit > 0 && s.size > s.sizeLimit:
		return giveUp(reason.LimitExceeded, "it is larger than verify.max_size")
	case s.links != 1:
		return giveUp(reason.Incomplete, "it has another hard link")
	case s.shape == NotZip:
		return giveUp(reason.NotAZip, s.why)
	case s.shape == Incomplete:
		return giveUp(reason.Incomplete, s.why)
	case s.writer == WriterUnknown && !(s.steady && s.checked) && !over:
		return wait("it cannot be known yet whether it is all there")
	case !over && (s.checksum == unfinished || s.needSig && s.signature == unfinished):
		return unproved(wait("a file beside it is not finished"))
	case s.needSum && s.checksum == absent && s.shape != WholeWithDigests:
		return unproved(giveUp(reason.ChecksumMissing, "its checksum is missing"))
	case s.needSig && s.signature == absent:
		return unproved(giveUp(reason.SignatureMissing, "its signature is missing"))
	default:
		return verdict{take: true}
	}
}
