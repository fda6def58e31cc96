package manifest

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"patchagent/manifest/reason"
)

// Manifest is what manifest.json says beside its items.
type Manifest struct {
	Schema      int
	Warm        bool // justres: resources only, the process stays
	Region      string
	Build       int64
	Product     string    // schema 2
	Requires    *int64    // schema 2: the build that must be installed; nil: any
	Expires     time.Time // schema 2; zero: never
	Description string    // schema 2
}

// newestSchema is the newest format that is read.
const newestSchema = 2

// maxNesting is how deep the document's values may be nested; its own are three deep.
const maxNesting = 8

// The keys of each schema.
var (
	topKeys   = []string{"schema", "justres", "region", "build", "newfiles", "modfiles", "delfiles"}
	topKeys2  = []string{"product", "requires", "expires", "description"}
	itemKeys  = []string{"name", "path"}
	fileKeys2 = []string{"sha256", "size", "mode", "source", "was"}
	delKeys2  = []string{"was"}
)

func invalid(field, format string, args ...any) error {
	return reason.Errorf(reason.ManifestInvalid, "manifest.json: %s %s", field, fmt.Sprintf(format, args...))
}

// parseDocument reads manifest.json, which may name as many items as most says, and
// is never in memory as a whole but for its bytes. Payload names are still relative
// to the package's root. Errors are *reason.Error: manifest-invalid with the field's
// name, limit-exceeded, or unsafe-path.
func parseDocument(data []byte, most int, notes *notes) (*Manifest, []Item, error) {
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	d := document{data: data, top: map[string]any{}, lists: map[string][2]int64{}, m: &Manifest{Schema: 1}, most: most, notes: notes}
	d.left = max(most*valuesPerFile, minValues)
	if err := d.walk(); err != nil {
		return nil, nil, err
	}
	if err := d.header(); err != nil {
		return nil, nil, err
	}
	for _, list := range []struct {
		key string
		op  Op
	}{{"delfiles", Delete}, {"modfiles", Modify}, {"newfiles", New}} {
		if err := d.list(list.key, list.op); err != nil {
			return nil, nil, err
		}
	}
	return d.m, d.items, checkPlaces(d.items, most)
}

// document is a manifest while it is read.
type document struct {
	data  []byte
	top   map[string]any      // its values; a list or an object in it is an empty one
	lists map[string][2]int64 // where in data the values of top are
	left  int                 // how many more values there may be
	m     *Manifest
	items []Item
	most  int // items
	notes *notes
}

func (d *document) header() error {
	if v, ok := d.top["schema"]; ok {
		n, err := integer("schema", v, false)
		if err != nil {
			return err
		}
		if n > newestSchema {
			return invalid("schema", "is %d: a newer agent is needed (this one reads up to %d)", n, newestSchema)
		}
		if n < 1 {
			return invalid("schema", "is %d; it begins with 1", n)
		}
		d.m.Schema = int(n)
	}
	known := topKeys
	if d.m.Schema >= 2 {
		known = slices.Concat(topKeys, topKeys2)
	}
	if err := d.known(d.top, known, ""); err != nil {
		return err
	}
	var err error
	if v, ok := d.top["justres"]; ok {
		if d.m.Warm, ok = v.(bool); !ok {
			return invalid("justres", "is %s; it must be true or false", kind(v))
		}
	}
	if d.m.Region, err = text(d.top, "", "region", true); err != nil {
		return err
	}
	v, ok := d.top["build"]
	if !ok {
		return invalid("build", "is missing")
	}
	if d.m.Build, err = integer("build", v, d.m.Schema == 1); err != nil {
		return err
	}
	return d.header2()
}

// header2 reads what only schema 2 has.
func (d *document) header2() (err error) {
	if d.m.Schema < 2 {
		return nil
	}
	if d.m.Product, err = text(d.top, "", "product", false); err != nil {
		return err
	}
	if d.m.Description, err = text(d.top, "", "description", false); err != nil {
		return err
	}
	if v, ok := d.top["requires"]; ok {
		n, err := integer("requires", v, false)
		if err != nil {
			return err
		}
		d.m.Requires = &n
	}
	if _, ok := d.top["expires"]; ok {
		s, err := text(d.top, "", "expires", true)
		if err != nil {
			return err
		}
		if d.m.Expires, err = time.Parse(time.RFC3339, s); err != nil {
			return invalid("expires", "is %q; it must be a time as in RFC 3339, such as 2030-01-31T00:00:00Z", s)
		}
	}
	return nil
}

// known complains of keys that are not known: an error in schema 2, a note in
// schema 1, unless the key is a known one in other case.
func (d *document) known(object map[string]any, known []string, where string) error {
	for _, key := range slices.Sorted(maps.Keys(object)) {
		if slices.Contains(known, key) {
			continue
		}
		for _, k := range known {
			if strings.EqualFold(k, key) {
				return invalid(where+key, "must be written %q", k)
			}
		}
		if d.m.Schema >= 2 {
			return invalid(where+key, "is not a key of schema %d", d.m.Schema)
		}
		d.notes.add("the manifest's key %s%s is not known; it is ignored", where, quoted(key))
	}
	return nil
}

func (d *document) list(key string, op Op) error {
	v, ok := d.top[key]
	if !ok {
		return nil
	}
	if _, ok := v.([]any); !ok {
		return invalid(key, "is %s; it must be a list", kind(v))
	}
	at := d.lists[key]
	text := bytes.TrimLeft(d.data[at[0]:at[1]], ": \t\r\n")
	tokens := json.NewDecoder(bytes.NewReader(text))
	tokens.UseNumber()
	_, err := tokens.Token() // the opening one
	for i := 0; err == nil && tokens.More(); i++ {
		if len(d.items) == d.most {
			return reason.Errorf(reason.LimitExceeded, "manifest.json has more items than verify.max_files (%d)", d.most)
		}
		err = d.element(tokens, fmt.Sprintf("%s[%d]", key, i), op)
	}
	return err
}

// element reads one item of a list, whose form is known to be right.
func (d *document) element(tokens *json.Decoder, where string, op Op) error {
	var v any
	if err := tokens.Decode(&v); err != nil {
		return invalid(where, "is not JSON: %v", err)
	}
	object, ok := v.(map[string]any)
	if !ok {
		return invalid(where, "is %s; it must be an object with name and path", kind(v))
	}
	it, err := d.item(object, where+".", op)
	if err != nil {
		return err
	}
	d.items = append(d.items, it)
	return nil
}

func (d *document) item(object map[string]any, where string, op Op) (Item, error) {
	known := itemKeys
	if d.m.Schema >= 2 {
		known = slices.Concat(itemKeys, map[bool][]string{true: delKeys2, false: fileKeys2}[op == Delete])
	}
	if err := d.known(object, known, where); err != nil {
		return Item{}, err
	}
	it := Item{Op: op}
	name, err := text(object, where, "name", true)
	if err != nil {
		return it, err
	}
	dir, err := text(object, where, "path", true)
	if err != nil {
		return it, err
	}
	segments := slices.Concat(split(dir), split(name))
	if len(split(name)) == 0 {
		return it, invalid(where+"name", "is empty")
	}
	it.Path = strings.Join(segments, "/")
	if err := safePath(it.Path); err != nil {
		return it, fmt.Errorf("manifest.json: %s: %w", strings.TrimSuffix(where, "."), err)
	}
	if op != Delete {
		it.Payload = map[Op]string{Modify: "mod/", New: "new/"}[op] + strings.Join(split(name), "/")
	}
	if d.m.Schema >= 2 {
		err = it.read2(object, where)
	}
	return it, err
}

// split takes a path apart; slashes at its ends, doubled ones and . are nothing.
func split(p string) []string {
	return slices.DeleteFunc(strings.Split(p, "/"), func(s string) bool { return s == "" || s == "." })
}

// read2 reads what only items of schema 2 have.
func (it *Item) read2(object map[string]any, where string) (err error) {
	if it.Was, err = digestText(object, where, "was", false); err != nil || it.Op == Delete {
		return err
	}
	if it.SHA256, err = digestText(object, where, "sha256", true); err != nil {
		return err
	}
	v, ok := object["size"]
	if !ok {
		return invalid(where+"size", "is missing")
	}
	if it.Size, err = integer(where+"size", v, false); err != nil {
		return err
	}
	if _, ok := object["mode"]; ok {
		s, err := text(object, where, "mode", true)
		if err != nil {
			return err
		}
		mode, err := strconv.ParseUint(s, 8, 32)
		if err != nil || mode > 0o777 || len(s) < 3 || len(s) > 4 {
			return invalid(where+"mode", "is %q; it must be permission bits such as \"0755\"", s)
		}
		it.Mode, it.ModeSet = fs.FileMode(mode), true
	}
	if _, ok := object["source"]; ok {
		source, err := text(object, where, "source", true)
		if err != nil {
			return err
		}
		if err := safePath(source); err != nil {
			return fmt.Errorf("manifest.json: %ssource: %w", where, err)
		}
		it.Payload = map[Op]string{Modify: "mod/", New: "new/"}[it.Op] + source
	}
	return nil
}

// checkPlaces refuses two items for one place, except delete and new, and places
// that are file and folder of each other, or in more folders than most.
func checkPlaces(items []Item, most int) error {
	inOrder := make([]*Item, len(items))
	for i := range items {
		inOrder[i] = &items[i]
	}
	slices.SortStableFunc(inOrder, func(x, y *Item) int { return compareNames(x.Path, y.Path) })
	var folders folderCount
	for i, it := range inOrder {
		if folders.add(parent(it.Path)) > most {
			return reason.Errorf(reason.LimitExceeded, "manifest.json names places in more folders than verify.max_files (%d)", most)
		}
		if i == 0 {
			continue
		}
		before := inOrder[i-1]
		if isBelow(it.Path, before.Path) {
			return invalid(before.Path, "is a place of its own, and the folder of %s", it.Path)
		}
		paired := before.Op == Delete && it.Op == New && (i == 1 || inOrder[i-2].Path != it.Path)
		if it.Path == before.Path && !paired {
			return invalid(it.Path, "is named twice, to %s and to %s", before.Op, it.Op)
		}
	}
	return nil
}

// text takes a string out of an object.
func text(object map[string]any, where, key string, required bool) (string, error) {
	v, ok := object[key]
	if !ok {
		if required {
			return "", invalid(where+key, "is missing")
		}
		return "", nil
	}
	s, ok := v.(string)
	if !ok {
		return "", invalid(where+key, "is %s; it must be a string", kind(v))
	}
	return s, nil
}

func digestText(object map[string]any, where, key string, required bool) (string, error) {
	s, err := text(object, where, key, required)
	if err != nil || s == "" && object[key] == nil {
		return "", err
	}
	if sum, err := hex.DecodeString(s); err != nil || len(sum) != 32 {
		return "", invalid(where+key, "is %q; it must be a SHA-256 of 64 hex digits", s)
	}
	return strings.ToLower(s), nil
}

// integer takes a whole number that is not negative; digits also as a string, if
// quoted.
func integer(field string, v any, quoted bool) (int64, error) {
	var digits string
	switch v := v.(type) {
	case json.Number:
		digits = v.String()
	case string:
		if quoted {
			digits = v
			break
		}
		return 0, invalid(field, "is a string; it must be a whole number")
	default:
		return 0, invalid(field, "is %s; it must be a whole number", kind(v))
	}
	if digits == "" || strings.Trim(digits, "0123456789") != "" {
		return 0, invalid(field, "is %q; it must be digits and nothing else", digits)
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil {
		return 0, invalid(field, "is %s; the largest number is %d", digits, int64(math.MaxInt64))
	}
	return n, nil
}

func kind(v any) string {
	switch v.(type) {
	case nil:
		return "null"
	case bool:
		return "true or false"
	case json.Number:
		return "a number"
	case string:
		return "a string"
	case []any:
		return "a list"
	default:
		return "an object"
	}
}
