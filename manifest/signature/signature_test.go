package signature

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"aead.dev/minisign"

	"patchagent/manifest/reason"
)

// pair makes an unencrypted pair of keys in a folder of its own.
func pair(t testing.TB) (Key, Secret) {
	t.Helper()
	dir := t.TempDir()
	key, err := Generate(t.Context(), filepath.Join(dir, "key.pub"), filepath.Join(dir, "key.sec"), "")
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(dir, "key.sec"))
	if err != nil {
		t.Fatal(err)
	}
	secret, err := ParseSecret(t.Context(), data, "")
	if err != nil {
		t.Fatal(err)
	}
	return key, secret
}

func sign(t testing.TB, s Secret, content string) []byte {
	t.Helper()
	sig, err := s.Sign(t.Context(), strings.NewReader(content), "some/a.zip")
	if err != nil {
		t.Fatal(err)
	}
	return sig
}

func legacy(s Secret, content string) []byte {
	return minisign.SignWithComments(s.key, []byte(content), "trusted", "untrusted")
}

// check holds a signature against a real file, as the agent does.
func check(t testing.TB, keys Keys, content string, sig []byte) (Proof, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "a.zip")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	return keys.Check(t.Context(), f, int64(len(content)), sig)
}

func refused(t testing.TB, what string, err error, want reason.Code) {
	t.Helper()
	if code, _ := reason.Of(err); code != want {
		t.Errorf("%s: %s (%v), want %s", what, code, err, want)
	}
}

func TestBothKindsHold(t *testing.T) {
	key, secret := pair(t)
	other, _ := pair(t)
	content := strings.Repeat("content ", 5000)
	for kind, sig := range map[string][]byte{"pre-hashed": sign(t, secret, content), "legacy": legacy(secret, content)} {
		proof, err := check(t, Keys{other, key}, content, sig)
		if err != nil || proof.KeyID != key.ID() || !proof.Signed() {
			t.Errorf("%s: %+v, %v", kind, proof, err)
		}
		if !(Keys{other, key}).Trust(proof) || (Keys{other}).Trust(proof) {
			t.Errorf("%s: trusted by the wrong keys", kind)
		}
		// In memory it is no other file.
		if _, err := (Keys{key}).Check(t.Context(), strings.NewReader(content), int64(len(content)), sig); err != nil {
			t.Errorf("%s, in memory: %v", kind, err)
		}
	}
	for kind, sig := range map[string][]byte{"pre-hashed": sign(t, secret, ""), "legacy": legacy(secret, "")} {
		if _, err := check(t, Keys{key}, "", sig); err != nil {
			t.Errorf("%s of nothing: %v", kind, err)
		}
	}
}

// Nothing of a file or of its signature can be changed but the comment that nobody
// vouches for.
func TestAltered(t *testing.T) {
	key, secret := pair(t)
	const content = "the content of a package"
	for kind, sig := range map[string][]byte{"pre-hashed": sign(t, secret, content), "legacy": legacy(secret, content)} {
		for i := range len(content) {
			altered := []byte(content)
			altered[i] ^= 1
			_, err := check(t, Keys{key}, string(altered), sig)
			refused(t, kind+" of other content", err, reason.SignatureInvalid)
		}
		for _, altered := range []string{content + "x", content[1:], content[:len(content)-1], ""} {
			_, err := check(t, Keys{key}, altered, sig)
			refused(t, kind+" of a longer or shorter file", err, reason.SignatureInvalid)
		}
		untrusted := bytes.IndexByte(sig, '\n')
		for i := untrusted; i < len(sig)-1; i++ {
			altered := bytes.Clone(sig)
			altered[i] ^= 1
			if base64Same(altered, sig) {
				continue
			}
			if _, err := check(t, Keys{key}, content, altered); err == nil {
				t.Errorf("%s: byte %d of the signature may be %q", kind, i, altered[i])
			}
		}
		for n := range sig {
			if n < len(sig)-1 && IsWhole(sig[:n]) {
				t.Errorf("%s: %d of %d bytes count as all of it", kind, n, len(sig))
			}
		}
	}
}

// base64Same says whether two signature files differ only in bits that stand for
// nothing in their last base64 digit, or not in what they say.
func base64Same(a, b []byte) bool {
	var x, y minisign.Signature
	return x.UnmarshalText(a) == nil && y.UnmarshalText(b) == nil && x.Equal(y)
}

func TestRefused(t *testing.T) {
	key, secret := pair(t)
	other, stranger := pair(t)
	const content = "content"
	good := string(sign(t, secret, content))
	lines := strings.SplitAfter(good, "\n")
	forged := string(sign(t, stranger, content))
	borrowed := strings.Split(forged, "\n")
	for name, c := range map[string]struct {
		sig  []byte
		code reason.Code
	}{
		"none":                        {nil, reason.SignatureMissing},
		"empty":                       {[]byte{}, reason.SignatureInvalid},
		"words":                       {[]byte("signed, me\n"), reason.SignatureInvalid},
		"zeros":                       {make([]byte, 300), reason.SignatureInvalid},
		"of a stranger":               {[]byte(forged), reason.SignatureInvalid},
		"of another file":             {sign(t, secret, "other"), reason.SignatureInvalid},
		"without its trusted comment": {[]byte(lines[0] + lines[1]), reason.SignatureInvalid},
		"with another comment":        {[]byte(lines[0] + lines[1] + "trusted comment: approved by all\n" + lines[3]), reason.SignatureInvalid},
		"with lines of two":           {[]byte(lines[0] + lines[1] + borrowed[2] + "\n" + borrowed[3]), reason.SignatureInvalid},
		"too long":                    {[]byte("untrusted comment: " + strings.Repeat("x", maxSignature) + "\n" + lines[1] + lines[2] + lines[3]), reason.SignatureInvalid},
		"a public key":                {[]byte("untrusted comment: minisign public key\n" + key.key.String()), reason.SignatureInvalid},
		"two in one file":             {[]byte(good + good), reason.SignatureInvalid},
	} {
		_, err := check(t, Keys{key}, content, c.sig)
		refused(t, name, err, c.code)
	}
	// The id says the key to try; a stranger's key under a trusted id is none.
	posed := minisign.Signature{}
	if err := posed.UnmarshalText([]byte(forged)); err != nil {
		t.Fatal(err)
	}
	posed.KeyID = key.key.ID()
	text, err := posed.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	_, err = check(t, Keys{key, other}, content, text)
	refused(t, "under another's id", err, reason.SignatureInvalid)
	if _, err := check(t, nil, content, []byte(good)); err == nil {
		t.Error("an empty set trusts somebody")
	}
}

// A file that is the hash of another one is not that one, whatever kind a signature
// says that it is of.
func TestKindsAreNotMixed(t *testing.T) {
	key, secret := pair(t)
	const content = "content"
	hashed := minisign.NewReader(strings.NewReader(content))
	if _, err := bytes.NewBuffer(nil).ReadFrom(hashed); err != nil {
		t.Fatal(err)
	}
	var s minisign.Signature
	if err := s.UnmarshalText(hashed.SignWithComments(secret.key, "t", "u")); err != nil {
		t.Fatal(err)
	}
	s.Algorithm = minisign.EdDSA
	text, err := s.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	_, err = check(t, Keys{key}, content, text)
	refused(t, "pre-hashed, posing as legacy", err, reason.SignatureInvalid)
}

// A file that ends early, or is cut while it is read, is refused and ends nothing.
func TestShrinkingFile(t *testing.T) {
	key, secret := pair(t)
	content := strings.Repeat("x", 64<<10)
	for kind, sig := range map[string][]byte{"pre-hashed": sign(t, secret, content), "legacy": legacy(secret, content)} {
		path := filepath.Join(t.TempDir(), "a.zip")
		if err := os.WriteFile(path, []byte(content[:100]), 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := (Keys{key}).Check(t.Context(), f, int64(len(content)), sig); err == nil {
			t.Errorf("%s: a file that is not all there is accepted", kind)
		}
		_ = f.Close()
	}
}

func TestCancelled(t *testing.T) {
	key, secret := pair(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := Keys{key}.Check(ctx, strings.NewReader("content"), 7, sign(t, secret, "content"))
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestParseKey(t *testing.T) {
	key, _ := pair(t)
	read := func(path string) []byte {
		t.Helper()
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	public := read(key.File)
	for name, content := range map[string][]byte{
		"as written":              public,
		"CRLF, as Windows has it": bytes.ReplaceAll(public, []byte("\n"), []byte("\r\n")),
	} {
		if got, err := ParseKey(key.File, content); err != nil || got.ID() != key.ID() {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	for name, content := range map[string]string{
		"empty": "", "words": "my key\n", "short": "untrusted comment: minisign public key\nRWQ=\n",
	} {
		if _, err := ParseKey("vendor.pub", []byte(content)); err == nil || !strings.Contains(err.Error(), "vendor.pub") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := ParseKey("vendor.sec", read(strings.TrimSuffix(key.File, ".pub")+".sec")); err == nil || !strings.Contains(err.Error(), "secret key") {
		t.Error(err)
	}
}

// Generate overwrites nothing, and leaves nothing behind when it fails.
func TestGenerateOverwritesNothing(t *testing.T) {
	for _, taken := range []string{"key.pub", "key.sec"} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, taken), []byte("precious"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Generate(t.Context(), filepath.Join(dir, "key.pub"), filepath.Join(dir, "key.sec"), ""); err == nil {
			t.Errorf("%s was taken", taken)
		}
		left, err := os.ReadDir(dir)
		if err != nil || len(left) != 1 {
			t.Errorf("%s was taken: %v is left, %v", taken, left, err)
		}
		if data, err := os.ReadFile(filepath.Join(dir, taken)); err != nil || string(data) != "precious" {
			t.Errorf("%s became %q, %v", taken, data, err)
		}
	}
}

// Whatever a signature file holds, it is refused or it is a good one of the key, and
// the sentence is one line.
func FuzzCheck(f *testing.F) {
	key, secret := pair(f)
	_, stranger := pair(f)
	const content = "content"
	good := sign(f, secret, content)
	for _, seed := range [][]byte{good, legacy(secret, content), sign(f, stranger, content), legacy(stranger, content), sign(f, secret, ""), nil, {}, []byte("\n\n\n\n"),
		good[:len(good)/2], bytes.ReplaceAll(good, []byte("\n"), []byte("\r\n")), append(bytes.Clone(good), good...), bytes.Repeat([]byte("\n"), 100),
		[]byte("untrusted comment: \n" + key.key.String() + "\ntrusted comment: \n" + key.key.String())} {
		f.Add(seed)
	}
	accepted := map[string]bool{} // the raw signatures that are good
	for _, sig := range [][]byte{good, legacy(secret, content)} {
		s, err := parse(sig)
		if err != nil {
			f.Fatal(err)
		}
		accepted[string(s.Signature[:])+s.TrustedComment] = true
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		proof, err := Keys{key}.Check(t.Context(), strings.NewReader(content), int64(len(content)), data)
		if err != nil {
			if code, ok := reason.Of(err); !ok || strings.ContainsAny(err.Error(), "\r\n\x1b") {
				t.Fatalf("%s: %q", code, err)
			}
			return
		}
		if s, err := parse(data); err != nil || !accepted[string(s.Signature[:])+s.TrustedComment] || proof.KeyID != key.ID() {
			t.Fatalf("%q is accepted", data)
		}
	})
}
