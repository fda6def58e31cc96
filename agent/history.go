package main

import (
	"encoding/json"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"patchagent/agent/record"
)

func historyCommand(file *string, io Program) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "history", Short: "How every drop ended, oldest first", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			cfg, err := loadConfig(*file)
			if err != nil {
				return err
			}
			receipts, err := record.Read(cfg.State.Dir)
			if err != nil {
				return &exitError{exitFailed, err}
			}
			if asJSON {
				if receipts == nil {
					receipts = []record.Receipt{}
				}
				return json.NewEncoder(io.Out).Encode(receipts)
			}
			out := tabwriter.NewWriter(io.Out, 0, 0, 2, ' ', 0)
			fmt.Fprintln(out, "TIME\tPATCH\tFROM\tBUILD\tSTRATEGY\tOUTCOME\tREASON\tTOOK\tDOWNTIME")
			for _, r := range receipts {
				build := "-"
				if r.Build != nil {
					build = fmt.Sprint(*r.Build)
				}
				fmt.Fprintf(out, "%s\t%q\t%d\t%s\t%s\t%s\t%s\t%dms\t%dms\n", r.Time.Format(time.DateTime), r.Patch, r.FromBuild, build,
					r.Strategy, r.Outcome, r.Reason, r.TookMS, r.DowntimeMS)
			}
			return out.Flush()
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
