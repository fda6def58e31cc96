package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"

	"patchagent/manifest/reason"
)

// walk goes over the whole document: it must be one JSON object, with nothing after
// it, no key twice and none that differs from another only in case.
func (d *document) walk() error {
	if !utf8.Valid(d.data) {
		return invalid("the text", "is not UTF-8")
	}
	if at := longText(d.data); at >= 0 {
		return reason.Errorf(reason.LimitExceeded, "manifest.json has a string of more than %d bytes (at byte %d)", maxText, at)
	}
	tokens := json.NewDecoder(bytes.NewReader(d.data))
	tokens.UseNumber()
	top, err := d.value(tokens, "the document", 0)
	if err != nil {
		if _, ok := reason.Of(err); ok {
			return err
		}
		return invalid("the text", "is not JSON: %v (at byte %d)", err, tokens.InputOffset())
	}
	if _, err := tokens.Token(); !errors.Is(err, io.EOF) {
		return invalid("the document", "is followed by other text (at byte %d)", tokens.InputOffset())
	}
	if _, ok := top.(map[string]any); !ok {
		return invalid("the document", "is not an object")
	}
	return nil
}

// longText finds a string that is too long before a decoder makes room for it; it
// returns -1 if there is none. In what is not JSON it may find one that is none.
func longText(data []byte) int {
	for at := 0; ; {
		begin := bytes.IndexByte(data[at:], '"')
		if begin < 0 {
			return -1
		}
		begin += at + 1
		for at = begin; at < len(data) && data[at] != '"'; at++ {
			if data[at] == '\\' {
				at++
			}
		}
		if at-begin > maxText {
			return begin
		}
		if at++; at >= len(data) {
			return -1
		}
	}
}

// value walks over one value and returns it; a list or an object comes back empty.
func (d *document) value(tokens *json.Decoder, where string, depth int) (any, error) {
	if depth > maxNesting {
		return nil, invalid(where, "is nested more than %d deep", maxNesting)
	}
	token, err := d.next(tokens)
	if err != nil {
		return nil, err
	}
	switch token {
	case json.Delim('['):
		for tokens.More() {
			if _, err := d.value(tokens, where, depth+1); err != nil {
				return nil, err
			}
		}
		_, err = tokens.Token() // the closing one
		return []any{}, err
	case json.Delim('{'):
		return map[string]any{}, d.object(tokens, where, depth)
	default:
		return token, nil
	}
}

// object walks over the rest of an object.
func (d *document) object(tokens *json.Decoder, where string, depth int) error {
	keys := map[string]string{}
	for tokens.More() {
		token, err := d.next(tokens)
		if err != nil {
			return err
		}
		key, _ := token.(string)
		if len(key) > maxKey {
			return invalid("a key that begins with "+quoted(key), "has more than %d bytes", maxKey)
		}
		folded := foldName(key) // as whoever compares keys without regard to case might
		if other, ok := keys[folded]; ok {
			return invalid(quoted(key), "is there twice (as %s) in %s", quoted(other), where)
		}
		if len(keys) == maxKeys {
			return invalid(where, "has more than %d keys", maxKeys)
		}
		keys[folded] = key
		from := tokens.InputOffset()
		value, err := d.value(tokens, quoted(key), depth+1)
		if err != nil {
			return err
		}
		if depth == 0 {
			d.top[key], d.lists[key] = value, [2]int64{from, tokens.InputOffset()}
		}
	}
	_, err := tokens.Token() // the closing one
	return err
}

// next is a token that counts as a value.
func (d *document) next(tokens *json.Decoder) (json.Token, error) {
	if d.left--; d.left < 0 {
		return nil, reason.Errorf(reason.LimitExceeded, "manifest.json has more keys and values than go with verify.max_files (%d)", d.most)
	}
	token, err := tokens.Token()
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return token, err
}

// quoted is a key as a part of a sentence.
func quoted(key string) string {
	const enough = 100
	if len(key) > enough {
		key = strings.ToValidUTF8(key[:enough], "") + "…"
	}
	return strconv.Quote(key)
}
