package manifest

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"slices"
	"strings"

	"patchagent/manifest/reason"
)

// The format is PKWARE's APPNOTE.TXT 6.3.10; the section of a rule stands beside it.
const (
	localSignature  = 0x04034b50 // 4.3.7
	directorySig    = 0x02014b50 // 4.3.12
	endSignature    = 0x06054b50 // 4.3.16
	end64Signature  = 0x06064b50 // 4.3.14
	locatorSig      = 0x07064b50 // 4.3.15
	descriptorSig   = 0x08074b50 // 4.3.9.3
	localLen        = 30
	directoryLen    = 46
	endLen          = 22
	end64Len        = 56
	locatorLen      = 20
	maxComment      = math.MaxUint16
	maxVersion      = 63 // 4.4.3.2: 6.3
	extraZip64      = 0x0001
	extraUnicode    = 0x7075 // 4.6.9
	extraLibarchive = 0x6c78 // libarchive's "experimental" field, which outranks the directory
	methodStore     = 0
	methodDeflate   = 8
	methodZstd      = 93
	flagEncrypted   = 1 << 0
	flagDescriptor  = 1 << 3
	flagsKnown      = 1<<1 | 1<<2 | flagDescriptor | 1<<11 // 4.4.4; 1 and 2 say how hard deflate tried, 11 is UTF-8
	unixTypeMask    = 0o170000
	unixRegular     = 0o100000
	unixFolder      = 0o040000
	madeOnUnix      = 3
	madeOnMac       = 19
	dosFolder       = 0x10
	full32          = math.MaxUint32
	full16          = math.MaxUint16
	descriptorLen   = 12 // without its signature, with 32-bit sizes
	descriptorLen64 = 20
)

// end is what the end records say.
type end struct {
	entries uint64
	offset  int64 // of the central directory
	size    int64 // of the central directory
	at      int64 // where the directory must end
}

// readContainer reads and checks the whole structure, but unpacks nothing, and does
// not compare names with each other (checkNames).
// unfinished means that the error is one that a file has that is still being
// written: parts of it are not there yet. Errors are *reason.Error.
func readContainer(r io.ReaderAt, size int64, limits Limits) (entries []*entry, unfinished bool, err error) {
	e, unfinished, err := readEnd(r, size)
	if err == nil {
		entries, unfinished, err = readDirectory(r, e, limits)
	}
	if err == nil {
		unfinished, err = readLocals(r, entries, e.offset)
	}
	if err != nil && unfinished && !beginsLikeZip(r, size) {
		err = reason.Errorf(reason.NotAZip, "it does not begin like a zip")
	}
	if err != nil {
		return nil, unfinished, err
	}
	return entries, false, nil
}

func bad(format string, args ...any) error { return reason.Errorf(reason.NotAZip, format, args...) }

func notAllThere(format string, args ...any) error {
	return reason.Errorf(reason.Incomplete, format, args...)
}

func readAt(r io.ReaderAt, offset int64, n int64) ([]byte, error) {
	buf := make([]byte, n)
	if _, err := r.ReadAt(buf, offset); err != nil && !(errors.Is(err, io.EOF) && n == 0) {
		return nil, reason.Errorf(reason.Incomplete, "cannot read the zip: %w", err)
	}
	return buf, nil
}

// readEnd finds the one end record, which ends with the file.
func readEnd(r io.ReaderAt, size int64) (e end, unfinished bool, err error) {
	from := max(0, size-endLen-maxComment)
	tail, err := readAt(r, from, size-from)
	if err != nil {
		return e, true, err
	}
	var found []int
	appended := false
	for i := 0; i+endLen <= len(tail); i++ {
		if le32(tail[i:]) != endSignature {
			continue
		}
		ends := i + endLen + int(le16(tail[i+20:]))
		if ends == len(tail) {
			found = append(found, i)
		} else if int64(le32(tail[i+12:]))+int64(le32(tail[i+16:])) == from+int64(i) {
			appended = appended || ends < len(tail)
		}
	}
	switch {
	case len(found) == 0 && appended:
		return e, false, bad("there is data after the end of the zip")
	case len(found) == 0:
		return e, true, notAllThere("its end is missing")
	case len(found) > 1 || bytes.Contains(tail[found[0]+endLen:], []byte("PK\x05\x06")):
		return e, false, bad("it has more than one end record")
	}
	record := tail[found[0]:]
	e.at = from + int64(found[0])
	e.entries, e.size, e.offset = uint64(le16(record[10:])), int64(le32(record[12:])), int64(le32(record[16:]))
	if e.at > 0 && (e.entries == 0 || e.size == 0 || e.offset == 0) && e.offset+e.size != e.at {
		return e, true, notAllThere("its end record is not written yet")
	}
	if le16(record[4:]) != 0 && le16(record[4:]) != full16 || le16(record[6:]) != 0 && le16(record[6:]) != full16 || le16(record[8:]) != le16(record[10:]) {
		return e, false, bad("it is one part of several")
	}
	if unfinished, err := e.read64(r, size); err != nil {
		return e, unfinished && !appended, err
	}
	if begin := e.at - e.size - e.offset; !appended && e.size >= 0 && e.offset >= 0 && insideZip(r, size, begin) {
		return e, true, notAllThere(endsInside)
	}
	if e.offset < 0 || e.size < 0 || e.offset > e.at || e.offset+e.size != e.at {
		return e, false, bad("its directory does not end where the end record begins")
	}
	return e, false, nil
}

// read64 takes over the zip64 end record, if there is one.
func (e *end) read64(r io.ReaderAt, fileSize int64) (unfinished bool, err error) {
	needed := e.entries == full16 || e.size == full32 || e.offset == full32
	if e.at < locatorLen {
		if needed {
			return false, bad("its zip64 end record is missing")
		}
		return false, nil
	}
	locator, err := readAt(r, e.at-locatorLen, locatorLen)
	if err != nil {
		return false, err
	}
	if le32(locator) != locatorSig {
		if needed {
			return false, bad("its zip64 end record is missing")
		}
		return false, nil
	}
	at := int64(le64(locator[8:]))
	if le32(locator[4:]) != 0 || le32(locator[16:]) > 1 {
		return false, bad("it is one part of several")
	}
	if begin := e.at - locatorLen - end64Len - at; at >= 0 && insideZip(r, fileSize, begin) {
		return true, notAllThere(endsInside)
	}
	if at < 0 || at != e.at-locatorLen-end64Len {
		return false, bad("its zip64 end record is not where it must be")
	}
	record, err := readAt(r, at, end64Len)
	if err != nil {
		return false, err
	}
	entries, size, offset := le64(record[32:]), le64(record[40:]), le64(record[48:])
	switch {
	case le32(record) != end64Signature || le64(record[4:]) != end64Len-12:
		return false, bad("its zip64 end record is malformed")
	case le16(record[14:])&0xff > maxVersion:
		return false, bad("it needs a newer version of the zip format")
	case le32(record[16:]) != 0 || le32(record[20:]) != 0 || le64(record[24:]) != entries:
		return false, bad("it is one part of several")
	case !agrees(e.entries, full16, entries) || !agrees(uint64(e.size), full32, size) || !agrees(uint64(e.offset), full32, offset):
		return false, bad("its two end records do not agree")
	}
	e.entries, e.size, e.offset, e.at = entries, int64(size), int64(offset), at
	return false, nil
}

// agrees says whether a short field is its full one, or says to look there.
func agrees(short, full, value uint64) bool { return short == value || short == full }

// readDirectory reads the central directory.
func readDirectory(r io.ReaderAt, e end, limits Limits) ([]*entry, bool, error) {
	if e.entries > uint64(limits.MaxFiles) {
		return nil, false, reason.Errorf(reason.LimitExceeded, "it has %d entries, more than verify.max_files (%d)", e.entries, limits.MaxFiles)
	}
	if most := max(int64(limits.MaxFiles)*directoryPerFile, minDirectory); e.size > most {
		return nil, false, reason.Errorf(reason.LimitExceeded, "its directory has %d bytes, more than %d, which goes with verify.max_files (%d)", e.size, most, limits.MaxFiles)
	}
	directory := bufio.NewReaderSize(io.NewSectionReader(r, e.offset, e.size), 64<<10)
	entries := make([]*entry, 0, min(e.entries, 1<<12))
	var total int64
	for range e.entries {
		var head [directoryLen]byte
		if _, err := io.ReadFull(directory, head[:]); err != nil {
			return shortDirectory(err)
		}
		if le32(head[:]) != directorySig {
			return nil, true, notAllThere("its directory is not complete")
		}
		rest := make([]byte, int(le16(head[28:]))+int(le16(head[30:]))+int(le16(head[32:])))
		if _, err := io.ReadFull(directory, rest); err != nil {
			return shortDirectory(err)
		}
		if torn(rest[:le16(head[28:])]) {
			return nil, true, notAllThere("its directory is not complete")
		}
		f, err := parseEntry(head[:], rest)
		if err != nil {
			return nil, false, err
		}
		if f.size > limits.MaxUnpacked-total {
			return nil, false, reason.Errorf(reason.LimitExceeded, "it unpacks to more than verify.max_unpacked (%d bytes)", limits.MaxUnpacked)
		}
		total += f.size
		if f.size/limits.MaxRatio > f.packed || f.size/limits.MaxRatio == f.packed && f.size%limits.MaxRatio != 0 {
			return nil, false, reason.Errorf(reason.LimitExceeded, "%s unpacks to more than %d times its packed size (verify.max_ratio)", f.name, limits.MaxRatio)
		}
		entries = append(entries, f)
	}
	if _, err := directory.ReadByte(); !errors.Is(err, io.EOF) {
		return nil, false, bad("its directory is longer than the end record says")
	}
	return entries, false, nil
}

// shortDirectory tells a directory that ends early from one that cannot be read.
func shortDirectory(err error) ([]*entry, bool, error) {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, false, bad("its directory is shorter than the end record says")
	}
	return nil, true, notAllThere("cannot read the zip: %w", err)
}

// readLocals checks that the local headers agree with the directory, and that the
// entries tile the file up to it.
func readLocals(r io.ReaderAt, entries []*entry, directory int64) (unfinished bool, err error) {
	inOrder := slices.SortedFunc(slices.Values(entries), func(x, y *entry) int { return cmp.Compare(x.header, y.header) })
	var next int64
	for i, f := range inOrder {
		if f.header != next {
			return false, bad("there is a gap or an overlap before %s", f.name)
		}
		limit := directory
		if i+1 < len(inOrder) {
			limit = inOrder[i+1].header
		}
		if unfinished, err := f.readLocal(r, limit); err != nil {
			return unfinished, err
		}
		next = limit
	}
	if next != directory {
		return false, bad("there is a gap before the directory")
	}
	return false, nil
}

// readLocal checks one local header, and that the entry's bytes reach just to limit.
func (f *entry) readLocal(r io.ReaderAt, limit int64) (unfinished bool, err error) {
	if limit-f.header < localLen {
		return false, bad("%s overlaps what follows it", f.name)
	}
	head, err := readAt(r, f.header, min(limit-f.header, localLen+int64(len(f.name))+1+64))
	if err != nil {
		return true, err
	}
	if le32(head) != localSignature {
		return true, notAllThere("%s is not there yet", f.name)
	}
	nameLen, extraLen := int64(le16(head[26:])), int64(le16(head[28:]))
	f.data = f.header + localLen + nameLen + extraLen
	if f.data > limit || f.packed > limit-f.data {
		return false, bad("%s overlaps what follows it", f.name)
	}
	rest, err := readAt(r, f.header+localLen, nameLen+extraLen)
	if err != nil {
		return true, err
	}
	if torn(rest[:nameLen]) {
		return true, notAllThere("%s is not there yet", f.name)
	}
	name := string(rest[:nameLen])
	crc, packed, size := le32(head[14:]), int64(le32(head[18:])), int64(le32(head[22:]))
	if err := readExtra(rest[nameLen:], name, []*int64{&size, &packed}); err != nil {
		return false, err
	}
	later := f.flags&flagDescriptor != 0
	same := func(local, central int64) bool { return local == central || later && local == 0 }
	switch {
	case strings.TrimSuffix(name, "/") != f.name || strings.HasSuffix(name, "/") != f.dir:
		return false, bad("%s has another name in its own header (%q)", f.name, name)
	case le16(head[6:]) != f.flags || le16(head[8:]) != f.method || le16(head[4:])&0xff > maxVersion:
		return false, bad("the two headers of %s do not agree", f.name)
	case !same(int64(crc), int64(f.crc)) || !same(packed, f.packed) || !same(size, f.size):
		return false, bad("the two headers of %s do not agree in size or checksum", f.name)
	}
	return f.readDescriptor(r, limit)
}

// readDescriptor checks what is between the packed bytes and limit: nothing, or a
// data descriptor, with or without its signature, with short or long sizes (4.3.9).
func (f *entry) readDescriptor(r io.ReaderAt, limit int64) (unfinished bool, err error) {
	at := f.data + f.packed
	if f.flags&flagDescriptor == 0 {
		if at != limit {
			return false, bad("there is a gap after %s", f.name)
		}
		return false, nil
	}
	n := limit - at
	if n == 0 && f.dir {
		return false, nil
	}
	if n != descriptorLen && n != descriptorLen+4 && n != descriptorLen64 && n != descriptorLen64+4 {
		return false, bad("there is a gap after %s", f.name)
	}
	d, err := readAt(r, at, n)
	if err != nil {
		return false, err
	}
	begins := d[0]
	signed := n == descriptorLen+4 || n == descriptorLen64+4
	same := !signed || le32(d) == descriptorSig
	if signed {
		d = d[4:]
	}
	packed, size := int64(le32(d[4:])), int64(0)
	if len(d) == descriptorLen64 {
		packed, size = int64(le64(d[4:])), int64(le64(d[12:]))
	} else {
		size = int64(le32(d[8:]))
	}
	switch same = same && le32(d) == f.crc && packed == f.packed && size == f.size; {
	case same:
		return false, nil
	case begins == 0 || size == 0:
		return true, notAllThere("the end of %s is not there yet", f.name)
	default:
		return false, bad("%s has a data descriptor that does not agree with the directory", f.name)
	}
}

func le16(b []byte) uint16 { return binary.LittleEndian.Uint16(b) }
func le32(b []byte) uint32 { return binary.LittleEndian.Uint32(b) }
func le64(b []byte) uint64 { return binary.LittleEndian.Uint64(b) }
