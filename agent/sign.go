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
			if filepath.Clean(public) == filepath.Clean(secret) {
				return &exitError{exitUsage, errors.New("cannot make keys: -p and -s name the same file; each key has one of its own")}
			}
			io.hideTraces()
			passphrase := ""
			if !open {
				var err error
				if passphrase, err = newPassphrase(cmd.Context(), io); err != nil {
					return &exitError{exitFailed, err}
				}
				io.derives()
			}
			key, err := signature.Generate(cmd.Context(), public, secret, passphrase)
			if err != nil {
				return &exitError{exitFailed, unlessInterrupted(cmd.Context(), err)}
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
			io.hideTraces()
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
				return &exitError{exitFailed, unlessInterrupted(cmd.Context(), fmt.Errorf("cannot sign %s: %w", zip, err))}
			}
			fmt.Fprintf(io.Err, "%s.minisig is written, signed with the key %s. Drop it into the patch folder with the zip.\n", zip, key.ID())
			return nil
		},
	}
	cmd.Flags().StringVarP(&secret, "secret", "s", "", "the secret key `SEC`, of minisign -G or patchagent keygen")
	_ = cmd.MarkFlagRequired("secret")
	return cmd
}

var errInterrupted = errors.New("interrupted; nothing was written")

func unlessInterrupted(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return errInterrupted
	}
	return err
}

// hideTraces sees to it that no part of a key is shown, whatever happens.
func (p Program) hideTraces() {
	if p.Traceback != nil {
		p.Traceback("none")
	}
}

// derives says why nothing happens for a while.
func (p Program) derives() {
	fmt.Fprintln(p.Err, "Deriving a key from the passphrase, which takes some seconds ...")
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

// readSecretFile reads a secret key from whatever has its name, also from the pipe of
// a program that decrypts it; until ctx is done.
func readSecretFile(ctx context.Context, file string) ([]byte, error) {
	var data []byte
	done := make(chan error, 1)
	go func() { // it ends with the program, which nothing else keeps
		f, err := os.Open(file)
		if err == nil {
			data, err = io.ReadAll(io.LimitReader(f, signature.MaxKeyFile+1))
			_ = f.Close()
		}
		if err == nil && len(data) > signature.MaxKeyFile {
			err = fmt.Errorf("%s is longer than %d bytes", file, signature.MaxKeyFile)
		}
		done <- err
	}()
	select {
	case err := <-done:
		return data, err
	case <-ctx.Done():
		return nil, errInterrupted
	}
}

// readSecret reads a secret key, and asks for its passphrase if it has one.
func readSecret(ctx context.Context, io Program, file string) (key signature.Secret, err error) {
	data, err := readSecretFile(ctx, file)
	if err != nil {
		return key, &exitError{exitUsage, unlessInterrupted(ctx, fmt.Errorf("cannot read the secret key: %w", err))}
	}
	passphrase := ""
	if signature.NeedsPassphrase(data) {
		if passphrase, err = passphraseOf(ctx, io, file); err != nil {
			return key, &exitError{exitFailed, err}
		}
		io.derives()
	}
	if key, err = signature.ParseSecret(ctx, data, passphrase); err != nil {
		return key, &exitError{exitFailed, unlessInterrupted(ctx, fmt.Errorf("cannot use %s: %w", file, err))}
	}
	if info, err := os.Stat(file); err == nil && readableByOthers(info) {
		fmt.Fprintf(io.Err, "Others on this machine can read %s; mend it with: chmod 600 %s\n", file, file)
	}
	return key, nil
}

// readableByOthers is meant for systems where a mode says who can read.
func readableByOthers(info fs.FileInfo) bool {
	return info.Mode().Perm()&0o044 != 0 && os.PathSeparator == '/'
}

// passphraseOf asks for the one of a secret key.
func passphraseOf(ctx context.Context, p Program, file string) (string, error) {
	a, err := newAsker(p)
	if err != nil {
		return "", err
	}
	defer a.close()
	return a.ask(ctx, "Passphrase of "+file+": ")
}

// newPassphrase asks twice.
func newPassphrase(ctx context.Context, p Program) (string, error) {
	a, err := newAsker(p)
	if err != nil {
		return "", err
	}
	defer a.close()
	first, err := a.ask(ctx, "New passphrase: ")
	if err != nil {
		return "", err
	}
	if first == "" {
		return "", errors.New("an empty passphrase protects nothing; give one, or say --no-passphrase")
	}
	second, err := a.ask(ctx, "Once more: ")
	if err == nil && first != second {
		err = errors.New("the two passphrases are not the same; nothing was written")
	}
	return first, err
}

// An asker reads passphrases: from a terminal, without showing them, or where In is
// none line by line, as minisign does.
type asker struct {
	read  func(prompt string) (string, error)
	atEnd error // what it means that there is nothing more
	close func()
}

func newAsker(p Program) (*asker, error) {
	f, ok := p.In.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		lines := bufio.NewReader(p.In)
		read := func(string) (string, error) {
			line, err := lines.ReadString('\n')
			if errors.Is(err, io.EOF) && line != "" {
				err = nil
			}
			return strings.TrimRight(line, "\r\n"), err
		}
		return &asker{read, errors.New("there is no passphrase on standard input: keygen takes it from two lines of it, sign from one"), func() {}}, nil
	}
	before, err := term.MakeRaw(int(f.Fd()))
	if err != nil {
		return nil, fmt.Errorf("cannot read a passphrase: %w", err)
	}
	console := term.NewTerminal(struct {
		io.Reader
		io.Writer
	}{f, p.Err}, "")
	// Ctrl-C and, at the beginning of a line, Ctrl-D are keys that end the input.
	return &asker{console.ReadPassword, errInterrupted, func() { _ = term.Restore(int(f.Fd()), before) }}, nil
}

// ask reads a line, until ctx is done.
func (a *asker) ask(ctx context.Context, prompt string) (string, error) {
	type answer struct {
		line string
		err  error
	}
	answered := make(chan answer, 1)
	go func() { // it ends with the program, which nothing else keeps
		line, err := a.read(prompt)
		answered <- answer{line, err}
	}()
	select {
	case got := <-answered:
		switch {
		case errors.Is(got.err, io.EOF):
			return "", a.atEnd
		case got.err != nil:
			return "", fmt.Errorf("cannot read a passphrase: %w", got.err)
		}
		return got.line, nil
	case <-ctx.Done():
		return "", errInterrupted
	}
}
