package hostile

import (
	"hash/crc32"
	"patchagent/manifest/reason"
	"strings"
)

// Sizes are zip64 records and fields that lie, and content where there must be none.
func Sizes() []Package {
	parts := Plain(Part{Data: "abc"}).Parts
	folder := func(p Part) Zip {
		p.Name = "mod/x/"
		return Zip{Parts: append(Plain(Part{}).Parts, p)}
	}
	record := func(change func(h []byte)) Zip { return Zip{Parts: parts, Zip64: true, End64: change} }
	return []Package{
		{"zip64 sizes that differ", Plain(Part{Data: "abc", Extra: zip64Extra(4, 3), Central: wide(20, 24)}), reason.NotAZip},
		{"a zip64 size that is not the header's", Plain(Part{Data: "abc", Extra: zip64Extra(4), Central: wide(24)}), reason.NotAZip},
		{"a zip64 size below zero", Plain(Part{Data: "abc", Extra: zip64Extra(1 << 63), Central: wide(24)}), reason.NotAZip},
		{"an enormous zip64 size", Plain(Part{Data: "abc", Extra: zip64Extra(1<<63-1, 1<<63-1), Central: wide(20, 24)}), reason.LimitExceeded},
		{"an enormous packed size", Plain(Part{Method: Deflate, Extra: zip64Extra(1<<63 - 1), Central: wide(20)}), reason.NotAZip},
		{"an enormous offset", Plain(Part{Extra: zip64Extra(1<<63 - 1), Central: wide(42)}), reason.NotAZip},
		{"a zip64 field that is too short", Plain(Part{Data: "abc", Extra: zip64Extra(3), Central: wide(20, 24)}), reason.NotAZip},
		{"two zip64 fields", Plain(Part{Data: "abc", Extra: append(zip64Extra(3), zip64Extra(3)...), Central: wide(24)}), reason.NotAZip},
		{"another zip64 size in the local header", Plain(Part{Data: "abc", LocalEx: zip64Extra(4, 3), Local: wide(18, 22)}), reason.NotAZip},
		{"a malformed extra field in the local header", Plain(Part{LocalEx: []byte{1, 0, 9, 0}}), reason.NotAZip},
		{"a Unicode Path in the local header only", Plain(Part{LocalEx: UnicodePath("mod/a", "mod/b")}), reason.NotAZip},
		{"a local header with other lengths", Plain(Part{Data: "abc", Local: set16(28, 2)}), reason.NotAZip},
		{"a size beyond the file", Plain(Part{Method: Deflate, Data: "abc", Local: set32(18, 1<<20), Central: set32(20, 1<<20)}), reason.NotAZip},
		{"a zip64 record of several disks", record(func(h []byte) { Put32(h, 16, 1) }), reason.NotAZip},
		{"a zip64 directory on another disk", record(func(h []byte) { Put32(h, 20, 1) }), reason.NotAZip},
		{"a zip64 locator of several disks", record(func(h []byte) { Put32(h, end64Len+16, 2) }), reason.NotAZip},
		{"a zip64 record of a version to come", record(func(h []byte) { Put16(h, 14, 64) }), reason.NotAZip},
		{"a zip64 record with another signature", record(func(h []byte) { Put32(h, 0, 7) }), reason.NotAZip},
		{"a zip64 record that counts twice", record(func(h []byte) { Put64(h, 24, 1) }), reason.NotAZip},
		{"a zip64 record with too many entries", record(func(h []byte) { Put64(h, 24, 1<<62); Put64(h, 32, 1<<62) }), reason.LimitExceeded},
		{"a zip64 directory of 2^62 bytes", record(func(h []byte) { Put64(h, 40, 1<<62) }), reason.NotAZip},
		{"a zip64 directory below zero", record(func(h []byte) { Put64(h, 48, 1<<63) }), reason.NotAZip},
		{"no zip64 record in a tiny file", Zip{End: set16(10, full16)}, reason.NotAZip},
		{"no entry at the beginning", Zip{Before: "PK\x03\x04 nothing"}, reason.NotAZip},
		{"something after the last entry of the directory", Zip{Parts: parts, After: "PK\x05\x05\x01\x00x"}, reason.NotAZip},
		{"a folder that hides packed bytes", folder(Part{Method: Deflate, Packed: append(Compress(Deflate, ""), "hidden"...)}), reason.NotAZip},
		{"a folder with a checksum", folder(Part{Local: set32(14, 7), Central: set32(16, 7)}), reason.Incomplete},
		{"a folder that unpacks to something", folder(Part{Method: Deflate, Packed: Compress(Deflate, "hidden")}), reason.Incomplete},
		{"a folder that is a link", folder(Part{Mode: 0o120777}), reason.UnsafePath},
		{"a file with a folder's name", folder(Part{Mode: 0o100644}), reason.NotAZip},
		{"a socket", Plain(Part{Mode: 0o140644}), reason.UnsafePath},
		{"a link from a Mac", Plain(Part{Mode: 0o120777, Central: func(h []byte) { h[5] = madeOnMac }}), reason.UnsafePath},
		{"data after the zstd stream", Plain(Part{Data: "abc", Method: Zstd, Packed: append(Compress(Zstd, "abc"), "tail"...)}), reason.Incomplete},
		{"a zstd stream that is longer", Plain(Part{Data: "abc", Method: Zstd, Packed: Compress(Zstd, "abcdefgh")}), reason.Incomplete},
		{"a stream that is longer, with the checksum of all of it", Plain(Part{Data: "abc", Method: Deflate, Packed: Compress(Deflate, "abcdefgh"),
			Local: set32(14, crc32.ChecksumIEEE([]byte("abcdefgh"))), Central: set32(16, crc32.ChecksumIEEE([]byte("abcdefgh")))}), reason.Incomplete},
		{"a truncated deflate stream", Plain(Part{Data: "abcdefgh", Method: Deflate, Packed: Compress(Deflate, "abcdefgh")[:4]}), reason.Incomplete},
		{"a bomb of nothing", Plain(Part{Method: Deflate, Data: "", Central: set32(24, 101), Local: set32(22, 101)}), reason.Incomplete},
		{"a bomb out of no bytes", Plain(Part{Method: Deflate, Packed: []byte{}, Data: "abc"}), reason.LimitExceeded},
	}
}

// Contents are entries that are not what their headers say.
func Contents() []Package {
	return []Package{
		{"a wrong checksum", Plain(Part{Data: "abc", Local: set32(14, 7), Central: set32(16, 7)}), reason.Incomplete},
		{"a stream that is shorter", Plain(Part{Data: "abcd", Method: Deflate, Packed: Compress(Deflate, "abc")}), reason.Incomplete},
		{"a stream that is longer", Plain(Part{Data: "abc", Method: Deflate, Packed: Compress(Deflate, "abcdefgh")}), reason.Incomplete},
		{"a broken deflate stream", Plain(Part{Data: "abc", Method: Deflate, Packed: []byte("\xff\xff\xff\xff")}), reason.Incomplete},
		{"a broken zstd stream", Plain(Part{Data: "abc", Method: Zstd, Packed: []byte("nothing")}), reason.Incomplete},

		{"a symbolic link", Plain(Part{Mode: 0o120777}), reason.UnsafePath},
		{"a pipe", Plain(Part{Mode: 0o010644}), reason.UnsafePath},
		{"a device", Plain(Part{Mode: 0o060644}), reason.UnsafePath},
		{"a huge unpacked size", Plain(Part{Data: strings.Repeat("a", 5000), Method: Deflate, Packed: Compress(Deflate, strings.Repeat("a", 5000))}), reason.LimitExceeded},
	}
}
