// Package hostile makes packages that must be refused, byte by byte, for tests and for
// whoever wants to see what patchagent says to them. Each differs from a good package
// in one thing, and comes with the code that it is refused with.
//
// The makers are good for honest packages too, in every form that the format allows:
// a Zip is written just as it is described.
package hostile

import (
	"slices"
	"strings"

	"patchagent/manifest/reason"
)

// A Package is a zip and the reason for which it must be refused, with the limits
// below.
type Package struct {
	Name string // what is wrong with it
	Zip  Zip
	Code reason.Code
}

// Limits under which the packages are what they are named for.
const (
	MaxUnpacked = 4 << 10 // bytes
	MaxFiles    = 10
	MaxRatio    = 100
)

// All returns every package, in order of name.
func All() []Package {
	all := slices.Concat(Containers(), Readers(), Sizes(), Contents(), Bombs(), Names(), Documents())
	slices.SortFunc(all, func(x, y Package) int { return strings.Compare(x.Name, y.Name) })
	return all
}
