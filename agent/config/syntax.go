package config

import (
	"regexp"
	"strings"
)

// lineOf is a line of the file; the first is 1.
func lineOf(data string, number int) string {
	for line := range strings.Lines(data) {
		if number--; number == 0 {
			return strings.TrimSpace(line)
		}
	}
	return ""
}

var (
	octalKey   = regexp.MustCompile(`\b(umask|mode)\s*=\s*(0[0-7]+)`)
	withUnit   = regexp.MustCompile(`=\s*[0-9.]+\s*[A-Za-z]`)
	noQuotes   = regexp.MustCompile(`found (["'])[^\\]`)
	wrongCase  = regexp.MustCompile(`(?i)found "(true|false)"`)
	noValue    = regexp.MustCompile(`found ('\\n'|EOF)`)
	twiceNamed = regexp.MustCompile(`Key '(.*)' has already been defined`)
)

// remedy is what to do about a file that is no TOML, by what its reader says of a line;
// empty where that is not one of the mistakes that are made most.
func remedy(message, line string) string {
	switch {
	case strings.Contains(message, "leading zeroes"):
		if m := octalKey.FindStringSubmatch(line); m != nil {
			return "; write octal digits in quotes: " + m[1] + ` = "` + m[2] + `"`
		}
		return "; write a number without zeros in front"
	case strings.Contains(message, "expected value"):
		switch {
		case wrongCase.MatchString(message):
			return "; write true or false in small letters"
		case noValue.MatchString(message):
			return `; write a value, such as "" for none`
		case noQuotes.MatchString(message):
			return "; write words in quotes"
		}
	case strings.Contains(message, "to end with a newline") && withUnit.MatchString(line):
		return `; write durations and sizes in quotes, such as "5s" or "64MiB"`
	case strings.Contains(message, "Invalid float"):
		return "; write what is no number in quotes"
	case twiceNamed.MatchString(message):
		switch {
		case twiceNamed.FindStringSubmatch(message)[1] == socketKey:
			return "; write [[" + socketKey + "]] above each socket"
		case strings.HasPrefix(line, "["):
			return "; a section may stand only once: write all of its keys in one place"
		default:
			return "; a key may stand only once: take one of the two out"
		}
	}
	return ""
}
