package hostile

import (
	"hash/crc32"
	"patchagent/manifest/reason"
	"strings"
)

func set16(at int, v uint16) func([]byte) { return func(h []byte) { Put16(h, at, v) } }
func set32(at int, v uint32) func([]byte) { return func(h []byte) { Put32(h, at, v) } }

// UnicodePath is an extra field that gives an entry another name.
func UnicodePath(raw, name string) []byte {
	b := make([]byte, 9, 9+len(name))
	Put16(b, 0, extraUnicode)
	Put16(b, 2, uint16(5+len(name)))
	b[4] = 1
	Put32(b, 5, crc32.ChecksumIEEE([]byte(raw)))
	return append(b, name...)
}

// zip64Extra is a zip64 field with those numbers.
func zip64Extra(numbers ...uint64) []byte {
	b := make([]byte, 4+8*len(numbers))
	Put16(b, 0, extraZip64)
	Put16(b, 2, uint16(8*len(numbers)))
	for i, n := range numbers {
		Put64(b, 4+8*i, n)
	}
	return b
}

// wide says that those fields of the directory's header are in a zip64 field.
func wide(offsets ...int) func([]byte) {
	return func(h []byte) {
		for _, at := range offsets {
			Put32(h, at, full32)
		}
	}
}

// Containers are zips that two programs could read in two ways, or that are more
// than they say.
func Containers() []Package {
	pk56 := "PK\x05\x06" + strings.Repeat("\x00", 18)
	return []Package{
		{"a gap between entries", Zip{Parts: []Part{{Name: "manifest.json", Data: PlainDoc, Gap: "x"}, {Name: "mod/a"}}}, reason.NotAZip},
		{"a gap before the directory", Zip{Parts: Plain(Part{}).Parts, Before: "xxxx"}, reason.NotAZip},
		{"something before the first entry", Zip{Parts: Plain(Part{}).Parts, Prefix: "#!/bin/sh\n"}, reason.NotAZip},
		{"something after the end", Zip{Parts: Plain(Part{}).Parts, Suffix: "x"}, reason.NotAZip},
		{"a second end record in the comment", Zip{Parts: Plain(Part{}).Parts, Comment: pk56}, reason.NotAZip},
		{"half an end record in the comment", Zip{Parts: Plain(Part{}).Parts, Comment: "PK\x05\x06 hello"}, reason.NotAZip},
		{"overlapping entries", Zip{Parts: []Part{{Name: "manifest.json", Data: PlainDoc}, {Name: "mod/a"}, {Name: "mod/b", Central: set32(42, 0)}}}, reason.NotAZip},
		{"the same name twice", Zip{Parts: append(Plain(Part{}).Parts, Part{Name: "mod/a"})}, reason.NotAZip},
		{"names that differ in case", Zip{Parts: append(Plain(Part{}).Parts, Part{Name: "MOD/A"})}, reason.NotAZip},
		{"names that differ in normalisation", Zip{Parts: append(Plain(Part{}).Parts, Part{Name: "mod/\u00e9"}, Part{Name: "mod/e\u0301"})}, reason.NotAZip},
		{"names that fold to one", Zip{Parts: append(Plain(Part{}).Parts, Part{Name: "mod/stra\u00dfe"}, Part{Name: "mod/STRASSE"})}, reason.NotAZip},
		{"a file that is a folder", Zip{Parts: append(Plain(Part{}).Parts, Part{Name: "mod/a/b"})}, reason.NotAZip},
		{"a folder twice", Zip{Parts: append(Plain(Part{}).Parts, Part{Name: "x/"}, Part{Name: "x/"})}, reason.NotAZip},
		{"a folder with content", Zip{Parts: append(Plain(Part{}).Parts, Part{Name: "x/", Data: "y"})}, reason.NotAZip},
		{"another name in the local header", Plain(Part{LocalName: "mod/b"}), reason.NotAZip},
		{"another method in the local header", Plain(Part{Local: set16(8, Deflate)}), reason.NotAZip},
		{"other flags in the local header", Plain(Part{Local: set16(6, 1<<11)}), reason.NotAZip},
		{"another checksum in the local header", Plain(Part{Local: set32(14, 7)}), reason.NotAZip},
		{"another size in the local header", Plain(Part{Local: set32(22, 7)}), reason.NotAZip},
		{"another packed size in the local header", Plain(Part{Local: set32(18, 7)}), reason.NotAZip},
		{"encrypted", Plain(Part{Flags: flagEncrypted}), reason.NotAZip},
		{"strongly encrypted", Plain(Part{Flags: 1 << 6}), reason.NotAZip},
		{"with a masked directory", Plain(Part{Flags: 1 << 13}), reason.NotAZip},
		{"an unknown flag", Plain(Part{Flags: 1 << 14}), reason.NotAZip},
		{"patch data", Plain(Part{Flags: 1 << 5}), reason.NotAZip},
		{"an unknown method", Plain(Part{Method: 14}), reason.NotAZip},
		{"a version to come", Plain(Part{Central: set16(6, 64)}), reason.NotAZip},
		{"a version to come, locally", Plain(Part{Local: set16(4, 64)}), reason.NotAZip},
		{"another disk", Plain(Part{Central: set16(34, 1)}), reason.NotAZip},
		{"several disks", Zip{Parts: Plain(Part{}).Parts, End: set16(4, 1)}, reason.NotAZip},
		{"entries on other disks", Zip{Parts: Plain(Part{}).Parts, End: set16(8, 1)}, reason.NotAZip},
		{"more entries than there are", Zip{Parts: Plain(Part{}).Parts, End: func(h []byte) { Put16(h, 8, 3); Put16(h, 10, 3) }}, reason.NotAZip},
		{"fewer entries than there are", Zip{Parts: Plain(Part{}).Parts, End: func(h []byte) { Put16(h, 8, 1); Put16(h, 10, 1) }}, reason.NotAZip},
		{"a directory elsewhere", Zip{Parts: Plain(Part{}).Parts, End: set32(16, 3)}, reason.NotAZip},
		{"a zip64 record that disagrees", Zip{Parts: Plain(Part{}).Parts, Zip64: true, End: func(h []byte) { Put16(h, 8, 1); Put16(h, 10, 1) }}, reason.NotAZip},
		{"a zip64 record elsewhere", Zip{Parts: Plain(Part{}).Parts, Zip64: true, End64: func(h []byte) { Put64(h, end64Len+8, 0) }}, reason.NotAZip},
		{"a zip64 record that is longer", Zip{Parts: Plain(Part{}).Parts, Zip64: true, End64: func(h []byte) { Put64(h, 4, 60) }}, reason.NotAZip},
		{"zip64 sizes and no record", Zip{Parts: Plain(Part{}).Parts, End: set32(16, full32)}, reason.NotAZip},
		{"a zip64 field that is missing", Plain(Part{Central: set32(24, full32)}), reason.NotAZip},
		{"a stored entry of two sizes", Plain(Part{Data: "abc", Central: set32(24, 2)}), reason.NotAZip},
		{"a malformed extra field", Plain(Part{Extra: []byte{1, 2, 3}}), reason.NotAZip},
		{"an extra field that is too long", Plain(Part{Extra: []byte{1, 2, 255, 0}}), reason.NotAZip},
		{"a Unicode Path to another file", Plain(Part{Extra: UnicodePath("mod/a", "mod/b")}), reason.NotAZip},
		{"a Unicode Path with a stale checksum", Plain(Part{Extra: UnicodePath("mod/x", "mod/a")}), reason.NotAZip},
		{"a data descriptor that disagrees", Zip{Parts: []Part{{Name: "manifest.json", Data: PlainDoc}, {Name: "mod/a", Data: "abc", Desc: 16, Central: set32(16, 7)}}}, reason.NotAZip},
		{"a data descriptor of an odd length", Plain(Part{Desc: 16, Gap: "x"}), reason.NotAZip},
		{"a folder by its mode only", Plain(Part{Mode: 0o040755}), reason.NotAZip},
		{"a DOS folder without a slash", Plain(Part{Central: set32(38, dosFolder)}), reason.NotAZip},
		{"data after the deflate stream", Plain(Part{Data: "abc", Method: Deflate, Packed: append(Compress(Deflate, "abc"), "tail"...)}), reason.NotAZip},
	}
}
