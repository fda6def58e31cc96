package manifest

import (
	"math/rand/v2"
	"path"
	"strings"
	"testing"
	"unicode"

	"patchagent/manifest/reason"
)

// A name is compared in no more than three times its bytes, whatever it is.
func TestFoldIsBounded(t *testing.T) {
	step := rune(1)
	if testing.Short() {
		step = 7
	}
	for r := rune(0); r <= unicode.MaxRune; r += step {
		name := strings.Repeat(string(r), 3)
		if folded := foldName(name); len(folded) > 3*len(name) {
			t.Errorf("%+q becomes %+q", name, folded)
		}
	}
}

// What is found by looking at neighbours in order is what is found by looking at all.
func TestNamesInOrder(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	segments := []string{"a", "b", "A", "a-", "a b", "á", "a\u0301"} // some sort before a slash, and some fold to one
	rounds := 20_000
	if testing.Short() {
		rounds /= 10
	}
	for range rounds {
		var entries []*entry
		for range 1 + random.IntN(5) {
			name := make([]string, 1+random.IntN(3))
			for i := range name {
				name[i] = segments[random.IntN(len(segments))]
			}
			entries = append(entries, &entry{name: strings.Join(name, "/"), dir: random.IntN(4) == 0})
		}
		files, dirs, folders, clashes := map[string]bool{}, map[string]bool{}, map[string]bool{}, false
		for _, e := range entries {
			key, kind := foldName(e.name), files
			if e.dir {
				kind = dirs
				folders[key] = true
			}
			clashes = clashes || kind[key]
			kind[key] = true
			for up := path.Dir(key); up != "."; up = path.Dir(up) {
				folders[up] = true
			}
		}
		for file := range files {
			clashes = clashes || folders[file]
		}
		names := func() (all []string) {
			for _, e := range entries {
				all = append(all, e.name+map[bool]string{true: "/"}[e.dir])
			}
			return all
		}
		if err := checkNames(entries, len(folders)); (err != nil) != clashes {
			t.Fatalf("%q: %v, want a clash: %v", names(), err, clashes)
		}
		if code, _ := reason.Of(checkNames(entries, len(folders)-1)); !clashes && len(folders) > 0 && code != reason.LimitExceeded {
			t.Fatalf("%q: %d folders are not too many where %d may be", names(), len(folders), len(folders)-1)
		}
		if clashes {
			continue
		}
		var items []Item
		for _, e := range entries {
			items = append(items, Item{Op: New, Path: foldName(e.name)})
		}
		places, within := map[string]bool{}, map[string]bool{}
		for _, it := range items {
			places[it.Path] = true
			for up := path.Dir(it.Path); up != "."; up = path.Dir(up) {
				within[up] = true
			}
		}
		wrong := false
		for p := range within {
			wrong = wrong || places[p]
		}
		if err := checkPlaces(items, len(within)); (err != nil) != (wrong || len(places) < len(items)) {
			t.Fatalf("places %q: %v", names(), err)
		}
	}
}
