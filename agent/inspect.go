package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"

	"patchagent/agent/config"
	"patchagent/agent/record"
	"patchagent/applier"
	"patchagent/manifest"
	"patchagent/manifest/reason"
	"patchagent/watcher"
)

// opened is a zip on the disk, with what lies beside it, held against the
// configuration as a drop would be.
type opened struct {
	file      *os.File
	cfg       *config.Config
	installed record.Installed
	clock     *record.Clock
	checked
	refused error // why it would not be let in; nil if it would
}

func openZip(ctx context.Context, path, configFile string) (*opened, error) {
	cfg, err := loadConfig(configFile)
	if err != nil {
		return nil, err
	}
	installed, _, err := record.LoadInstalled(cfg.State.Dir, cfg.Build, cfg.Region, cfg.Product)
	if err != nil {
		return nil, &exitError{exitFailed, err}
	}
	clock, err := record.ReadClock(cfg.State.Dir)
	if err != nil {
		return nil, &exitError{exitFailed, err}
	}
	file, err := config.OpenFile(path)
	if err != nil {
		return nil, &exitError{exitUsage, fmt.Errorf("cannot read the package: %w", err)}
	}
	o := &opened{file: file, cfg: cfg, installed: installed, clock: clock}
	if err := o.look(ctx, path); err != nil {
		return nil, &exitError{exitFailed, errors.Join(err, file.Close())}
	}
	return o, nil
}

// look makes the checks that do not depend on the tree.
func (o *opened) look(ctx context.Context, path string) error {
	info, err := o.file.Stat()
	if err != nil {
		return err
	}
	if limit := int64(o.cfg.Verify.MaxSize); info.Size() > limit {
		o.refused = reason.Errorf(reason.LimitExceeded, "the zip has %d bytes, more than verify.max_size (%d)", info.Size(), limit)
		return nil
	}
	sums, err := manifest.Sum(o.file)
	if err != nil {
		return err
	}
	beside, err := watcher.SidecarsBeside(path)
	if err != nil {
		return err
	}
	o.checked, err = verify(ctx, o.file, filepath.Base(path), sums, manifest.Sidecars(beside), o.cfg, o.installed)
	if err == nil {
		err = admit(o.pkg.Manifest, o.installed, o.clock)
	}
	return o.refuse(err)
}

// plan compares the package with the tree, if it is let in so far.
func (o *opened) plan(ctx context.Context) (*applier.Plan, error) {
	if o.refused != nil {
		return nil, nil
	}
	a, err := applier.Inspector(applierOptions(o.cfg, hclog.NewNullLogger()))
	if err != nil {
		return nil, &exitError{exitFailed, err}
	}
	defer a.Close()
	plan, err := a.Plan(ctx, o.pkg)
	if err == nil {
		err = a.Space(plan, spaceReserve)
	}
	if err := o.refuse(err); err != nil {
		return nil, &exitError{exitFailed, err}
	}
	return plan, nil
}

// refuse takes a reason not to let the package in, and returns what is none.
func (o *opened) refuse(err error) error {
	if _, ok := reason.Of(err); ok {
		o.refused, err = err, nil
	}
	return err
}

// report is what inspect and plan print as JSON.
type report struct {
	Zip      string      `json:"zip"`
	LetIn    bool        `json:"let_in"`
	Reason   reason.Code `json:"reason,omitempty"`
	Detail   string      `json:"detail,omitempty"`
	Advice   string      `json:"advice,omitempty"`
	KeyID    string      `json:"key_id,omitempty"`  // whose signature holds
	Comment  string      `json:"comment,omitempty"` // that was signed with it
	Build    *int64      `json:"build,omitempty"`
	Region   string      `json:"region,omitempty"`
	Product  string      `json:"product,omitempty"`
	Strategy string      `json:"strategy,omitempty"`
	Items    []line      `json:"items,omitempty"`
	Notes    []string    `json:"notes,omitempty"`
}

// line is one item, or one change.
type line struct {
	Op   string `json:"op"`
	Path string `json:"path"`
	Size int64  `json:"size"`
}

func (o *opened) report() report {
	r := report{Zip: o.file.Name(), LetIn: o.refused == nil, KeyID: o.signer.KeyID, Comment: o.signer.Comment}
	if o.refused != nil {
		code, _ := reason.Of(o.refused)
		r.Reason, r.Detail, r.Advice = code, o.refused.Error(), code.Advice()
	}
	if o.pkg == nil || o.pkg.Manifest == nil {
		return r
	}
	m := o.pkg.Manifest
	r.Build, r.Region, r.Product, r.Strategy, r.Notes = &m.Build, m.Region, m.Product, applier.StrategyName(m.Warm), o.pkg.Notes
	if o.cfg.Target.Gate.Set {
		r.Notes = append(r.Notes, "the gate was not asked: what it says, of the build and region too, counts for more than what is on record")
	}
	return r
}

// print writes the report, and returns the exit status that goes with it.
func (r report) print(io Program, asJSON bool) error {
	if asJSON {
		out := json.NewEncoder(io.Out)
		out.SetIndent("", "  ")
		if err := out.Encode(r); err != nil {
			return err
		}
	} else {
		if r.KeyID != "" {
			fmt.Fprintf(io.Out, "%s: signed with the key %s (%s)\n", r.Zip, r.KeyID, r.Comment)
		}
		if r.Build != nil {
			fmt.Fprintf(io.Out, "%s: build %d for region %q, %s\n", r.Zip, *r.Build, r.Region, r.Strategy)
		}
		for _, l := range r.Items {
			fmt.Fprintf(io.Out, "  %-8s %10d  %s\n", l.Op, l.Size, l.Path)
		}
		for _, n := range r.Notes {
			fmt.Fprintf(io.Out, "  note: %s\n", n)
		}
		if r.LetIn {
			fmt.Fprintln(io.Out, "It would be let in.")
		} else {
			fmt.Fprintf(io.Out, "%s: it would be rejected as %s: %s\n%s\n", r.Zip, r.Reason, r.Detail, r.Advice)
		}
	}
	if !r.LetIn {
		return &exitError{status: exitRejected}
	}
	return nil
}

func inspectCommand(file *string, io Program) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "inspect ZIP", Short: "What is in this package, and would it be let in? Touches nothing", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o, err := openZip(cmd.Context(), args[0], *file)
			if err != nil {
				return err
			}
			defer o.file.Close()
			_, unseen := o.plan(cmd.Context())
			if cmd.Context().Err() != nil { // half a look says nothing
				return &exitError{exitFailed, context.Cause(cmd.Context())}
			}
			r := o.report()
			if unseen != nil {
				r.Notes = append(r.Notes, "the tree was not looked at: "+unseen.Error())
			}
			if o.pkg != nil {
				for _, it := range o.pkg.Items() {
					r.Items = append(r.Items, line{it.Op.String(), it.Path, it.Size})
				}
			}
			return r.print(io, asJSON)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func planCommand(file *string, io Program) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "plan ZIP", Short: "What would change in the live tree, file by file? Touches nothing", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o, err := openZip(cmd.Context(), args[0], *file)
			if err != nil {
				return err
			}
			defer o.file.Close()
			plan, err := o.plan(cmd.Context())
			if err != nil {
				return err
			}
			r := o.report()
			if plan != nil {
				r.Notes = append(r.Notes, plan.Notes...)
				for _, c := range plan.Changes {
					l := line{Op: string(c.Kind), Path: c.Path}
					if c.New != nil {
						l.Size = c.New.Size
					}
					r.Items = append(r.Items, l)
				}
				if len(plan.Changes) == 0 {
					r.Notes = append(r.Notes, "nothing would change: every file is already as the package wants it, and the process would be left alone")
				}
			}
			return r.print(io, asJSON)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
