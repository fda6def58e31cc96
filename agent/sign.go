package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"patchagent/agent/config"
	"patchagent/manifest/signature"
)

func keygenCommand(io Program) *cobra.Command {
	var public, secret string
	var open bool
	cmd := &cobra.Command{
		Use: "keygen -p PUB -s SEC", Short: "Make a pair of keys for signing packages, as minisign -G does", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, path := range []string{public, secret} {
				if _, err := os.Lstat(path); err == nil {
					return &exitError{exitUsage, fmt.Errorf("cannot make keys: %s is there already; choose another name, or move it away", path)}
				}
			}
			passphrase := ""
			if !open {
				var err error
				if passphrase, err = newPassphrase(cmd.Context(), io); err != nil {
					return &exitError{exitFailed, err}
				}
			}
			key, err := signature.Generate(public, secret, passphrase)
			if err != nil {
				return &exitError{exitFailed, err}
			}
			fmt.Fprintln(io.Out, key.ID())
			fmt.Fprintf(io.Err, "The key is %s. %s goes to the machines, into verify.keys of agent.toml; %s stays with whoever signs packages.\n", key.ID(), public, secret)
			if open {
				fmt.Fprintf(io.Err, "%s is not encrypted: whoever can read the file can sign.\n", secret)
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&public, "public", "p", "", "write the public key to `PUB`")
	cmd.Flags().StringVarP(&secret, "secret", "s", "", "write the secret key to `SEC`")
	cmd.Flags().BoolVar(&open, "no-passphrase", false, "do not encrypt the secret key")
	_ = cmd.MarkFlagRequired("public")
	_ = cmd.MarkFlagRequired("secret")
	return cmd
}

func signCommand(io Program) *cobra.Command {
	var secret string
	cmd := &cobra.Command{
		Use: "sign ZIP -s SEC", Short: "Sign a package: writes ZIP.minisig, which minisign -V accepts too", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			key, err := readSecret(cmd.Context(), io, secret)
			if err != nil {
				return err
			}
			zip := args[0]
			f, err := config.OpenFile(zip)
			if err != nil {
				return &exitError{exitUsage, fmt.Errorf("cannot sign: %w", err)}
			}
			defer f.Close()
			sig, err := key.Sign(cmd.Context(), f, zip)
			if err == nil {
				err = writeBeside(zip+".minisig", sig)
			}
			if err != nil {
				return &exitError{exitFailed, fmt.Errorf("cannot sign %s: %w", zip, err)}
			}
			fmt.Fprintf(io.Err, "%s.minisig is written, signed with the key %s. Drop it into the patch folder with the zip.\n", zip, key.ID())
			return nil
		},
	}
	cmd.Flags().StringVarP(&secret, "secret", "s", "", "the secret key `SEC`, of minisign -G or patchagent keygen")
	_ = cmd.MarkFlagRequired("secret")
	return cmd
}

// writeBeside replaces a file in one step, so that nobody finds half of it.
func writeBeside(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".minisig-*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// readSecret reads a secret key, and asks for its passphrase if it has one.
func readSecret(ctx context.Context, io Program, file string) (key signature.Secret, err error) {
	data, err := config.ReadFile(file, signature.MaxKeyFile)
	if err != nil {
		return key, &exitError{exitUsage, fmt.Errorf("cannot read the secret key: %w", err)}
	}
	if info, err := os.Stat(file); err == nil && readableByOthers(info) {
		fmt.Fprintf(io.Err, "Others on this machine can read %s; mend it with: chmod 600 %s\n", file, file)
	}
	passphrase := ""
	if signature.NeedsPassphrase(data) {
		if passphrase, err = askPassphrase(ctx, io, bufio.NewReader(io.In), "Passphrase of "+file+": "); err != nil {
			return key, &exitError{exitFailed, err}
		}
	}
	if key, err = signature.ParseSecret(data, passphrase); err != nil {
		return key, &exitError{exitFailed, fmt.Errorf("cannot use %s: %w", file, err)}
	}
	return key, nil
}

// readableByOthers is meant for systems where a mode says who can read.
func readableByOthers(info fs.FileInfo) bool {
	return info.Mode().Perm()&0o044 != 0 && os.PathSeparator == '/'
}

// newPassphrase asks twice.
func newPassphrase(ctx context.Context, io Program) (string, error) {
	in := bufio.NewReader(io.In)
	first, err := askPassphrase(ctx, io, in, "New passphrase: ")
	if err != nil {
		return "", err
	}
	if first == "" {
		return "", errors.New("an empty passphrase protects nothing; give one, or say --no-passphrase")
	}
	second, err := askPassphrase(ctx, io, in, "Once more: ")
	if err == nil && first != second {
		err = errors.New("the two passphrases are not the same; nothing was written")
	}
	return first, err
}

// askPassphrase reads a line without showing it, until ctx is done. Where In is no
// terminal it is the next line of it, as with minisign.
func askPassphrase(ctx context.Context, p Program, in *bufio.Reader, prompt string) (string, error) {
	read := func() (string, error) {
		line, err := in.ReadString('\n')
		if errors.Is(err, io.EOF) && line != "" {
			err = nil
		}
		return strings.TrimRight(line, "\r\n"), err
	}
	if f, ok := p.In.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		before, err := term.GetState(int(f.Fd()))
		if err != nil {
			return "", fmt.Errorf("cannot read a passphrase: %w", err)
		}
		defer func() { // an interrupt must not leave a terminal that shows nothing
			_ = term.Restore(int(f.Fd()), before)
			fmt.Fprintln(p.Err)
		}()
		fmt.Fprint(p.Err, prompt)
		read = func() (string, error) {
			line, err := term.ReadPassword(int(f.Fd()))
			return string(line), err
		}
	}
	type answer struct {
		line string
		err  error
	}
	answered := make(chan answer, 1)
	go func() { // it ends with the program, which nothing else keeps
		line, err := read()
		answered <- answer{line, err}
	}()
	select {
	case a := <-answered:
		if a.err != nil {
			return "", fmt.Errorf("cannot read a passphrase: %w", a.err)
		}
		return a.line, nil
	case <-ctx.Done():
		return "", errors.New("interrupted; nothing was written")
	}
}
