package main

import (
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"patchagent/agent/record"
	"patchagent/applier"
	"patchagent/manifest/reason"
)

func historyCommand(file *string, io Program) *cobra.Command {
	var asJSON, verbose bool
	cmd := &cobra.Command{
		Use: "history [ZIP]", Short: "How every drop ended, or those of one name, oldest first", Args: cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			cfg, err := loadConfig(*file)
			if err != nil {
				return err
			}
			receipts, err := record.Read(cfg.State.Dir)
			if err != nil {
				return &exitError{exitFailed, err}
			}
			if len(args) > 0 {
				name := filepath.Base(args[0])
				receipts = slices.DeleteFunc(receipts, func(r record.Receipt) bool { return r.Patch != name && r.ID != name })
				if len(receipts) == 0 {
					return &exitError{exitFailed, fmt.Errorf("no patch of the name or id %q has had an outcome", name)}
				}
			}
			if asJSON {
				if receipts == nil {
					receipts = []record.Receipt{}
				}
				return json.NewEncoder(io.Out).Encode(receipts)
			}
			return printHistory(io.Out, cfg.State.Dir, receipts, verbose || len(args) > 0)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "with id and detail of each, as with a ZIP")
	return cmd
}

// printHistory prints the receipts as a table; with details each row is followed by what
// does not fit into one, indented.
func printHistory(to io.Writer, stateDir string, receipts []record.Receipt, details bool) error {
	var rows strings.Builder
	w := tabwriter.NewWriter(&rows, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "TIME\tPATCH\tFROM\tBUILD\tSTRATEGY\tOUTCOME\tREASON\tTOOK\tDOWNTIME")
	for _, r := range receipts {
		build := "-"
		if r.Build != nil {
			build = fmt.Sprint(*r.Build)
		}
		outcome := string(r.Outcome)
		if undoneSince(r, stateDir) {
			outcome += ", undone since"
		}
		fmt.Fprintf(w, "%s\t%q\t%d\t%s\t%s\t%s\t%s\t%dms\t%s\n", stamp(r.Time), r.Patch, r.FromBuild, build,
			r.Strategy, outcome, r.Reason, r.TookMS, downtime(r))
	}
	if err := w.Flush(); err != nil || !details {
		_, err = io.WriteString(to, rows.String())
		return err
	}
	at := -1 // the first line is the heading
	for row := range strings.Lines(rows.String()) {
		if _, err := io.WriteString(to, row); err != nil {
			return err
		}
		if at >= 0 {
			r := receipts[at]
			text := "    id " + r.ID + "\n"
			if r.Detail != "" {
				text += "    " + strings.ReplaceAll(readable(r.Detail), "\n", "\n    ") + "\n"
			}
			if _, err := io.WriteString(to, text); err != nil {
				return err
			}
		}
		at++
	}
	return nil
}

// downtime is for how long the process was away, for people: "-" if it was not touched,
// ">" before the time of one that was still down then, "?" if nobody knows.
func downtime(r record.Receipt) string {
	touched := r.Outcome != reason.Rejected && r.Created+r.Modified+r.Deleted > 0 && r.Strategy == applier.StrategyName(false)
	switch {
	case r.DowntimeMS > 0 && (strings.HasPrefix(r.Detail, applier.ProcessDown) || strings.HasPrefix(r.Detail, applier.ProcessDownBetween)):
		return fmt.Sprintf(">%dms", r.DowntimeMS)
	case r.DowntimeMS > 0:
		return fmt.Sprintf("%dms", r.DowntimeMS)
	case touched:
		return "?"
	default:
		return "-"
	}
}
