package watcher

import (
	"io/fs"
	"strings"
)

// Ignored is an entry of the folder that is no drop and that somebody may take for one,
// and why it is none.
type Ignored struct{ Name, Why string }

// maxIgnored is how many of them a scan names; of more it tells the number.
const maxIgnored = 20

// overlooked says why an entry is not looked at that its owner may wait for; "" for a
// drop and for what belongs in the folder: sidecars, lists, HOLD, what is hidden or
// still being made, and the folders in which drops are put away.
func overlooked(e fs.DirEntry) string {
	const lies = "only what lies in the patch folder itself is looked at"
	name := strings.ToLower(e.Name())
	switch {
	case strings.HasPrefix(name, "."), unfinishedName(name):
		return ""
	case e.IsDir():
		if e.Name() == appliedName || e.Name() == rejectedName {
			return ""
		}
		return "it is a folder, and " + lies
	case e.Name() == HoldName || e.Name() == listName || e.Name() == checksumsName:
		return ""
	case e.Type()&fs.ModeSymlink != 0:
		return "it is a link, and none is followed"
	case strings.HasSuffix(name, ".zip"):
		if e.Type().IsRegular() {
			return ""
		}
		return "it is no regular file"
	}
	for _, ending := range ownEndings {
		if beside, is := strings.CutSuffix(name, ending); is {
			if strings.HasSuffix(beside, ".zip") {
				return ""
			}
			return "it belongs to no package: the file beside NAME.zip is named NAME.zip" + ending
		}
	}
	return "its name does not end in .zip"
}

// unfinishedName says whether a name, in lower case, is one that somebody gives a file
// while it is made.
func unfinishedName(name string) bool {
	for _, ending := range ignored {
		if strings.HasSuffix(name, ending) {
			return true
		}
	}
	return false
}

// overlook counts an entry that is ignored.
func (s *scan) overlook(e fs.DirEntry) {
	why := overlooked(e)
	switch {
	case why == "":
	case len(s.found.Ignored) < maxIgnored:
		s.found.Ignored = append(s.found.Ignored, Ignored{e.Name(), why})
	default:
		s.found.MoreIgnored++
	}
}
