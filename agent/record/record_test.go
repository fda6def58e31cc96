package record

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestInstalledBuild(t *testing.T) {
	dir := t.TempDir()
	load := func(build int64) Installed {
		t.Helper()
		i, _, err := LoadInstalled(dir, build, "us", "")
		if err != nil {
			t.Fatal(err)
		}
		return i
	}
	i := load(200)
	if i.Build != 200 {
		t.Fatalf("before the first patch: %d, want what agent.toml says", i.Build)
	}
	i.Build = 300 // a patch
	if err := i.Save(dir); err != nil {
		t.Fatal(err)
	}
	if got := load(200).Build; got != 300 {
		t.Errorf("agent.toml unchanged: %d, want the record's 300", got)
	}
	if got := load(250).Build; got != 250 {
		t.Errorf("agent.toml changed by hand: %d, want its 250", got)
	}
	if got, changed, err := LoadInstalled(dir, 200, "eu", "shop"); err != nil || !changed || got.Region != "eu" || got.Product != "shop" || got.Build != 300 {
		t.Errorf("region and product changed by hand: %+v, %v, %v", got, changed, err)
	}
	if err := os.WriteFile(filepath.Join(dir, installedName), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := LoadInstalled(dir, 200, "us", ""); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("damaged record: %v", err)
	}
}

func TestReceiptsSurviveATornLine(t *testing.T) {
	whole := func(n int) string {
		var b strings.Builder
		for i := range n {
			line, err := json.Marshal(Receipt{ID: fmt.Sprint(i), Detail: strings.Repeat("d", 70<<10)})
			if err != nil {
				t.Fatal(err)
			}
			b.Write(append(line, '\n'))
		}
		return b.String()
	}
	for name, torn := range map[string]string{"whole": "", "torn": `{"id":"x"`, "torn and long": strings.Repeat("z", 200<<10)} {
		for _, n := range []int{0, 1, 3} {
			t.Run(fmt.Sprintf("%s after %d", name, n), func(t *testing.T) {
				dir := t.TempDir()
				path := filepath.Join(dir, receiptsName)
				if err := os.WriteFile(path, []byte(whole(n)+torn), 0o600); err != nil {
					t.Fatal(err)
				}
				r, err := OpenReceipts(dir)
				if err != nil {
					t.Fatal(err)
				}
				defer r.Close()
				if err := r.Append(Receipt{ID: fmt.Sprint(n), Detail: strings.Repeat("d", 70<<10)}); err != nil {
					t.Fatal(err)
				}
				got, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(whole(n+1), string(got)); diff != "" {
					t.Error("the file is not just whole lines")
				}
				if all, err := Read(dir); err != nil || len(all) != n+1 {
					t.Errorf("%d receipts, %v", len(all), err)
				}
			})
		}
	}
}

func TestAppendAfterAFailedOne(t *testing.T) {
	dir := t.TempDir()
	r, err := OpenReceipts(dir)
	if err != nil {
		t.Fatal(err)
	}
	// What a write that failed half way leaves.
	r.torn = true
	if _, err := r.file.WriteAt([]byte(`{"id":"half`), r.size); err != nil {
		t.Fatal(err)
	}
	if err := r.Append(Receipt{ID: "a"}); err != nil {
		t.Fatal(err)
	}
	r.Close()
	if err := r.Append(Receipt{ID: "b"}); err == nil {
		t.Error("a closed file took a receipt")
	}
	if all, err := Read(dir); err != nil || len(all) != 1 || all[0].ID != "a" {
		t.Errorf("%+v, %v", all, err)
	}
}

func TestLogLineHasTheReceiptsKeys(t *testing.T) {
	data, err := json.Marshal(Receipt{})
	if err != nil {
		t.Fatal(err)
	}
	var keys map[string]any
	if err := json.Unmarshal(data, &keys); err != nil {
		t.Fatal(err)
	}
	pairs := Receipt{}.Pairs()
	if len(pairs) != 2*len(keys) {
		t.Errorf("%d pairs, %d keys", len(pairs)/2, len(keys))
	}
	for i := 0; i < len(pairs); i += 2 {
		if _, ok := keys[pairs[i].(string)]; !ok {
			t.Errorf("%v is not a key of the receipt", pairs[i])
		}
	}
}
