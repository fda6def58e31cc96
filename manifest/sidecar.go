package manifest

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"strconv"
	"strings"

	"patchagent/manifest/reason"
)

// Sums identify the bytes of a zip.
type Sums struct {
	SHA256 [sha256.Size]byte
	CRC32  uint32
	Size   int64
}

// Summer is an io.Writer that adds up Sums.
type Summer struct {
	sha  hash.Hash
	crc  uint32
	size int64
}

// NewSummer returns a Summer that has seen nothing.
func NewSummer() *Summer { return &Summer{sha: sha256.New()} }

func (s *Summer) Write(p []byte) (int, error) {
	s.sha.Write(p)
	s.crc = crc32.Update(s.crc, crc32.IEEETable, p)
	s.size += int64(len(p))
	return len(p), nil
}

// Sums are those of all that was written.
func (s *Summer) Sums() Sums {
	return Sums{SHA256: [sha256.Size]byte(s.sha.Sum(nil)), CRC32: s.crc, Size: s.size}
}

// Sum reads r to its end.
func Sum(r io.Reader) (Sums, error) {
	s := NewSummer()
	_, err := io.Copy(s, r)
	return s.Sums(), err
}

// Sidecars are the contents of the files beside a zip that vouch for it; nil for
// those that are not there.
type Sidecars struct {
	SHA256    []byte // NAME.zip.sha256
	CRC32     []byte // NAME.zip.crc32
	List      []byte // SHA256SUMS
	Checksums []byte // checksums.txt
	Minisig   []byte // NAME.zip.minisig
}

// ErrSidecarUnfinished is returned for a sidecar that holds no checksum: empty,
// half-written, or something else.
var ErrSidecarUnfinished = errors.New("it holds no checksum")

// Check holds the sums against every checksum that is there for the zip of that
// name. found says that there was at least one. The error is a *reason.Error
// (checksum-mismatch), or wraps ErrSidecarUnfinished.
func (s Sidecars) Check(name string, got Sums) (found bool, err error) {
	for _, side := range []struct {
		file string
		data []byte
	}{{name + ".sha256", s.SHA256}, {name + ".crc32", s.CRC32}} {
		if side.data == nil {
			continue
		}
		line, ok := oneLine(side.data)
		want, _, parsed := parseLine(line)
		if strings.HasSuffix(side.file, ".crc32") == (len(want) == sha256.Size*2) {
			parsed = false // the wrong kind
		}
		if !ok || !parsed {
			return false, fmt.Errorf("%s: %w", side.file, ErrSidecarUnfinished)
		}
		if err := matchSum(side.file, want, got); err != nil {
			return true, err
		}
		found = true
	}
	for _, side := range []struct {
		file string
		data []byte
	}{{"SHA256SUMS", s.List}, {"checksums.txt", s.Checksums}} {
		for line := range strings.Lines(string(trimBOM(side.data))) {
			want, named, ok := parseLine(strings.TrimRight(line, "\r\n"))
			if !ok || strings.TrimPrefix(named, "./") != name {
				continue
			}
			if err := matchSum(side.file, want, got); err != nil {
				return true, err
			}
			found = true
		}
	}
	return found, nil
}

func trimBOM(data []byte) []byte { return bytes.TrimPrefix(data, []byte("\ufeff")) }

// oneLine returns the only line that is not blank.
func oneLine(data []byte) (string, bool) {
	text := strings.TrimSpace(string(trimBOM(data)))
	return text, text != "" && !strings.ContainsAny(text, "\r\n")
}

// parseLine takes a line apart: 64 hex digits or a decimal CRC-32, then perhaps
// blanks, a * and the file's name, as sha256sum(1) writes it; or the BSD form
// "SHA256 (name) = digits".
func parseLine(line string) (sum, name string, ok bool) {
	line, escaped := strings.CutPrefix(line, `\`)
	if rest, bsd := strings.CutPrefix(line, "SHA256 ("); bsd {
		i := strings.LastIndex(rest, ") = ")
		if i < 0 {
			return "", "", false
		}
		name, sum = rest[:i], strings.TrimSpace(rest[i+len(") = "):])
		ok = isDigest(sum)
	} else {
		sum = strings.TrimLeft(line, " \t")
		if i := strings.IndexAny(sum, " \t"); i >= 0 {
			// One blank and a mark: another blank for text, * for binary.
			name = strings.TrimLeft(strings.TrimPrefix(sum[i+1:], "*"), " \t")
			sum = sum[:i]
		}
		ok = isDigest(sum) || isCRC(sum)
	}
	if escaped {
		name = strings.NewReplacer(`\\`, `\`, `\n`, "\n", `\r`, "\r").Replace(name)
	}
	return sum, name, ok
}

func isDigest(s string) bool {
	_, err := hex.DecodeString(s)
	return err == nil && len(s) == 2*sha256.Size
}

func isCRC(s string) bool {
	_, err := strconv.ParseUint(s, 10, 32)
	return err == nil && !strings.HasPrefix(s, "+")
}

func matchSum(file, want string, got Sums) error {
	have := hex.EncodeToString(got.SHA256[:])
	if len(want) != len(have) {
		have = strconv.FormatUint(uint64(got.CRC32), 10)
		want = strings.TrimLeft(want, "0")
		if want == "" {
			want = "0"
		}
	}
	if strings.EqualFold(want, have) {
		return nil
	}
	return reason.Errorf(reason.ChecksumMismatch, "the zip's checksum is %s, and %s says %s", have, file, want)
}
