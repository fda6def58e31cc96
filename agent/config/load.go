package config

import (
	"cmp"
	"crypto/sha256"
	"encoding"
	"errors"
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/BurntSushi/toml"
)

// maxFile bounds agent.toml: thousands of times what it takes, and small enough
// that a wrong file name is not read into memory.
const maxFile = 1 << 20

// A Problem is one thing that is wrong with the file.
type Problem struct {
	Line    int // 0: no line of it
	Key     string
	Message string
}

// Error is everything that is wrong with a file.
type Error struct {
	Path     string
	Problems []Problem
}

// maxProblems bounds how many are told: a file with more is another file.
const maxProblems = 50

// Error has one line a problem: file, line, key, message.
func (e *Error) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		where := e.Path
		if p.Line > 0 {
			where = fmt.Sprintf("%s:%d", e.Path, p.Line)
		}
		if p.Key != "" {
			where += ": " + p.Key
		}
		lines[i] = where + ": " + p.Message
	}
	return strings.Join(lines, "\n")
}

// Load reads the file at path. What is wrong with its content is an *Error.
func Load(path string) (*Config, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	data, err := ReadFile(path, maxFile)
	if err != nil {
		return nil, err
	}
	return parse(path, data)
}

func parse(path string, data []byte) (*Config, error) {
	var values map[string]any
	meta, err := toml.Decode(string(data), &values)
	if err != nil {
		p := Problem{Message: err.Error()}
		if e, ok := errors.AsType[toml.ParseError](err); ok {
			p = Problem{Line: e.Position.Line, Message: e.Message}
			if e.Message == "" {
				p.Message = strings.TrimPrefix(e.Error(), "toml: ")
			}
			p.Message = strings.TrimSuffix(p.Message, ".") + remedy(p.Message, lineOf(string(data), p.Line))
		}
		return nil, &Error{Path: path, Problems: []Problem{p}}
	}
	r := reader{
		cfg: Default(), data: string(data), values: values, keys: meta.Keys(), lines: locate(string(data)),
		set: map[string]bool{}, bad: map[string]bool{},
	}
	r.cfg.Path, r.cfg.sum = path, sha256.Sum256(data)
	r.take()
	r.validate()
	r.cfg.absolute()
	r.clashes()
	r.intruders()
	if len(r.problems) == 0 {
		return r.cfg, nil
	}
	slices.SortStableFunc(r.problems, func(x, y Problem) int {
		return cmp.Or(cmp.Compare(x.Line, y.Line), strings.Compare(x.Key, y.Key))
	})
	if r.more > 0 {
		r.problems = append(r.problems, Problem{Message: fmt.Sprintf("there are %d more problems; is this the right file?", r.more)})
	}
	return nil, &Error{Path: path, Problems: r.problems}
}

// reader takes the values of one file into a Config.
type reader struct {
	cfg      *Config
	data     string
	values   map[string]any
	keys     []toml.Key
	lines    func(toml.Key) int
	set      map[string]bool // keys that are in the file
	bad      map[string]bool // keys and sections whose value was not taken
	problems []Problem
	more     int // problems beyond maxProblems

	socketLines []int // of each of target.socket
}

// problem is about a known key; its line is that of the key in the file.
func (r *reader) problem(key, format string, args ...any) {
	r.problemAt(strings.Split(key, "."), format, args...)
}

func (r *reader) problemAt(key toml.Key, format string, args ...any) {
	if r.full() {
		return
	}
	r.add(Problem{Line: r.lines(key), Key: key.String(), Message: fmt.Sprintf(format, args...)})
}

func (r *reader) add(p Problem) { r.problems = append(r.problems, p) }

// full says whether enough was told, and counts what is not told any more.
func (r *reader) full() bool {
	if len(r.problems) < maxProblems {
		return false
	}
	r.more++
	return true
}

// take assigns every known key and complains of every other.
func (r *reader) take() {
	known := map[string]any{}
	var names []string
	tables := map[string]bool{}
	for _, f := range r.cfg.fields() {
		known[f.key] = f.value
		names = append(names, f.key)
		for i, c := range f.key {
			if c == '.' {
				tables[f.key[:i]] = true
			}
		}
	}
	for _, f := range new(Socket).fields() {
		names = append(names, socketKey+"."+f.key)
	}
	for _, k := range r.keys {
		key := k.String() // with quotes where a part has a dot, so that "patch.dir" is not taken for patch.dir
		value := at(r.values, k)
		_, isTable := value.(map[string]any)
		target, ok := known[key]
		switch {
		case r.complained(k):
			// Below a section that was complained of already.
		case ok:
			r.set[key] = true
			if err := assign(key, target, value); err != nil {
				r.bad[key] = true
				r.problemAt(k, "%v", err)
			}
		case strings.HasPrefix(key, "target.env.") || strings.HasPrefix(key, "target.rlimits.") || key == socketKey || strings.HasPrefix(key, socketKey+"."):
			// Part of a value that is taken as a whole.
		case tables[key] && isTable:
			r.set[key] = true
		case tables[key]:
			r.bad[key] = true
			r.problemAt(k, "is a section; write [%s] on a line of its own, and its keys below", key)
		default:
			r.bad[key] = true
			if !r.full() {
				r.problemAt(k, "there is no such key; did you mean %s?", nearest(key, names, value, tables))
			}
		}
	}
	r.sockets()
}

// complained says whether the key, or a section that it is in, was refused.
func (r *reader) complained(k toml.Key) bool {
	for i := range k {
		if r.bad[k[:i+1].String()] {
			return true
		}
	}
	return false
}

// at finds a key's value; nil for what is inside a list of tables.
func at(values map[string]any, key toml.Key) any {
	var v any = values
	for _, k := range key {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[k]
	}
	return v
}

// assign takes a value of the file into where it belongs.
func assign(key string, target, value any) error {
	switch t := target.(type) {
	case *string:
		s, ok := value.(string)
		if words := wordsOf(key); !ok && words != nil {
			return mismatch(value, "one of these, in quotes: "+strings.Join(words, ", "))
		}
		if !ok {
			return mismatch(value, "a string in quotes")
		}
		*t = s
	case *bool:
		b, ok := value.(bool)
		if !ok {
			return mismatch(value, "true or false")
		}
		*t = b
	case *int64:
		n, ok := value.(int64)
		if !ok {
			return mismatch(value, "a whole number")
		}
		*t = n
	case *int:
		n, ok := value.(int64)
		if !ok {
			return mismatch(value, "a whole number")
		}
		if n < math.MinInt32 || n > math.MaxInt32 {
			return fmt.Errorf("is %d; the largest number is %d", n, math.MaxInt32)
		}
		*t = int(n)
	case *[]string:
		return assignList(t, value)
	case **int:
		n := new(int)
		if err := assign(key, n, value); err != nil {
			return err
		}
		*t = n
	case *map[string]string:
		return assignTable(t, value)
	case *Rlimits:
		return t.assign(value)
	case *Octal:
		return t.assign(key, value)
	case encoding.TextUnmarshaler:
		s, ok := value.(string)
		if !ok {
			switch target.(type) {
			case *Duration:
				return mismatch(value, `a duration with its unit, in quotes: write "5s"`)
			case *Size:
				return mismatch(value, `a size with its unit, in quotes: write "64MiB"`)
			}
			return mismatch(value, "a string in quotes")
		}
		return t.UnmarshalText([]byte(s))
	}
	return nil
}

func assignList(target *[]string, value any) error {
	list, ok := value.([]any)
	if !ok {
		return mismatch(value, `a list of strings, such as ["a", "b"]`)
	}
	taken := make([]string, len(list))
	for i, v := range list {
		if taken[i], ok = v.(string); !ok {
			return fmt.Errorf("has %s at place %d; all of it must be strings in quotes", kind(v), i+1)
		}
	}
	*target = taken
	return nil
}

func assignTable(target *map[string]string, value any) error {
	table, ok := value.(map[string]any)
	if !ok {
		return mismatch(value, `a table of strings, such as { NAME = "value" }`)
	}
	taken := map[string]string{}
	for _, k := range slices.Sorted(maps.Keys(table)) {
		if taken[k], ok = table[k].(string); !ok {
			return fmt.Errorf("has %s for %s; all values must be strings in quotes", kind(table[k]), k)
		}
	}
	*target = taken
	return nil
}

func mismatch(value any, want string) error {
	return fmt.Errorf("is %s; it must be %s", kind(value), want)
}

func kind(value any) string {
	switch value.(type) {
	case string:
		return "a string"
	case bool:
		return "true or false"
	case int64:
		return "a bare number"
	case float64:
		return "a fraction"
	case []any, []map[string]any:
		return "a list"
	case map[string]any:
		return "a section"
	default:
		return "a date"
	}
}

// locate returns a function that finds the line of a key; 0 if the file has none.
// The library knows the line of a value only when it fails to decode it, so it is
// made to fail.
func locate(data string) func(toml.Key) int {
	whole := sync.OnceValues(func() (map[string]toml.Primitive, toml.MetaData) {
		var top map[string]toml.Primitive
		meta, _ := toml.Decode(data, &top) // it was decoded before
		return top, meta
	})
	return func(key toml.Key) int {
		here, meta := whole()
		for i, part := range key {
			value, ok := here[part]
			if !ok {
				return 0
			}
			if i == len(key)-1 {
				e, _ := errors.AsType[toml.ParseError](meta.PrimitiveDecode(value, new(unwilling)))
				return e.Position.Line
			}
			here = nil
			if meta.PrimitiveDecode(value, &here) != nil {
				return 0
			}
		}
		return 0
	}
}

// unwilling refuses every value.
type unwilling struct{}

func (*unwilling) UnmarshalTOML(any) error { return errors.New("found") }

// maxKey is the longest key for which a nearest one is looked for by all of it:
// twice the longest that there is.
const maxKey = 54

// nearest returns the known key, or for a table the section, that takes the fewest
// changes to reach.
func nearest(key string, names []string, value any, tables map[string]bool) string {
	key = strings.ToLower(key[:min(len(key), maxKey)])
	switch value.(type) {
	case map[string]any, []map[string]any:
		return nearestSection(key, tables)
	}
	_, own := lastPart(key)
	best, least := "", math.MaxInt
	for _, name := range names {
		d := distance(key, name)
		// A key in the wrong section is nearest to its namesake.
		if _, part := lastPart(name); part == own {
			d = min(d, 2)
		}
		if d < least {
			best, least = name, d
		}
	}
	return best
}

// nearestSection goes by the last part of a section's name: who leaves out what it is in
// means that one.
func nearestSection(key string, tables map[string]bool) string {
	above, own := lastPart(key)
	best, least := "", math.MaxInt
	for _, name := range append(slices.Sorted(maps.Keys(tables)), "target.env", "target.rlimits", socketKey) {
		nameAbove, nameOwn := lastPart(name)
		d := 2 * distance(own, nameOwn)
		if above != nameAbove {
			d++
		}
		if d < least {
			best, least = name, d
		}
	}
	if best == socketKey {
		return "[[" + best + "]]"
	}
	return "[" + best + "]"
}

// lastPart takes the last part of a key off.
func lastPart(key string) (above, own string) {
	if i := strings.LastIndexByte(key, '.'); i >= 0 {
		return key[:i], key[i+1:]
	}
	return "", key
}

// distance is the number of characters to insert, delete or replace (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		before := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := before
			if a[i] != b[j] {
				cost = 1 + min(before, row[j], row[j+1])
			}
			before, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}
