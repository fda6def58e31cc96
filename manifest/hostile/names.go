package hostile

import (
	"fmt"
	"patchagent/manifest/reason"
	"strings"
)

// Names that are no plain relative path.
func Names() []Package {
	var all []Package
	for _, c := range []struct {
		name string
		code reason.Code
	}{
		{"../x", reason.UnsafePath}, {"mod/../../x", reason.UnsafePath}, {"/etc/passwd", reason.UnsafePath}, {`mod\a`, reason.UnsafePath},
		{`..\x`, reason.UnsafePath}, {"mod//a", reason.UnsafePath}, {"./mod/a", reason.UnsafePath}, {"mod/.", reason.UnsafePath},
		{"mod/a\x00b", reason.UnsafePath}, {"mod/a\nb", reason.UnsafePath}, {"mod/a\x7f", reason.UnsafePath}, {"mod/a\u200bb", reason.UnsafePath},
		{"mod/\u202etxt.exe", reason.UnsafePath}, {"mod/a\u00a0b", reason.UnsafePath}, {"mod/\u3164", reason.UnsafePath}, {"mod/\xff\xfe", reason.UnsafePath},
		{"mod/a\ufe0f", reason.UnsafePath}, {"mod/" + strings.Repeat("n", 256), reason.UnsafePath}, {strings.Repeat("d/", 101) + "x", reason.LimitExceeded},
		{strings.Repeat(strings.Repeat("p", 200)+"/", 21) + "x", reason.LimitExceeded}, {"/", reason.UnsafePath},
	} {
		all = append(all, Package{fmt.Sprintf("the name %.40q", c.name), Zip{Parts: append(Plain(Part{}).Parts, Part{Name: c.name})}, c.code})
	}
	return all
}
