package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
)

// Of messages, see RFC 1035, section 4.
const (
	header     = 12  // bytes
	maxMessage = 512 // bytes over UDP, without extensions
	maxLabel   = 63
	typeTXT    = 16
	classIN    = 1
	fixedPart  = 10 // of a record after its name: type, class, lifetime, length
)

// query is a message that asks for the text of a name.
func query(name string) ([]byte, error) {
	const recursion = 1 << 8
	m := binary.BigEndian.AppendUint16(nil, uint16(rand.Uint32()))
	for _, field := range []uint16{recursion, 1, 0, 0, 0} { // flags; one question, nothing else
		m = binary.BigEndian.AppendUint16(m, field)
	}
	for label := range strings.SplitSeq(strings.TrimSuffix(name, "."), ".") {
		if label == "" || len(label) > maxLabel {
			return nil, fmt.Errorf("%q is not a name", name)
		}
		m = append(append(m, byte(len(label))), label...)
	}
	m = append(m, 0)
	m = binary.BigEndian.AppendUint16(m, typeTXT)
	return binary.BigEndian.AppendUint16(m, classIN), nil
}

var errShort = errors.New("the answer is cut short")

// textOf is the first text in an answer; mine is false for what does not answer q.
func textOf(m, q []byte) (text string, mine bool, err error) {
	if len(m) < len(q) || m[0] != q[0] || m[1] != q[1] || m[2]&0x80 == 0 || !bytes.EqualFold(m[header:len(q)], q[header:]) {
		return "", false, nil
	}
	if code := m[3] & 0x0f; code != 0 {
		return "", true, fmt.Errorf("the server's answer is the code %d", code)
	}
	rest := m[len(q):]
	for range binary.BigEndian.Uint16(m[6:]) {
		if rest, err = afterName(rest); err != nil {
			return "", true, err
		}
		if len(rest) < fixedPart {
			return "", true, errShort
		}
		kind, length := binary.BigEndian.Uint16(rest), int(binary.BigEndian.Uint16(rest[8:]))
		rest = rest[fixedPart:]
		if len(rest) < length {
			return "", true, errShort
		}
		if kind == typeTXT && length > 0 && int(rest[0]) < length {
			return string(rest[1 : 1+int(rest[0])]), true, nil
		}
		rest = rest[length:]
	}
	return "", true, errors.New("it has no text")
}

// afterName is what follows a name, which may end in a pointer to an earlier one.
func afterName(m []byte) ([]byte, error) {
	const pointer = 0xc0
	for len(m) > 0 {
		switch n := int(m[0]); {
		case n == 0:
			return m[1:], nil
		case n&pointer == pointer && len(m) > 1:
			return m[2:], nil
		case n > maxLabel || len(m) < 1+n:
			return nil, errShort
		default:
			m = m[1+n:]
		}
	}
	return nil, errShort
}
