package manifest

import (
	"cmp"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/cases"
	"golang.org/x/text/unicode/norm"

	"patchagent/manifest/reason"
)

// Limits of names: those of Linux (NAME_MAX, and PATH_MAX without its final zero),
// and a depth that no tree needs and that keeps every walk short.
const (
	maxSegment = 255
	maxPath    = 4095
	maxDepth   = 100
)

// validName is what utf8.ValidString says; zips that are not in UTF-8 are refused
// rather than guessed at.
func validName(name string) bool { return utf8.ValidString(name) }

// checkName takes an entry's name apart: without its slash if it is a folder.
func checkName(raw string) (name string, dir bool, err error) {
	name, dir = strings.CutSuffix(raw, "/")
	return name, dir, safePath(name)
}

// safePath refuses what is not a plain relative path.
func safePath(name string) error {
	unsafe := func(why string) error { return reason.Errorf(reason.UnsafePath, "the name %q %s", name, why) }
	switch {
	case name == "":
		return unsafe("is empty")
	case !validName(name):
		return unsafe("is not UTF-8")
	case len(name) > maxPath:
		return reason.Errorf(reason.LimitExceeded, "a name has %d bytes, more than %d", len(name), maxPath)
	case strings.HasPrefix(name, "/"):
		return unsafe("is absolute")
	case strings.Contains(name, `\`):
		return unsafe("has a backslash in it")
	case strings.Count(name, "/") >= maxDepth:
		return reason.Errorf(reason.LimitExceeded, "a name is nested more than %d folders deep", maxDepth)
	}
	for _, r := range name {
		if invisible(r) {
			return reason.Errorf(reason.UnsafePath, "the name %+q has a control or invisible character in it", name)
		}
	}
	for segment := range strings.SplitSeq(name, "/") {
		switch {
		case segment == "..":
			return unsafe("leads out of the tree")
		case segment == "" || segment == ".":
			return unsafe("has an empty or . segment")
		case len(segment) > maxSegment:
			return unsafe("has a segment of more than 255 bytes")
		case runtime.GOOS == "windows" && !safeOnWindows(segment):
			return unsafe("cannot be a file name on this system")
		}
	}
	return nil
}

// invisible says whether a reader of the name would not see the character, or not
// see it for what it is.
func invisible(r rune) bool {
	return !unicode.IsPrint(r) || unicode.Is(unicode.Other_Default_Ignorable_Code_Point, r) || unicode.Is(unicode.Variation_Selector, r)
}

// safeOnWindows refuses drives, streams, device names and what Windows drops from
// the end of a name.
func safeOnWindows(segment string) bool {
	return filepath.IsLocal(segment) && !strings.ContainsAny(segment, `:<>"|?*`) && !strings.HasSuffix(segment, ".") && !strings.HasSuffix(segment, " ")
}

// checkNames refuses entries whose names some file system takes for one, files that
// are also folders, and more folders than most.
func checkNames(entries []*entry, most int) error {
	type named struct {
		key string
		*entry
	}
	all := make([]named, len(entries))
	for i, e := range entries {
		all[i] = named{foldName(e.name), e}
	}
	slices.SortFunc(all, func(x, y named) int { return compareNames(x.key, y.key) })
	var folders folderCount
	for i, e := range all {
		if i > 0 {
			if err := clash(all[i-1].entry, e.entry, all[i-1].key, e.key); err != nil {
				return err
			}
		}
		folder := e.key
		if !e.dir {
			folder = parent(folder)
		}
		if folders.add(folder) > most {
			return reason.Errorf(reason.LimitExceeded, "it has more folders than verify.max_files (%d)", most)
		}
	}
	return nil
}

// clash looks at two entries that follow each other in order of their keys.
func clash(x, y *entry, keyX, keyY string) error {
	switch {
	case keyX != keyY && (x.dir || !isBelow(keyY, keyX)):
		return nil
	case keyX != keyY || x.dir != y.dir:
		if x.dir {
			x, y = y, x
		}
		return bad("%s is a file, and a folder for %s", x.name, y.name)
	case x.dir:
		return bad("the folder %s is in it twice", x.name)
	case x.name == y.name:
		return bad("%s is in it twice", x.name)
	default:
		return bad("%+q and %+q are the same name to some file systems", x.name, y.name)
	}
}

// compareNames orders names so that what is in a folder follows the folder's own
// name, with nothing between: the slash comes before every other character.
func compareNames(x, y string) int {
	for i := range min(len(x), len(y)) {
		switch a, b := x[i], y[i]; {
		case a == b:
		case a == '/':
			return -1
		case b == '/':
			return 1
		default:
			return cmp.Compare(a, b)
		}
	}
	return cmp.Compare(len(x), len(y))
}

// isBelow says whether a name is in the folder, or in one of its folders.
func isBelow(name, folder string) bool {
	return len(name) > len(folder) && name[len(folder)] == '/' && name[:len(folder)] == folder
}

// parent is the folder that a name is in, "" for none.
func parent(name string) string { return name[:max(strings.LastIndexByte(name, '/'), 0)] }

// folderCount counts the folders of names that come in order, without keeping them.
type folderCount struct {
	n    int
	last string
}

// add counts a folder and those above it, as far as they are new, and returns how
// many there are so far.
func (c *folderCount) add(folder string) int {
	if folder != "" {
		c.n += 1 + strings.Count(folder, "/")
	}
	same := 0 // folders that both are in
	for i := 0; i <= len(folder) && i <= len(c.last); i++ {
		endX, endY := i == len(folder) || folder[i] == '/', i == len(c.last) || c.last[i] == '/'
		if endX && endY && i > 0 {
			same++
		}
		if i == len(folder) || i == len(c.last) || folder[i] != c.last[i] {
			break
		}
	}
	c.n -= same
	c.last = folder
	return c.n
}

// foldName is the same for names that differ only in case or in Unicode normalisation,
// as file systems that know of either take them for one (Unicode, D145: canonical
// caseless match). It is at most three times as long.
func foldName(name string) string {
	for i := range len(name) {
		if name[i] >= 0x80 {
			return norm.NFC.String(cases.Fold().String(norm.NFD.String(name)))
		}
	}
	return strings.ToLower(name)
}
