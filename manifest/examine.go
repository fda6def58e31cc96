package manifest

import (
	"bytes"
	"errors"
	"io"
)

// Shape says how far a file has come on its way to being a package.
type Shape int

// The shapes. Only what further writing could still make good is less than Whole:
// a complete zip that breaks a rule is Whole, and Open says what is wrong with it.
const (
	NotZip           Shape = iota // does not begin like a zip
	Incomplete                    // begins like one; parts are missing
	Whole                         // all parts are there
	WholeWithDigests              // and its manifest has a digest for each file, so that it needs no checksum beside it
)

func (s Shape) String() string {
	return [...]string{"not a zip", "incomplete", "whole", "whole with digests"}[s]
}

// Examine looks at a file that may still be being written. It reads the headers
// and the manifest, and unpacks nothing else: that every byte between them has
// arrived is for Verify to say. The error says why a file is not Whole.
func Examine(r io.ReaderAt, size int64, limits Limits) (Shape, error) {
	limits = limits.withDefaults()
	shape, entries, err := examine(r, size, limits)
	if entries == nil {
		return shape, err
	}
	p := &Package{r: r, entries: entries}
	if _ = p.read(limits); p.Manifest != nil && p.Manifest.Schema >= 2 {
		return WholeWithDigests, nil // what else is wrong with it is for Open to say
	}
	return Whole, nil
}

// ExamineHeaders is Examine for a file that nobody has vouched for yet: it unpacks
// nothing at all, and so never says WholeWithDigests.
func ExamineHeaders(r io.ReaderAt, size int64, limits Limits) (Shape, error) {
	shape, _, err := examine(r, size, limits.withDefaults())
	return shape, err
}

// examine returns the entries of a zip that breaks no rule.
func examine(r io.ReaderAt, size int64, limits Limits) (Shape, []*entry, error) {
	entries, unfinished, err := readContainer(r, size, limits)
	switch {
	case err == nil:
		return Whole, entries, nil
	case !unfinished:
		return Whole, nil, nil
	case beginsLikeZip(r, size):
		return Incomplete, nil, err
	default:
		return NotZip, nil, err
	}
}

// beginsLikeZip says whether the first bytes are, or can become, a zip's. Bytes that
// cannot be read may be anything.
func beginsLikeZip(r io.ReaderAt, size int64) bool {
	first := make([]byte, min(size, 4))
	if _, err := r.ReadAt(first, 0); err != nil && !errors.Is(err, io.EOF) {
		return true
	}
	return size > 0 && (bytes.HasPrefix([]byte("PK\x03\x04"), first) || bytes.HasPrefix([]byte("PK\x05\x06"), first))
}

const endsInside = "it ends with a zip that is inside it"

// insideZip says whether a zip begins there, within what begins like one: then an
// end record that belongs to it says nothing of the file, and the file's own is
// still to come.
func insideZip(r io.ReaderAt, size, begin int64) bool {
	return begin > 0 && begin < size && beginsLikeZip(r, size) && beginsLikeZip(io.NewSectionReader(r, begin, size-begin), size-begin)
}

// torn says of a header's name that the header is written in part, into a file that
// was made in its whole length before.
func torn(name []byte) bool { return len(name) == 0 || name[len(name)-1] == 0 }
