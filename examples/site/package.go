package site

import (
	"archive/zip"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
)

// A Package changes files that exist in the tree.
type Package struct {
	Warm   bool
	Region string
	Build  int
	Files  map[string][]byte // by their place in the tree
}

// One is the one file of a package.
func One(place, content string) map[string][]byte {
	return map[string][]byte{place: []byte(content)}
}

// Drop puts the package and its checksum into the patch folder: the checksum first,
// then the zip, which appears whole under its name.
func (s *Site) Drop(name string, p Package) error {
	data, err := p.zip()
	if err != nil {
		return err
	}
	sum := fmt.Sprintf("%x  %s\n", sha256.Sum256(data), name)
	return errors.Join(
		os.WriteFile(s.Path("patch/"+name+".sha256"), []byte(sum), 0o644),
		os.WriteFile(s.Path("patch/."+name), data, 0o644),
		os.Rename(s.Path("patch/."+name), s.Path("patch/"+name)))
}

func (p Package) zip() ([]byte, error) {
	var mods []map[string]string
	for place := range p.Files {
		mods = append(mods, map[string]string{"name": place, "path": "/"})
	}
	manifest, err := json.MarshalIndent(map[string]any{
		"justres": p.Warm, "region": p.Region, "build": fmt.Sprint(p.Build), "modfiles": mods,
	}, "", "  ")
	if err != nil {
		return nil, err
	}
	entries := map[string][]byte{"manifest.json": manifest}
	for place, data := range p.Files {
		entries["mod/"+place] = data
	}
	var buf bytes.Buffer
	w := zip.NewWriter(&buf)
	for name, data := range entries {
		f, err := w.Create(name)
		if err != nil {
			return nil, err
		}
		if _, err := f.Write(data); err != nil {
			return nil, err
		}
	}
	err = w.Close()
	return buf.Bytes(), err
}
