// Package signature makes and checks the signatures of packages, in the format of
// minisign (https://jedisct1.github.io/minisign/): a file NAME.zip.minisig beside
// the zip, checked against a set of public keys.
//
//	public key    a comment line, then a line with algorithm, key id and Ed25519 key
//	secret key    the same way, encrypted by a passphrase (scrypt) or not at all
//	signature     a comment that nobody vouches for; key id and signature of the
//	              file; a trusted comment; the signature of the first signature
//	              and the trusted comment together
//
// Of the two kinds of signature, the pre-hashed one is over the file's BLAKE2b-512
// hash, so the file is read once, piece by piece. The legacy kind is over the file
// itself, which Ed25519 reads twice: it is mapped into memory where the system can
// do that, and like in minisign must be smaller than 1 GiB.
//
// A key id is a hint which key to try and proves nothing; what counts is the key.
// The set may hold several keys, so that the next one can be installed before the
// last one is removed; a signature by any of them is as good as by another.
//
// The cryptography is aead.dev/minisign's. This package decides which kind of
// signature is checked in which way, since the library leaves that to its caller.
package signature

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"aead.dev/minisign"

	"patchagent/manifest/reason"
)

// Bounds of files, each with its reason.
const (
	MaxKeyFile   = 4 << 10  // bytes; a comment of 1 KiB, which is minisign's limit, and a key, public or secret
	maxSignature = 16 << 10 // bytes; comments of 1 and 8 KiB, which are minisign's limits, and the rest
	maxLegacy    = 1 << 30  // bytes of a file that is signed in the legacy way; minisign's limit
)

// Key is a public key and the file that it came from.
type Key struct {
	File string
	key  minisign.PublicKey
}

// ID is the key's id as minisign writes it into the file's comment: hexadecimal, in
// upper case.
func (k Key) ID() string { return keyID(k.key.ID()) }

func keyID(id uint64) string { return strings.ToUpper(strconv.FormatUint(id, 16)) }

// ParseKey takes a public key out of the content of a file as minisign writes it.
func ParseKey(file string, data []byte) (Key, error) {
	k := Key{File: file}
	if strings.Contains(firstLine(data), "secret key") {
		return Key{}, fmt.Errorf("cannot use %s as a public key: it is a secret key, which belongs to whoever makes packages and not onto this machine", file)
	}
	if err := k.key.UnmarshalText(bytes.TrimSpace(data)); err != nil {
		return Key{}, fmt.Errorf("cannot use %s as a public key: it is not one as minisign or `patchagent keygen` writes it", file)
	}
	return k, nil
}

func firstLine(data []byte) string {
	line, _, _ := bytes.Cut(data, []byte("\n"))
	return string(line)
}

// Keys is a set of public keys.
type Keys []Key

// Proof says who vouches for a file.
type Proof struct {
	KeyID   string
	Comment string // the trusted comment, in one line; for display only
	key     minisign.PublicKey
}

// Signed says whether there is a signature at all.
func (p Proof) Signed() bool { return p.KeyID != "" }

// Trust says whether the key that a proof was made with is still in the set.
func (k Keys) Trust(p Proof) bool {
	return slices.ContainsFunc(k, func(key Key) bool { return key.key.Equal(p.key) })
}

// ids lists the keys for a sentence.
func (k Keys) ids() string {
	if len(k) == 0 {
		return "none that can be used"
	}
	all := make([]string, len(k))
	for i, key := range k {
		all[i] = key.ID()
	}
	return strings.Join(all, ", ")
}

// IsWhole says whether data has the form of a signature file: all of its lines are
// there. It says nothing of what is signed, or by whom.
func IsWhole(data []byte) bool {
	_, err := parse(data)
	return err == nil
}

func parse(data []byte) (s minisign.Signature, err error) {
	if len(data) > maxSignature {
		return s, fmt.Errorf("it has more than %d bytes", maxSignature)
	}
	return s, s.UnmarshalText(data)
}

func invalid(format string, args ...any) error {
	return reason.Errorf(reason.SignatureInvalid, format, args...)
}

// Check holds the content of a signature file against size bytes of r, which it
// reads from the beginning. nil is for a signature file that is not there. Errors
// are *reason.Error (signature-missing, signature-invalid), or the context's.
func (k Keys) Check(ctx context.Context, r io.ReaderAt, size int64, signature []byte) (Proof, error) {
	if signature == nil {
		return Proof{}, reason.Errorf(reason.SignatureMissing, "there is no signature, and verify.keys asks for one")
	}
	s, err := parse(signature)
	if err != nil {
		return Proof{}, invalid("the signature is not one that minisign or `patchagent sign` has written, or not all of it is there")
	}
	var tried Keys
	for _, key := range k {
		if key.key.ID() == s.KeyID {
			tried = append(tried, key)
		}
	}
	if len(tried) == 0 {
		return Proof{}, invalid("it is signed with the key %s, and verify.keys has %s", keyID(s.KeyID), k.ids())
	}
	holds, err := verifier(ctx, r, size, s.Algorithm, signature)
	if err != nil {
		return Proof{}, err
	}
	for _, key := range tried {
		if holds(key.key) {
			return Proof{KeyID: key.ID(), Comment: reason.Line(s.TrustedComment), key: key.key}, nil
		}
	}
	return Proof{}, invalid("the signature does not hold: the zip, or the signature's trusted comment, is not what the key %s has signed", keyID(s.KeyID))
}

// verifier reads the file once, and returns a function that holds the signature
// against a key. The kind is decided here: for the library the hash of a file and a
// file with the bytes of that hash are the same.
func verifier(ctx context.Context, r io.ReaderAt, size int64, kind uint16, signature []byte) (func(minisign.PublicKey) bool, error) {
	if kind == minisign.HashEdDSA {
		hashed := minisign.NewReader(withContext(ctx, io.NewSectionReader(r, 0, size)))
		if n, err := io.Copy(io.Discard, hashed); err != nil || n != size {
			return nil, unreadable(ctx, err, size, n)
		}
		return func(key minisign.PublicKey) bool { return hashed.Verify(key, signature) }, nil
	}
	if size >= maxLegacy {
		return nil, invalid("the signature is of the legacy kind, which is for files of less than %d bytes; have it signed without -l", int64(maxLegacy))
	}
	return func(key minisign.PublicKey) (good bool) {
		// A file that shrinks while it is mapped is one that the signature is not for.
		_ = whole(r, size, func(content []byte) { good = minisign.Verify(key, content, signature) })
		return good
	}, nil
}

func unreadable(ctx context.Context, err error, size, n int64) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err == nil {
		err = fmt.Errorf("it ends after %d of %d bytes", n, size)
	}
	return reason.Errorf(reason.Incomplete, "cannot read the zip: %w", err)
}

// withContext reads until ctx is done.
func withContext(ctx context.Context, r io.Reader) io.Reader {
	return readerFunc(func(p []byte) (int, error) {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		return r.Read(p)
	})
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

var errGone = errors.New("the file has become shorter while it was read")

func readWhole(r io.ReaderAt, size int64, use func([]byte)) error {
	content, err := io.ReadAll(io.NewSectionReader(r, 0, size))
	if err == nil && int64(len(content)) != size {
		err = errGone
	}
	if err == nil {
		use(content)
	}
	return err
}
