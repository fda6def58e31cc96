package watcher

import (
	"testing"
	"time"

	"patchagent/manifest/reason"
)

// TestDecide changes one or two things at a time of a drop with which all is well.
func TestDecide(t *testing.T) {
	const patience = 30 * time.Second
	const late, early = patience, patience - 1
	waits := verdict{}
	takes := verdict{take: true}
	gives := func(code reason.Code) verdict { return verdict{code: code} }

	for _, tc := range []struct {
		name   string
		change func(*sight)
		early  verdict // before patience is over
		late   verdict // afterwards
	}{
		{"all is well", func(*sight) {}, takes, takes},
		{"somebody writes it", func(s *sight) { s.writer = WriterOpen }, waits, waits},
		{"somebody writes a giant", func(s *sight) { s.writer, s.size = WriterOpen, 1001 }, waits, waits},
		{"somebody writes what is no zip", func(s *sight) { s.writer, s.shape = WriterOpen, NotZip }, waits, waits},
		{"no zip", func(s *sight) { s.shape = NotZip }, waits, gives(reason.NotAZip)},
		{"parts are missing", func(s *sight) { s.shape = Incomplete }, waits, gives(reason.Incomplete)},
		{"one byte too large", func(s *sight) { s.size = 1001 }, waits, gives(reason.LimitExceeded)},
		{"as large as may be", func(s *sight) { s.size = 1000 }, takes, takes},
		{"no limit", func(s *sight) { s.sizeLimit, s.size = 0, 1<<40 }, takes, takes},
		{"a second name", func(s *sight) { s.links = 2 }, waits, gives(reason.Incomplete)},
		{"no name any more", func(s *sight) { s.links = 0 }, waits, gives(reason.Incomplete)},
		{"a giant with a second name", func(s *sight) { s.links, s.size = 2, 1001 }, waits, gives(reason.LimitExceeded)},
		{"writers unknown, every byte looked at", func(s *sight) { s.writer = WriterUnknown }, takes, takes},
		{"writers unknown, a byte is wrong", func(s *sight) { s.writer, s.checked = WriterUnknown, false }, waits, takes},
		{"writers unknown, it has just changed", func(s *sight) { s.writer, s.steady = WriterUnknown, false }, waits, takes},
		{"no writer, it has just changed", func(s *sight) { s.steady, s.checked = false, false }, takes, takes},
		{"its checksum is not finished", func(s *sight) { s.checksum = unfinished }, waits, takes},
		{"its checksum is not finished, none is needed", func(s *sight) { s.checksum, s.needSum = unfinished, false }, waits, takes},
		{"its signature is not finished", func(s *sight) { s.signature = unfinished }, waits, takes},
		{"its signature is not finished, none is needed", func(s *sight) { s.signature, s.needSig = unfinished, false }, takes, takes},
		{"its checksum is missing", func(s *sight) { s.checksum = absent }, waits, gives(reason.ChecksumMissing)},
		{"its checksum is missing, none is needed", func(s *sight) { s.checksum, s.needSum = absent, false }, takes, takes},
		{"its digests are inside", func(s *sight) { s.checksum, s.shape = absent, WholeWithDigests }, takes, takes},
		{"digests inside, a checksum half-written beside", func(s *sight) { s.checksum, s.shape = unfinished, WholeWithDigests }, waits, takes},
		{"its signature is missing", func(s *sight) { s.signature = absent }, waits, gives(reason.SignatureMissing)},
		{"its signature is missing, none is needed", func(s *sight) { s.signature, s.needSig = absent, false }, takes, takes},
		{"digests do not make up for a signature", func(s *sight) { s.signature, s.shape = absent, WholeWithDigests }, waits, gives(reason.SignatureMissing)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for quiet, want := range map[time.Duration]verdict{0: tc.early, early: tc.early, late: tc.late, 2 * late: tc.late} {
				s := sight{
					size: 100, links: 1, writer: WriterNone, shape: Whole, why: "so it looks", steady: true, checked: true,
					checksum: present, signature: present, needSum: true, needSig: true, sizeLimit: 1000,
					quiet: quiet, patience: patience,
				}
				tc.change(&s)
				got := decide(s)
				if got.take != want.take || got.code != want.code {
					t.Errorf("after %v: take %t, code %q; want take %t, code %q", quiet, got.take, got.code, want.take, want.code)
				}
				if !got.take && got.why == "" {
					t.Errorf("after %v: it is not taken, and no word why", quiet)
				}
			}
		})
	}
}
