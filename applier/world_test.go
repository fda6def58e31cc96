package applier

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"patchagent/manifest"
)

// world is a live tree and a state folder, with an applier on them.
type world struct {
	t    testing.TB
	root string
	opts Options
	a    *Applier

	build int64 // that is installed; of tests with more than one patch
}

func newWorld(t *testing.T, tree map[string]string) *world {
	t.Helper()
	return newWorldIn(t, t.TempDir(), tree)
}

// inMemory is a folder whose syncs cost nothing, for tests that make hundreds of
// worlds: they end the program in their own way, and lose no power.
func inMemory(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "applier-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func newWorldIn(t testing.TB, dir string, tree map[string]string) *world {
	t.Helper()
	w := &world{t: t, root: filepath.Join(dir, "app")}
	w.opts = Options{Root: w.root, State: filepath.Join(dir, "state"), Keep: 3}
	w.lay(tree)
	w.open()
	return w
}

// lay puts files into the tree; names that end in a slash are folders.
func (w *world) lay(tree map[string]string) {
	w.t.Helper()
	must(w.t, os.MkdirAll(w.root, 0o755))
	for name, content := range tree {
		path := filepath.Join(w.root, name)
		must(w.t, os.MkdirAll(filepath.Dir(path), 0o755))
		if strings.HasSuffix(name, "/") {
			must(w.t, os.MkdirAll(path, 0o755))
			continue
		}
		must(w.t, os.WriteFile(path, []byte(content), 0o644))
	}
}

func (w *world) open() {
	w.t.Helper()
	a, err := Open(w.opts)
	must(w.t, err)
	w.a = a
	w.t.Cleanup(a.Close)
}

// tree is everything below the root: files as "mode content", folders as "dir".
func (w *world) tree() map[string]string {
	w.t.Helper()
	got := map[string]string{}
	must(w.t, filepath.WalkDir(w.root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == w.root {
			return err
		}
		name, _ := filepath.Rel(w.root, path)
		info, err := d.Info()
		if err != nil {
			return err
		}
		switch {
		case d.IsDir():
			got[name+"/"] = fmt.Sprintf("%o", info.Mode().Perm())
		case d.Type() == fs.ModeSymlink:
			got[name], err = os.Readlink(path)
			got[name] = "-> " + got[name]
		case d.Type().IsRegular():
			data, readErr := os.ReadFile(path)
			got[name], err = fmt.Sprintf("%o %s", info.Mode().Perm(), data), readErr
		default:
			got[name] = d.Type().String()
		}
		return err
	}))
	return got
}

func (w *world) wantTree(want map[string]string, when string) {
	w.t.Helper()
	if diff := cmp.Diff(want, w.tree()); diff != "" {
		w.t.Errorf("%s the tree differs (-want +got):\n%s", when, diff)
	}
}

// item is one line of a test's manifest; content is nil for a delete.
type item struct {
	op      manifest.Op
	place   string
	content string
}

func mod(place, content string) item {
	return item{op: manifest.Modify, place: place, content: content}
}
func add(place, content string) item { return item{op: manifest.New, place: place, content: content} }
func del(place string) item          { return item{op: manifest.Delete, place: place} }

// pack makes a package of schema 1.
func pack(t testing.TB, warm bool, items ...item) *manifest.Package {
	t.Helper()
	type line struct {
		Name string `json:"name"`
		Path string `json:"path"`
	}
	doc := map[string]any{"justres": warm, "region": "here", "build": "300"}
	lists := map[manifest.Op][]line{}
	var buf bytes.Buffer
	z := zip.NewWriter(&buf)
	for _, it := range items {
		lists[it.op] = append(lists[it.op], line{Name: it.place, Path: "/"})
		if it.op != manifest.Delete {
			f, err := z.Create(map[manifest.Op]string{manifest.Modify: "mod/", manifest.New: "new/"}[it.op] + it.place)
			must(t, err)
			_, err = f.Write([]byte(it.content))
			must(t, err)
		}
	}
	doc["delfiles"], doc["modfiles"], doc["newfiles"] = orEmpty(lists[manifest.Delete]), orEmpty(lists[manifest.Modify]), orEmpty(lists[manifest.New])
	data, err := json.Marshal(doc)
	must(t, err)
	f, err := z.Create("manifest.json")
	must(t, err)
	_, err = f.Write(data)
	must(t, err)
	must(t, z.Close())
	pkg, err := manifest.Open(bytes.NewReader(buf.Bytes()), int64(buf.Len()), manifest.Limits{})
	must(t, err)
	return pkg
}

func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

// apply takes a package through to its result.
func (w *world) apply(pkg *manifest.Package, p Process) (Result, error) {
	w.t.Helper()
	plan, err := w.a.Plan(w.t.Context(), pkg)
	if err != nil {
		return Result{}, err
	}
	tx, err := w.a.Stage(w.t.Context(), pkg, plan, Patch{ID: "1", Name: "p.zip", Warm: pkg.Manifest.Warm, Build: 300, FromBuild: 200})
	if err != nil {
		return Result{}, err
	}
	r, err := tx.Apply(w.t.Context(), p)
	if err == nil {
		err = tx.Close()
	}
	return r, err
}

// proc writes down what it was asked, and fails where it is told to. It stands for
// the supervisor, which has its own tests with real processes.
type proc struct {
	up    bool
	calls []string
	fail  map[string]error
	seen  func()      // called whenever the process would look at its files
	hooks func(Event) // called for each hook; nil: they are not among the calls
}

func (p *proc) call(name string) error {
	p.calls = append(p.calls, name)
	return p.fail[name]
}

func (p *proc) Up() bool { return p.up }

func (p *proc) Hold(context.Context) error { return nil }

func (p *proc) Resume() {}

func (p *proc) Precheck(context.Context, Event) error { return p.fail["precheck"] }

func (p *proc) Start(_ context.Context, e Event) error {
	err := p.call("start " + e.Name)
	if err == nil && p.up {
		err = errors.New("it was up already")
	}
	p.up = err == nil
	if p.up && p.seen != nil {
		p.seen()
	}
	return err
}

func (p *proc) Prepare(context.Context) {}

func (p *proc) StillUp(context.Context) error { return p.fail["still up"] }

func (p *proc) Hook(ctx context.Context, e Event) error {
	if p.hooks == nil || ctx.Err() != nil {
		return context.Cause(ctx)
	}
	p.hooks(e)
	return p.call(e.Name)
}

func (p *proc) Stop(context.Context, Event) error {
	err := p.call("stop")
	p.up = p.up && err != nil
	return err
}

func (p *proc) Reload(_ context.Context, e Event) error {
	if p.seen != nil {
		p.seen()
	}
	return p.call("reload " + e.Name)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// guards are files of the agent's own.
func guards(paths ...string) func() Guarded { return func() Guarded { return Guarded{Own: paths} } }
