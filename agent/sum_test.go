package main

import (
	"encoding/hex"
	"io"

	"patchagent/manifest"
)

// sumLine is what sha256sum(1) prints for a file.
func sumLine(r io.Reader, name string) (string, error) {
	sums, err := manifest.Sum(r)
	return hex.EncodeToString(sums.SHA256[:]) + "  " + name + "\n", err
}
