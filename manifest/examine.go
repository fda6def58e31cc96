package manifest

import "io"

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
	entries, unfinished, err := readContainer(r, size, limits)
	if err != nil && unfinished {
		if beginsLikeZip(r, size) {
			return Incomplete, err
		}
		return NotZip, err
	}
	if err != nil {
		return Whole, nil
	}
	p := &Package{r: r, entries: entries}
	if _ = p.read(); p.Manifest != nil && p.Manifest.Schema >= 2 {
		return WholeWithDigests, nil // what else is wrong with it is for Open to say
	}
	return Whole, nil
}
