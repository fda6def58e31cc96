package main

import (
	"strconv"
	"strings"

	"patchagent/manifest/reason"
)

// printedMark comes before what a command has printed, quoted, in its error.
const printedMark = "it printed: "

// quotedOutput finds what a command has printed in a sentence that quotes it: the lines,
// and what is before and after the quotation.
func quotedOutput(sentence string) (before string, lines []string, after string, ok bool) {
	before, rest, ok := strings.Cut(sentence, printedMark)
	if !ok {
		return sentence, nil, "", false
	}
	quoted, err := strconv.QuotedPrefix(rest)
	if err != nil {
		return sentence, nil, "", false // it was cut short
	}
	text, err := strconv.Unquote(quoted)
	if err != nil {
		return sentence, nil, "", false
	}
	return before + printedMark, strings.Split(text, "\n"), rest[len(quoted):], true
}

// lastPrinted comes between the sentence of a detail and the last lines of the process.
const lastPrinted = "\nthe last that the process printed:\n"

// indent is before what somebody else has printed, in a text for people: it cannot be
// taken for a line of the text then.
const indent = "    "

// readable is the detail of a receipt for people. What a command has printed on more
// than one line is on as many, and indented, as is what the process has printed.
func readable(detail string) string {
	sentence, output, has := strings.Cut(detail, lastPrinted)
	var text strings.Builder
	for {
		before, lines, after, ok := quotedOutput(sentence)
		if !ok {
			break
		}
		sentence = after
		if len(lines) == 1 {
			text.WriteString(before + strconv.Quote(lines[0]))
			continue
		}
		text.WriteString(strings.TrimSuffix(before, " "))
		for _, line := range lines {
			text.WriteString("\n" + indent + reason.Line(line))
		}
		if sentence = strings.TrimPrefix(sentence, "; "); sentence != "" {
			text.WriteString("\n")
		}
	}
	text.WriteString(sentence)
	if has {
		text.WriteString(strings.TrimSuffix(lastPrinted, "\n"))
		for line := range strings.SplitSeq(output, "\n") {
			text.WriteString("\n" + indent + line)
		}
	}
	return text.String()
}

// addLast adds to a reason the last that the process has printed, or a command in its
// place, unless its sentence quotes all of that.
func addLast(e *reason.Error, output string) {
	plain := func(lines []string) string {
		for i, line := range lines {
			lines[i] = reason.Line(strings.TrimSuffix(line, "\r"))
		}
		return strings.Join(lines, "\n")
	}
	if _, lines, _, ok := quotedOutput(e.Detail); ok && plain(lines) == plain(strings.Split(strings.TrimSpace(output), "\n")) {
		return
	}
	e.Output = output
}
