package hostile

import (
	"fmt"
	"hash/crc32"
	"strings"

	"patchagent/manifest/reason"
)

// Readers are zips that unzip, 7-Zip, bsdtar, or who reads a zip from a pipe, take for
// something else than what their directories say.
func Readers() []Package {
	var all []Package
	for _, host := range []byte{0, 2, 5, 10, 11, 16, 30} {
		all = append(all, Package{fmt.Sprintf("a link that was made on system %d", host),
			Plain(Part{Mode: 0o120777, Data: "/etc/passwd", Central: func(h []byte) { h[5] = host }}), reason.UnsafePath})
	}
	kind := []byte{0x78, 0x6c, 6, 0, 5, 0, 3, 0xff, 0xa1, 0} // bitmap, made on, mode 0120777
	return append(all,
		Package{"libarchive's field in the local header", Plain(Part{LocalEx: kind}), reason.NotAZip},
		Package{"libarchive's field in the directory", Plain(Part{Extra: kind, LocalEx: []byte{}}), reason.NotAZip},
		Package{"an entry that ends twice", endsTwice("the file for one reader", false), reason.NotAZip},
		Package{"an entry that ends twice, with long sizes", endsTwice("the file for one reader", true), reason.NotAZip},
		Package{"an entry of ends, of which the last but one fits", endsTwice(strings.Repeat("PK\x07\x08", 100)+"PK\x07", false), reason.NotAZip},
		Package{"an entry that ends at its beginning", endsTwice("", false), reason.NotAZip},
		Package{"sizes that are in a zip64 field that is not there", Plain(Part{Data: "abc", Method: Deflate, Desc: 16, Local: wide(18, 22)}), reason.NotAZip},
		Package{"a checksum of ones that comes later", Plain(Part{Data: "abc", Method: Deflate, Desc: 16, Local: wide(14)}), reason.NotAZip},
	)
}

// endsTwice has a stored entry whose size comes after it, twice.
func endsTwice(begin string, wide bool) Zip {
	d := make([]byte, 16, 24)
	Put32(d, 0, descriptorSig)
	Put32(d, 4, crc32.ChecksumIEEE([]byte(begin)))
	if wide {
		d = d[:24]
		Put64(d, 8, uint64(len(begin)))
		Put64(d, 16, uint64(len(begin)))
	} else {
		Put32(d, 8, uint32(len(begin)))
		Put32(d, 12, uint32(len(begin)))
	}
	hidden := Zip{Parts: []Part{{Name: "mod/hidden", Data: "and another one"}}}
	return Plain(Part{Data: begin + string(d) + string(hidden.Bytes()), Desc: 16})
}
