package config

import (
	"crypto/sha256"
	"encoding"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

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
	data, err := readFile(path)
	if err != nil {
		return nil, err
	}
	return parse(path, data)
}

func readFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxFile {
		return nil, fmt.Errorf("%s is not a configuration: it is not a file, or larger than %d bytes", path, maxFile)
	}
	return os.ReadFile(path)
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
		}
		return nil, &Error{Path: path, Problems: []Problem{p}}
	}
	r := reader{cfg: Default(), values: values, keys: meta.Keys(), lines: locate(string(data)), set: map[string]bool{}}
	r.cfg.Path, r.cfg.sum = path, sha256.Sum256(data)
	r.take()
	r.validate()
	if len(r.problems) > 0 {
		slices.SortStableFunc(r.problems, func(x, y Problem) int { return x.Line - y.Line })
		return nil, &Error{Path: path, Problems: r.problems}
	}
	r.cfg.absolute()
	if problems := r.cfg.clashes(); len(problems) > 0 {
		return nil, &Error{Path: path, Problems: problems}
	}
	return r.cfg, nil
}

// reader takes the values of one file into a Config.
type reader struct {
	cfg      *Config
	values   map[string]any
	keys     []toml.Key
	lines    func(key string) int
	set      map[string]bool // keys that are in the file
	problems []Problem
}

func (r *reader) problem(key, format string, args ...any) {
	r.problems = append(r.problems, Problem{Line: r.lines(key), Key: key, Message: fmt.Sprintf(format, args...)})
}

const socketKey = "target.socket"

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
	names = append(names, socketKey+".listen", socketKey+".name")
	unknown := ""
	for _, k := range r.keys {
		key := strings.Join(k, ".")
		value, _ := at(r.values, k)
		_, isTable := value.(map[string]any)
		target, ok := known[key]
		switch {
		case ok:
			r.set[key] = true
			if err := assign(target, value); err != nil {
				r.problem(key, "%v", err)
			}
		case strings.HasPrefix(key, "target.env.") || key == socketKey || strings.HasPrefix(key, socketKey+"."):
			// Part of a value that is taken as a whole.
		case tables[key] && isTable:
			r.set[key] = true
		case tables[key]:
			r.problem(key, "is a section; write [%s] on a line of its own, and its keys below", key)
		case unknown != "" && strings.HasPrefix(key, unknown):
			// Below a section that was complained of already.
		default:
			if isTable {
				unknown = key + "."
			}
			r.problem(key, "there is no such key; did you mean %s?", nearest(key, names, isTable, tables))
		}
	}
	r.sockets()
}

// at finds a key's value; nil for what is inside a list of tables.
func at(values map[string]any, key toml.Key) (any, bool) {
	var v any = values
	for _, k := range key {
		m, ok := v.(map[string]any)
		if !ok {
			return nil, false
		}
		v = m[k]
	}
	return v, true
}

func (r *reader) sockets() {
	value, ok := at(r.values, toml.Key{"target", "socket"})
	if !ok || value == nil {
		return
	}
	r.set[socketKey] = true
	list, ok := value.([]map[string]any)
	if !ok {
		r.problem(socketKey, "is a list of tables; write [[%s]]", socketKey)
		return
	}
	for _, table := range list {
		var s Socket
		for _, key := range slices.Sorted(maps.Keys(table)) {
			target := map[string]*string{"listen": &s.Listen, "name": &s.Name}[key]
			if target == nil {
				r.problem(socketKey, "there is no key %s in it; did you mean %s?", key, nearest(key, []string{"listen", "name"}, false, nil))
			} else if err := assign(target, table[key]); err != nil {
				r.problem(socketKey, "%s: %v", key, err)
			}
		}
		r.cfg.Target.Sockets = append(r.cfg.Target.Sockets, s)
	}
}

// assign takes a value of the file into where it belongs.
func assign(target, value any) error {
	mismatch := func(want string) error { return fmt.Errorf("is %s; it must be %s", kind(value), want) }
	switch t := target.(type) {
	case *string:
		s, ok := value.(string)
		if !ok {
			return mismatch("a string in quotes")
		}
		*t = s
	case *bool:
		b, ok := value.(bool)
		if !ok {
			return mismatch("true or false")
		}
		*t = b
	case *int64:
		n, ok := value.(int64)
		if !ok {
			return mismatch("a whole number")
		}
		*t = n
	case *int:
		n, ok := value.(int64)
		if !ok || n < math.MinInt32 || n > math.MaxInt32 {
			return mismatch("a whole number")
		}
		*t = int(n)
	case *[]string:
		list, ok := value.([]any)
		if !ok {
			return mismatch(`a list of strings, such as ["a", "b"]`)
		}
		*t = make([]string, len(list))
		for i, v := range list {
			if (*t)[i], ok = v.(string); !ok {
				return fmt.Errorf("has %s at place %d; all of it must be strings in quotes", kind(v), i+1)
			}
		}
	case *map[string]string:
		table, ok := value.(map[string]any)
		if !ok {
			return mismatch(`a table of strings, such as { NAME = "value" }`)
		}
		*t = map[string]string{}
		for k, v := range table {
			if (*t)[k], ok = v.(string); !ok {
				return fmt.Errorf("has %s for %s; all values must be strings in quotes", kind(v), k)
			}
		}
	case encoding.TextUnmarshaler:
		s, ok := value.(string)
		if !ok {
			example := map[bool]string{true: `"5s"`, false: `"64MiB"`}
			switch target.(type) {
			case *Duration:
				return mismatch("a duration with its unit, in quotes: write " + example[true])
			case *Size:
				return mismatch("a size with its unit, in quotes: write " + example[false])
			}
			return mismatch("a string in quotes")
		}
		return t.UnmarshalText([]byte(s))
	}
	return nil
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

// locate returns a function that finds the line of a key. The library knows the
// line of a value only when it fails to decode it, so it is made to fail.
func locate(data string) func(string) int {
	return func(key string) int {
		var here map[string]toml.Primitive
		meta, err := toml.Decode(data, &here)
		if err != nil {
			return 0
		}
		parts := strings.Split(key, ".")
		for i, part := range parts {
			value, ok := here[part]
			if !ok {
				return 0
			}
			if i == len(parts)-1 {
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

// nearest returns the known key that takes the fewest changes to reach, in quotes.
func nearest(key string, names []string, isTable bool, tables map[string]bool) string {
	if isTable {
		names = slices.Sorted(maps.Keys(tables))
	}
	best, least := "", math.MaxInt
	for _, name := range names {
		d := distance(strings.ToLower(key), name)
		// A key in the wrong section is nearest to its namesake.
		if own := name[strings.LastIndexByte(name, '.')+1:]; own == strings.ToLower(key[strings.LastIndexByte(key, '.')+1:]) {
			d = min(d, 2)
		}
		if d < least {
			best, least = name, d
		}
	}
	if isTable {
		return "[" + best + "]"
	}
	return best
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
