package hostile

import (
	"crypto/sha256"
	"fmt"
	"patchagent/manifest/reason"
	"strings"
)

// Documents are manifests that are not what their schema says.
func Documents() []Package {
	file2 := func(keys string) string {
		return `{"schema": 2, "region": "r", "build": 1, "newfiles": [{"name": "a", "path": "/"` + keys + `}]}`
	}
	sum, right := strings.Repeat("0", 64), fmt.Sprintf("%x", sha256.Sum256([]byte("payload")))
	var all []Package
	for text, code := range map[string]reason.Code{
		``: reason.ManifestInvalid, `[]`: reason.ManifestInvalid, `"x"`: reason.ManifestInvalid, `{"region": "r", "build": "1"} x`: reason.ManifestInvalid,
		`{"region": "r", "build": "1"}{}`: reason.ManifestInvalid, `{"region": "r", "build": "1",}`: reason.ManifestInvalid, `{`: reason.ManifestInvalid,
		`{"region": "r", "build": "1", "build": "2"}`: reason.ManifestInvalid, `{"region": "r", "build": "1", "Build": "2"}`: reason.ManifestInvalid,
		`{"region": "r", "build": "1", "NewFiles": []}`: reason.ManifestInvalid, `{"region": "r", "build": "1", "delfiles": [{"name": "a", "Path": "", "path": ""}]}`: reason.ManifestInvalid,
		`{"Region": "r", "build": "1"}`: reason.ManifestInvalid, `{"build": "1"}`: reason.ManifestInvalid, `{"region": "r"}`: reason.ManifestInvalid,
		`{"region": 1, "build": "1"}`: reason.ManifestInvalid, `{"region": "r", "build": "x"}`: reason.ManifestInvalid, `{"region": "r", "build": ""}`: reason.ManifestInvalid,
		`{"region": "r", "build": -1}`: reason.ManifestInvalid, `{"region": "r", "build": 1.5}`: reason.ManifestInvalid, `{"region": "r", "build": 1e3}`: reason.ManifestInvalid,
		`{"region": "r", "build": " 1"}`: reason.ManifestInvalid, `{"region": "r", "build": "+1"}`: reason.ManifestInvalid, `{"region": "r", "build": null}`: reason.ManifestInvalid,
		`{"region": "r", "build": 99999999999999999999}`: reason.ManifestInvalid, `{"region": "r", "build": "1", "justres": "true"}`: reason.ManifestInvalid,
		`{"region": "r", "build": "1", "justres": null}`: reason.ManifestInvalid, `{"region": "r", "build": "1", "newfiles": {}}`: reason.ManifestInvalid,
		`{"region": "r", "build": "1", "newfiles": ["a"]}`: reason.ManifestInvalid, `{"region": "r", "build": "1", "delfiles": [{"path": "/"}]}`: reason.ManifestInvalid,
		`{"region": "r", "build": "1", "delfiles": [{"name": "a"}]}`: reason.ManifestInvalid, `{"region": "r", "build": "1", "delfiles": [{"name": "", "path": "/x"}]}`: reason.ManifestInvalid,
		`{"region": "r", "build": "1", "delfiles": [{"name": "/", "path": "/x"}]}`: reason.ManifestInvalid, `{"schema": 3, "region": "r", "build": 1}`: reason.ManifestInvalid,
		`{"schema": 0, "region": "r", "build": 1}`: reason.ManifestInvalid, `{"schema": "2", "region": "r", "build": 1}`: reason.ManifestInvalid,
		`{"schema": 2, "region": "r", "build": "1"}`: reason.ManifestInvalid, `{"schema": 2, "region": "r", "build": 1, "extra": 1}`: reason.ManifestInvalid,
		`{"schema": 2, "region": "r", "build": 1, "expires": "tomorrow"}`: reason.ManifestInvalid, `{"schema": 2, "region": "r", "build": 1, "requires": "1"}`: reason.ManifestInvalid,
		`{"region": "r", "build": "1", "x": ` + strings.Repeat("[", 20) + strings.Repeat("]", 20) + `}`: reason.ManifestInvalid,
		"{\"region\": \"\xff\", \"build\": \"1\"}":                                                      reason.ManifestInvalid,

		`{"region": "r", "build": "1", "delfiles": [{"name": "a", "path": "/"}, {"name": "/a", "path": ""}]}`:                                           reason.ManifestInvalid,
		`{"region": "r", "build": "1", "delfiles": [{"name": "a", "path": "/"}, {"name": "b", "path": "a"}]}`:                                           reason.ManifestInvalid,
		`{"region": "r", "build": "1", "newfiles": [{"name": "a", "path": "/"}], "modfiles": [{"name": "a", "path": "/"}]}`:                             reason.ManifestInvalid,
		`{"region": "r", "build": "1", "newfiles": [{"name": "a", "path": "/"}], "delfiles": [{"name": "a", "path": "/"}, {"name": "a", "path": "/"}]}`: reason.ManifestInvalid,
		`{"region": "r", "build": "1", "delfiles": [{"name": "..", "path": "/"}]}`:                                                                      reason.UnsafePath,
		`{"region": "r", "build": "1", "delfiles": [{"name": "x", "path": "a/../.."}]}`:                                                                 reason.UnsafePath,
		`{"region": "r", "build": "1", "newfiles": [{"name": "missing", "path": "/"}]}`:                                                                 reason.PayloadMissing,
		file2(``): reason.ManifestInvalid, file2(`, "size": 7`): reason.ManifestInvalid, file2(`, "size": 7, "sha256": "x"`): reason.ManifestInvalid,
		file2(`, "size": 7, "sha256": "` + sum + `", "mode": "9"`): reason.ManifestInvalid, file2(`, "size": 7, "sha256": "` + sum + `", "mode": "4755"`): reason.ManifestInvalid,
		file2(`, "size": 7, "sha256": "` + sum + `", "why": ""`): reason.ManifestInvalid, file2(`, "size": 8, "sha256": "` + sum + `"`): reason.PayloadMismatch,
		file2(`, "size": 7, "sha256": "` + sum + `"`): reason.PayloadMismatch, file2(`, "size": 7, "sha256": "` + sum + `", "source": "../a"`): reason.UnsafePath,
		file2(`, "size": 8, "sha256": "` + right + `"`): reason.PayloadMismatch, file2(`, "size": "7", "sha256": "` + right + `"`): reason.ManifestInvalid,
		file2(`, "size": 7, "sha256": "` + right + `", "mode": 420`): reason.ManifestInvalid, file2(`, "size": 7, "sha256": "` + right + `", "was": ""`): reason.ManifestInvalid,
		file2(`, "size": 7, "sha256": "` + sum + `"}, {"name": "a", "path": "/b", "size": 7, "sha256": "` + right + `"`): reason.PayloadMismatch,
		`{"schema": 2, "region": "r", "build": 1, "product": 1}`:                                                         reason.ManifestInvalid, `{"schema": 2, "region": "r", "build": 1, "expires": 2030}`: reason.ManifestInvalid,
		`{"schema": 2, "region": "r", "build": 1, "description": null}`: reason.ManifestInvalid, `{"schema": 2, "region": "r", "build": 1, "requires": -1}`: reason.ManifestInvalid,
		`{"schema": 2, "region": "r", "build": 1}`: reason.PayloadMismatch, // new/a is not listed
	} {
		all = append(all, Package{"the manifest " + text, Doc(text, "new/a"), code})
	}
	all = append(all, more()...)
	nested := Doc(PlainDoc, "mod/a")
	nested.Parts = append(nested.Parts, Part{Name: "patch/manifest.json", Data: PlainDoc})
	return append(all,
		Package{"no manifest", Zip{Parts: []Part{{Name: "mod/a"}}}, reason.ManifestMissing},
		Package{"an empty zip", Zip{}, reason.ManifestMissing},
		Package{"a manifest that is a folder", Zip{Parts: []Part{{Name: "manifest.json/"}}}, reason.ManifestMissing},
		Package{"two manifests", nested, reason.ManifestInvalid},
		Package{"payload that is a folder", Zip{Parts: []Part{{Name: "manifest.json", Data: PlainDoc}, {Name: "mod/a/"}}}, reason.PayloadMissing})
}

// more are manifests that some readers of JSON take, and others take for something else.
func more() []Package {
	var all []Package
	sound := `"region": "r", "build": 1`
	for name, text := range map[string]string{
		"a key with a long s":         `{"schema": 1, "\u017fchema": 2, ` + sound + `}`,
		"only a key with a long s":    `{"\u017fchema": 2, ` + sound + `}`,
		"a key with a Kelvin sign":    `{` + sound + `, "k": 1, "\u212a": 2}`,
		"a sharp s and two":           `{` + sound + `, "stra\u00dfe": 1, "STRASSE": 2}`,
		"a key twice in an item":      `{` + sound + `, "delfiles": [{"name": "a", "name": "b", "path": ""}]}`,
		"a key twice, once escaped":   `{` + sound + `, "\u0062uild": 2}`,
		"1e400":                       `{"region": "r", "build": 1e400}`,
		"1e9999999999":                `{"region": "r", "build": 1e9999999999}`,
		"minus nothing":               `{"region": "r", "build": -0}`,
		"a number with a point":       `{"region": "r", "build": 1.0}`,
		"not a number":                `{"region": "r", "build": NaN}`,
		"infinity":                    `{"region": "r", "build": Infinity}`,
		"a number in hexadecimal":     `{"region": "r", "build": 0x10}`,
		"a number with a zero before": `{"region": "r", "build": 01}`,
		"digits of another script":    `{"region": "r", "build": "\u0661\u0662"}`,
		"2 to the 63rd":               `{"region": "r", "build": 9223372036854775808}`,
		"a build of a list":           `{"region": "r", "build": [1]}`,
		"a region of nothing":         `{"region": null, "build": 1}`,
		"UTF-16":                      "\xff\xfe{\x00}\x00",
		"a zero byte":                 "{" + sound + "}\x00",
		"zero bytes before":           "\x00{" + sound + "}",
		"two byte order marks":        "\ufeff\ufeff{" + sound + "}",
		"a comment":                   "{" + sound + " /* and so on */}",
		"single quotes":               "{'region': 'r', 'build': 1}",
		"keys without quotes":         "{region: \"r\", build: 1}",
		"half a surrogate pair":       `{` + sound + `, "delfiles": [{"name": "\ud800", "path": ""}], "x": "` + "\xed\xa0\x80" + `"}`,
		"a line break in a string":    "{\"region\": \"r\n\", \"build\": 1}",
		"two documents":               "{" + sound + "}\n{" + sound + "}",
		"nested deep in an item":      `{` + sound + `, "delfiles": [{"name": "a", "path": "", "x": ` + strings.Repeat("[", 50) + strings.Repeat("]", 50) + `}]}`,
	} {
		all = append(all, Package{"the manifest with " + name, Doc(text), reason.ManifestInvalid})
	}
	for name, place := range map[string]string{
		"a line break": `a\nb`, "a zero": `a\u0000b`, "an invisible character": `a\u200bb`, "a backslash": `a\\b`, "a change of direction": `\u202egpj.exe`,
		"a parent in the middle": `a/../b`, "nothing but parents": `../../..`, "a parent at the end": `a/..`,
	} {
		all = append(all, Package{"a place with " + name, Doc(`{` + sound + `, "delfiles": [{"name": "` + place + `", "path": ""}]}`), reason.UnsafePath})
	}
	return append(all,
		Package{"a place of 101 folders", Doc(`{` + sound + `, "delfiles": [{"name": "x", "path": "` + strings.Repeat("d/", 101) + `"}]}`), reason.LimitExceeded},
		Package{"a place with a long segment", Doc(`{` + sound + `, "delfiles": [{"name": "` + strings.Repeat("n", 256) + `", "path": ""}]}`), reason.UnsafePath})
}
