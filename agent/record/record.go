// Package record keeps what outlives a run of the agent: which build is
// installed, and how every drop ended.
//
// installed.json says which build, region and product the tree is. agent.toml
// says so before the first patch; from then on the record counts. Each value is
// kept beside what agent.toml said when it was written, so that a line changed by
// hand is noticed, and wins.
//
// receipts.jsonl has one JSON object a line, one line a drop. A line is appended
// and synced before anything else says that the drop has ended. A crash can tear
// the last line: that one was not promised to anybody, and OpenReceipts cuts it off.
package record

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"patchagent/applier/journal"
	"patchagent/manifest/reason"
)

// Names of the files in the state folder.
const (
	installedName = "installed.json"
	receiptsName  = "receipts.jsonl"
)

// Installed is what the tree is now.
type Installed struct {
	Build   int64  `json:"build"`
	Region  string `json:"region"`
	Product string `json:"product"`

	// What agent.toml said when this was written.
	ConfigBuild   int64  `json:"config_build"`
	ConfigRegion  string `json:"config_region"`
	ConfigProduct string `json:"config_product"`
}

// LoadInstalled reads the record of a state folder and holds it against what
// agent.toml says now. changed means that the two differ from what is on disk
// and Save is due. A record that cannot be read is an error: guessing a build
// would let an old package in.
func LoadInstalled(dir string, build int64, region, product string) (i Installed, changed bool, err error) {
	data, err := os.ReadFile(filepath.Join(dir, installedName))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		i.Update(build, region, product)
		return i, true, nil
	case err != nil:
		return i, false, fmt.Errorf("cannot read which build is installed: %w", err)
	}
	if err := json.Unmarshal(data, &i); err != nil {
		return i, false, fmt.Errorf("cannot read which build is installed: %s is damaged (%w); look into the last line of %s, write that build into agent.toml and remove the file",
			filepath.Join(dir, installedName), err, receiptsName)
	}
	return i, i.Update(build, region, product), nil
}

// Update takes over what was changed in agent.toml, and says whether anything was.
func (i *Installed) Update(build int64, region, product string) bool {
	before := *i
	if i.ConfigBuild != build {
		i.ConfigBuild, i.Build = build, build
	}
	if i.ConfigRegion != region {
		i.ConfigRegion, i.Region = region, region
	}
	if i.ConfigProduct != product {
		i.ConfigProduct, i.Product = product, product
	}
	return *i != before
}

// Save makes the record durable.
func (i Installed) Save(dir string) error {
	data, err := json.MarshalIndent(i, "", "  ")
	if err != nil {
		return err
	}
	return journal.WriteFile(filepath.Join(dir, installedName), append(data, '\n'), 0o600)
}

// A Receipt says how one drop ended.
type Receipt struct {
	Time       time.Time      `json:"time"`
	ID         string         `json:"id"`
	Patch      string         `json:"patch"` // the file's name
	SHA256     string         `json:"sha256"`
	KeyID      string         `json:"key_id"` // of the signature that held; empty if none was checked
	Product    string         `json:"product"`
	Region     string         `json:"region"`
	FromBuild  int64          `json:"from_build"`
	Build      *int64         `json:"build"`    // null: the package does not say, or was not read that far
	Strategy   string         `json:"strategy"` // warm, cold, or empty
	Outcome    reason.Outcome `json:"outcome"`
	Reason     reason.Code    `json:"reason"`
	Detail     string         `json:"detail"`
	Created    int            `json:"created"`
	Modified   int            `json:"modified"`
	Deleted    int            `json:"deleted"`
	Bytes      int64          `json:"bytes"`
	TookMS     int64          `json:"took_ms"`
	DowntimeMS int64          `json:"downtime_ms"`
}

// Pairs returns the receipt as keys and values for a log line, in its own order.
func (r Receipt) Pairs() []any {
	var build any = ""
	if r.Build != nil {
		build = *r.Build
	}
	return []any{
		"time", r.Time.Format(time.RFC3339Nano), "id", r.ID, "patch", r.Patch, "sha256", r.SHA256, "key_id", r.KeyID, "product", r.Product, "region", r.Region,
		"from_build", r.FromBuild, "build", build, "strategy", r.Strategy, "outcome", string(r.Outcome), "reason", string(r.Reason),
		"detail", r.Detail, "created", r.Created, "modified", r.Modified, "deleted", r.Deleted, "bytes", r.Bytes,
		"took_ms", r.TookMS, "downtime_ms", r.DowntimeMS,
	}
}

// Receipts is the file of receipts, open for appending. Only one goroutine may use it.
type Receipts struct {
	file *os.File
	size int64 // of all that is whole
	torn bool  // the file may be longer than size
}

// OpenReceipts opens the file in the state folder, makes it if it is missing,
// and cuts off a torn last line.
func OpenReceipts(dir string) (*Receipts, error) {
	path := filepath.Join(dir, receiptsName)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot open the receipts: %w", err)
	}
	r := &Receipts{file: f, torn: true}
	if r.size, err = wholeLines(f); err == nil {
		err = r.mend()
	}
	if err == nil {
		err = journal.SyncDir(dir)
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("cannot use the receipts: %w", err)
	}
	return r, nil
}

// wholeLines returns how many bytes of f are lines with an end.
func wholeLines(f *os.File) (int64, error) {
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, err
	}
	const step = 64 << 10
	buf := make([]byte, step)
	for size > 0 {
		start := max(0, size-step)
		n, err := f.ReadAt(buf[:size-start], start)
		if err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
		if i := bytes.LastIndexByte(buf[:n], '\n'); i >= 0 {
			return start + int64(i) + 1, nil
		}
		size = start
	}
	return 0, nil
}

// mend cuts off what a failed or torn write left.
func (r *Receipts) mend() error {
	if !r.torn {
		return nil
	}
	if err := r.file.Truncate(r.size); err != nil {
		return err
	}
	r.torn = false
	return nil
}

// Append adds a receipt; when it returns nil the receipt is durable. After an
// error it is not there, and Append may be called again.
func (r *Receipts) Append(receipt Receipt) error {
	line, err := json.Marshal(receipt)
	if err != nil {
		return err
	}
	line = append(line, '\n')
	if err := r.mend(); err != nil {
		return fmt.Errorf("cannot write the receipt: %w", err)
	}
	r.torn = true
	if _, err := r.file.WriteAt(line, r.size); err != nil {
		return fmt.Errorf("cannot write the receipt: %w", err)
	}
	if err := journal.Synced(r.file.Sync()); err != nil {
		return fmt.Errorf("cannot make the receipt durable: %w", err)
	}
	r.size, r.torn = r.size+int64(len(line)), false
	return nil
}

// Close closes the file.
func (r *Receipts) Close() { _ = r.file.Close() }

// Read returns the receipts of a state folder, oldest first; lines that are not
// receipts are passed over. It needs no lock.
func Read(dir string) ([]Receipt, error) {
	f, err := os.Open(filepath.Join(dir, receiptsName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the receipts: %w", err)
	}
	defer f.Close()
	var all []Receipt
	lines := bufio.NewReader(f)
	for {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return all, nil // without its end it is not whole
		}
		if err != nil {
			return nil, fmt.Errorf("cannot read the receipts: %w", err)
		}
		var r Receipt
		if json.Unmarshal(line, &r) == nil && r.ID != "" {
			all = append(all, r)
		}
	}
}
