package manifest

import (
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"unicode"

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

// checkNames refuses entries whose names some file system takes for one, and files
// that are also folders.
func checkNames(entries []*entry) error {
	files := make(map[string]string, len(entries))
	folders := map[string]string{}
	explicit := map[string]bool{}
	for _, e := range entries {
		key := foldName(e.name)
		if e.dir {
			if explicit[key] {
				return bad("the folder %s is in it twice", e.name)
			}
			explicit[key] = true
			folders[key] = e.name
		} else {
			if other, ok := files[key]; ok {
				if other == e.name {
					return bad("%s is in it twice", e.name)
				}
				return bad("%+q and %+q are the same name to some file systems", other, e.name)
			}
			files[key] = e.name
		}
		for up := path.Dir(key); up != "."; up = path.Dir(up) {
			if _, ok := folders[up]; ok {
				break // and so are those above it
			}
			folders[up] = e.name
		}
	}
	for key, name := range files {
		if within, ok := folders[key]; ok {
			return bad("%s is a file, and a folder for %s", name, within)
		}
	}
	return nil
}

// foldName is the same for names that differ only in case or in Unicode
// normalisation.
func foldName(name string) string {
	for i := range len(name) {
		if name[i] >= 0x80 {
			return norm.NFC.String(cases.Fold().String(norm.NFKC.String(name)))
		}
	}
	return strings.ToLower(name)
}
