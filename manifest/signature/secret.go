package signature

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"aead.dev/minisign"
)

// Secret is a secret key, with which packages are signed.
type Secret struct{ key minisign.PrivateKey }

// ID is the key's id, as of the public key.
func (s Secret) ID() string { return keyID(s.key.ID()) }

// ErrPassphrase is returned for a secret key that the passphrase does not decrypt.
var ErrPassphrase = errors.New("the passphrase is not right, or the file is damaged")

// NeedsPassphrase says whether the secret key in data is encrypted.
func NeedsPassphrase(data []byte) bool { return minisign.IsEncrypted(data) }

// ParseSecret takes the secret key out of the content of a file as minisign or
// Generate writes it. The passphrase is not looked at if it is not encrypted; if it
// is, that takes seconds and a gigabyte of memory, and ctx cuts the waiting short.
func ParseSecret(ctx context.Context, data []byte, passphrase string) (s Secret, err error) {
	if !NeedsPassphrase(data) {
		if err := s.key.UnmarshalText(data); err != nil {
			return s, errors.New("it is not a secret key as minisign or `patchagent keygen` writes it")
		}
		return s, nil
	}
	s.key, err = slowly(ctx, func() (minisign.PrivateKey, error) { return minisign.DecryptKey(passphrase, data) })
	if err != nil && ctx.Err() == nil {
		err = ErrPassphrase
	}
	return s, err
}

// Generate makes a pair of keys and writes each into a file of its own, durably:
// the public one for everybody to read (0644), the secret one for the owner alone
// (0600), encrypted unless the passphrase is empty. It overwrites nothing; after an
// error, or when ctx is done before it writes, neither file is there that was not
// before.
func Generate(ctx context.Context, public, secret, passphrase string) (Key, error) {
	pub, sec, err := minisign.GenerateKey(rand.Reader)
	if err != nil {
		return Key{}, fmt.Errorf("cannot make a key: %w", err)
	}
	var hidden []byte
	if passphrase == "" {
		hidden, err = sec.MarshalText()
	} else {
		hidden, err = slowly(ctx, func() ([]byte, error) { return minisign.EncryptKey(passphrase, sec) })
	}
	if ctx.Err() != nil {
		return Key{}, context.Cause(ctx)
	}
	if err != nil {
		return Key{}, fmt.Errorf("cannot encrypt the secret key: %w", err)
	}
	shown, err := pub.MarshalText()
	if err != nil {
		return Key{}, err
	}
	if err := writeNew(secret, append(hidden, '\n'), 0o600); err != nil {
		return Key{}, err
	}
	if err := writeNew(public, append(shown, '\n'), 0o644); err != nil {
		return Key{}, errors.Join(err, os.Remove(secret))
	}
	return Key{File: public, key: pub}, nil
}

// slowly waits for a key to be derived, or for ctx. What goes on then ends with the
// program, and changes nothing.
func slowly[T any](ctx context.Context, derive func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		value, err := derive()
		done <- result{value, err}
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
		var none T
		return none, context.Cause(ctx)
	}
}

// writeNew writes a file that must not be there yet.
func writeNew(path string, data []byte, mode fs.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("cannot write %s: it is there already, and a key that is lost cannot be made again; choose another name, or move it away", path)
	}
	if err != nil {
		return fmt.Errorf("cannot write a key: %w", err)
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(fmt.Errorf("cannot write a key: %w", err), os.Remove(path))
	}
	return nil
}

// Sign returns the content of the signature file for what r holds, of the
// pre-hashed kind. The trusted comment has the time and the file's name, as
// minisign's.
func (s Secret) Sign(ctx context.Context, r io.Reader, name string) ([]byte, error) {
	hashed := minisign.NewReader(withContext(ctx, r))
	if _, err := io.Copy(io.Discard, hashed); err != nil {
		return nil, fmt.Errorf("cannot read what is to be signed: %w", err)
	}
	trusted := "timestamp:" + strconv.FormatInt(time.Now().Unix(), 10) + "\tfile:" + printable(filepath.Base(name)) + "\thashed"
	return hashed.SignWithComments(s.key, trusted, "signature from the key "+s.ID()), nil
}

// printable replaces what minisign would refuse to print.
func printable(name string) string {
	text := []byte(name)
	for i, c := range text {
		if c < 0x20 || c >= 0x7f {
			text[i] = '?'
		}
	}
	return string(text)
}
