package hostile

import (
	"fmt"
	"strings"

	"patchagent/manifest/reason"
)

// Bombs say that they are small and are not, or the other way round.
func Bombs() []Package {
	zeros := strings.Repeat("\x00", 8<<20)
	many := Zip{Parts: Plain(Part{}).Parts}
	for i := range MaxFiles {
		many.Parts = append(many.Parts, Part{Name: fmt.Sprintf("new/%d", i)})
	}
	parts := Plain(Part{}).Parts
	kernel := Compress(Deflate, zeros)
	petabytes := uint64(1) << 50
	return []Package{
		{"8 MiB in 8 KiB", Plain(Part{Data: zeros, Method: Deflate}), reason.LimitExceeded},
		{"8 MiB that say they are 3 bytes", Plain(Part{Data: "abc", Method: Deflate, Packed: kernel}), reason.Incomplete},
		{"8 MiB of zstd that say they are 3 bytes", Plain(Part{Data: "abc", Method: Zstd, Packed: Compress(Zstd, zeros)}), reason.Incomplete},
		{"petabytes without a byte behind them", Plain(Part{Data: "abc", Method: Deflate, Extra: zip64Extra(petabytes, petabytes), Central: wide(20, 24)}), reason.LimitExceeded},
		{"petabytes in a folder", Zip{Parts: append(Plain(Part{}).Parts, Part{Name: "mod/x/", Extra: zip64Extra(petabytes), Central: wide(24)})}, reason.NotAZip},
		{"two that are too large together", Zip{Parts: append(Plain(Part{Data: strings.Repeat("a", 2500)}).Parts, Part{Name: "mod/b", Data: strings.Repeat("b", 2500)})}, reason.LimitExceeded},
		{"too many entries", many, reason.LimitExceeded},
		{"65,535 entries, and two of them there", Zip{Parts: parts, End: func(h []byte) { Put16(h, 8, full16-1); Put16(h, 10, full16-1) }}, reason.LimitExceeded},
		{"entries that share their bytes", Zip{Parts: []Part{{Name: "manifest.json", Data: PlainDoc},
			{Name: "mod/a", Data: "kernel", Method: Deflate}, {Name: "mod/b", Data: "kernel", Method: Deflate, Central: set32(42, uint32(localLen+len("manifest.json")+len(PlainDoc)))}}}, reason.NotAZip},
		{"a zip inside another's entry, in its directory", Zip{Parts: []Part{{Name: "manifest.json", Data: PlainDoc}, {Name: "mod/a", Data: string(Plain(Part{}).Bytes()), Central: set32(42, 60)}}}, reason.NotAZip},
		{"a zstd stream with a window of a gigabyte", Plain(Part{Data: "abc", Method: Zstd, Packed: []byte("\x28\xb5\x2f\xfd\x00\xa0\x19\x00\x00abc")}), reason.Incomplete},
		{"an extra field of 64 KiB that is none", Plain(Part{Extra: make([]byte, full16-1)[:full16-1-3]}), reason.NotAZip},
		{"a manifest of gigabytes", Zip{Parts: []Part{{Name: "manifest.json", Data: PlainDoc, Method: Deflate, Extra: zip64Extra(8 << 30), Central: wide(24)}}}, reason.LimitExceeded},
		{"an entry in more folders than there may be files", Plain(Part{Name: "mod/" + strings.Repeat("d/", MaxFiles) + "a"}), reason.LimitExceeded},
		{"a place in more folders than there may be files", Doc(`{"region": "r", "build": 1, "delfiles": [{"name": "a", "path": "` + strings.Repeat("/d", MaxFiles+1) + `"}]}`), reason.LimitExceeded},
		{"items that share a payload and are too large together", Zip{Parts: []Part{{Name: "manifest.json", Data: `{"region": "r", "build": 1, "newfiles": [{"name": "a", "path": "x"}, {"name": "a", "path": "y"}, {"name": "a", "path": "z"}]}`},
			{Name: "new/a", Data: strings.Repeat("a", 1500)}}}, reason.LimitExceeded},
		{"a key of a thousand bytes", Doc(`{"region": "r", "build": 1, "` + strings.Repeat("\ufdfa", 333) + `": 1}`), reason.ManifestInvalid},
		{"more items than there may be files", Doc(`{"region": "r", "build": 1, "delfiles": [` + manyItems(MaxFiles+1) + `]}`), reason.LimitExceeded},
		{"a manifest of nothing but brackets", Zip{Parts: []Part{{Name: "manifest.json", Data: strings.Repeat("[", 3000)}}}, reason.ManifestInvalid},
		{"a manifest with a hundred keys that are one", Doc(`{"region": "r", "build": 1` + strings.Repeat(`, "x": 1`, 100) + `}`), reason.ManifestInvalid},
	}
}

func manyItems(n int) string {
	items := make([]string, n)
	for i := range items {
		items[i] = fmt.Sprintf(`{"name": "%d", "path": ""}`, i)
	}
	return strings.Join(items, ", ")
}
