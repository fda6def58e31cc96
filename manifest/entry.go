package manifest

import (
	"hash/crc32"
	"io/fs"
	"math"
	"slices"

	"patchagent/manifest/reason"
)

// unixOthers are the kinds of inode(7) that are neither file nor folder: pipe, character
// device, block device, link, socket.
var unixOthers = []uint32{0o010000, 0o020000, 0o060000, 0o120000, 0o140000}

// entry is one file or folder of the container.
type entry struct {
	name    string // without the slash at a folder's end
	dir     bool
	flags   uint16
	method  uint16
	crc     uint32
	packed  int64
	size    int64
	header  int64 // offset of the local header
	data    int64 // offset of the packed bytes
	mode    fs.FileMode
	hasMode bool
}

// parseEntry reads one header of the directory.
func parseEntry(head, rest []byte) (*entry, error) {
	nameLen, extraLen := int(le16(head[28:])), int(le16(head[30:]))
	name, extra := string(rest[:nameLen]), rest[nameLen:nameLen+extraLen]
	f := &entry{
		flags: le16(head[8:]), method: le16(head[10:]), crc: le32(head[16:]),
		packed: int64(le32(head[20:])), size: int64(le32(head[24:])), header: int64(le32(head[42:])),
	}
	var err error
	if f.name, f.dir, err = checkName(name); err != nil {
		return nil, err
	}
	if err := f.checkKind(le16(head[6:]), f.flags); err != nil {
		return nil, err
	}
	if err := readExtra(extra, name, []*int64{&f.size, &f.packed, &f.header}); err != nil {
		return nil, err
	}
	if disk := le16(head[34:]); disk != 0 && disk != full16 {
		return nil, bad("%s is in another part of several", f.name)
	}
	switch {
	case f.method == methodStore && f.packed != f.size:
		return nil, bad("%s is stored, with two different sizes", f.name)
	case f.dir && f.size != 0:
		return nil, bad("the folder %s has content", f.name)
	}
	return f, f.setMode(head[5], le32(head[38:]))
}

func (f *entry) checkKind(version, flags uint16) error {
	switch {
	case flags&flagEncrypted != 0 || flags&(1<<6) != 0 || flags&(1<<13) != 0:
		return bad("%s is encrypted", f.name)
	case flags&^flagsKnown != 0:
		return bad("%s has flags that are not known (%#04x)", f.name, flags&^flagsKnown)
	case version&0xff > maxVersion:
		return bad("%s needs a newer version of the zip format", f.name)
	case f.method != methodStore && f.method != methodDeflate && f.method != methodZstd:
		return bad("%s is packed by method %d; store, deflate and zstd are read", f.name, f.method)
	}
	return nil
}

// setMode takes over the file's mode, and refuses what is neither file nor folder.
func (f *entry) setMode(madeOn byte, attributes uint32) error {
	// Some readers take the upper half for a mode wherever the entry was made.
	unix := attributes >> 16
	kind := unix & unixTypeMask
	if slices.Contains(unixOthers, kind) {
		return reason.Errorf(reason.UnsafePath, "%s is neither a file nor a folder but a link, pipe or device", f.name)
	}
	if madeOn != madeOnUnix && madeOn != madeOnMac {
		if attributes&dosFolder != 0 && !f.dir {
			return bad("%s is a folder without a slash at its end", f.name)
		}
		return nil
	}
	switch {
	case kind != 0 && kind != unixRegular && kind != unixFolder:
		return bad("%s is of a kind that is not known (%#o)", f.name, kind)
	case kind == unixFolder && !f.dir || kind == unixRegular && f.dir:
		return bad("%s is a folder by its name or by its mode, but not by both", f.name)
	}
	f.hasMode = unix != 0
	f.mode = fs.FileMode(unix & 0o777)
	for bit, mode := range map[uint32]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if unix&bit != 0 {
			f.mode |= mode
		}
	}
	return nil
}

// readExtra walks an extra field and fills in the sizes that it holds (4.5.3):
// those of wide, in order, that are full in the header.
func readExtra(extra []byte, name string, wide []*int64) error {
	seen64 := false
	for len(extra) > 0 {
		if len(extra) < 4 || len(extra)-4 < int(le16(extra[2:])) {
			return bad("%q has a malformed extra field", name)
		}
		id, body := le16(extra), extra[4:4+le16(extra[2:])]
		extra = extra[4+len(body):]
		switch id {
		case extraZip64:
			if seen64 {
				return bad("%q has two zip64 fields", name)
			}
			seen64 = true
			for _, field := range wide {
				if *field != full32 {
					continue
				}
				if len(body) < 8 || le64(body) > math.MaxInt64 {
					return bad("%q has a malformed zip64 field", name)
				}
				*field, body = int64(le64(body)), body[8:]
			}
		case extraLibarchive:
			return bad("%q has a field that some readers take its kind and size from", name)
		case extraUnicode:
			if len(body) < 5 || body[0] != 1 || string(body[5:]) != name || le32(body[1:]) != crc32.ChecksumIEEE([]byte(name)) {
				return bad("%q has a Unicode Path field that names another file", name)
			}
		}
	}
	if !seen64 {
		for _, field := range wide {
			if *field == full32 {
				return bad("%q says that its size is in a zip64 field, and has none", name)
			}
		}
	}
	return nil
}
