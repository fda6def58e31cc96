package config

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// checkTreatment looks whether the process can be given what is set for it.
func (t Target) checkTreatment(check func(subject, good string, err error)) {
	if t.Nice != nil {
		check("target.nice", strconv.Itoa(*t.Nice), canNice(*t.Nice))
	}
	for _, name := range slices.Sorted(maps.Keys(t.Rlimits)) {
		limit := t.Rlimits[name]
		check("target.rlimits", fmt.Sprintf("%s = %s", name, limit), canLimit(name, limit))
	}
}

// checkSockets looks whether the agent could listen. It binds no address of the
// configuration: an agent that runs already does; Taken is for the others.
func (t Target) checkSockets(ctx context.Context, check func(subject, good string, err error)) {
	for _, s := range t.Sockets {
		err := s.canListen(ctx)
		if err == nil && s.File() != "" {
			err = s.canOwn()
		}
		check(socketKey, s.Listen, err)
	}
}

func (s Socket) canListen(ctx context.Context) error {
	if file := s.File(); file != "" {
		return canMakeSocket(file)
	}
	host, port, err := net.SplitHostPort(strings.TrimPrefix(s.Listen, tcpPrefix))
	if err != nil {
		return err
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		return err
	}
	// Another port of the same address, which the system chooses.
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return fmt.Errorf("cannot listen on %s, which may be no address of this machine: %w", host, err)
	}
	return errors.Join(l.Close(), canBind(number))
}

// Taken are the TCP sockets of the configuration at whose address somebody listens now. It
// is for when no agent of this configuration runs: for a moment it listens itself.
func (c *Config) Taken(ctx context.Context) []Finding {
	var all []Finding
	for _, s := range c.Target.Sockets {
		address, ok := strings.CutPrefix(s.Listen, tcpPrefix)
		if !ok {
			continue
		}
		l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
		switch {
		case err == nil:
			_ = l.Close()
		case errors.Is(err, syscall.EADDRINUSE):
			_, port, _ := net.SplitHostPort(address)
			all = append(all, Finding{OK: true, Doubt: true, Subject: socketKey,
				Message: s.Listen + ": somebody listens there, and no agent with this state.dir is seen to run; the next one can start only if that is the process of a killed agent, or the agent's own service manager",
				Hint:    "ss -ltnp 'sport = :" + port + "' (as root it says who that is), then end that, or listen elsewhere"})
		}
	}
	return all
}

// canMakeSocket says whether there can be a socket of that name in a folder that is
// there. An old one is no obstacle.
func canMakeSocket(file string) error {
	dir := filepath.Dir(file)
	if err := needDir("the folder of "+socketKey, dir); err != nil {
		return err
	}
	info, err := os.Lstat(file)
	switch {
	case err == nil && info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%s is there already, and is no socket; remove it, or listen elsewhere", file)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if err := writable(dir); err != nil {
		return cannotWrite(dir, err)
	}
	return nil
}

// canOwn says whether the file of a unix socket can belong to whom it is to.
func (s Socket) canOwn() error {
	if s.User != "" {
		owner, err := user.Lookup(s.User)
		if err != nil {
			return err
		}
		if os.Geteuid() > 0 && owner.Uid != strconv.Itoa(os.Geteuid()) {
			return hint("sudo, or a system service", "only root can give a socket to %s", s.User)
		}
	}
	if s.Group != "" {
		group, err := user.LookupGroup(s.Group)
		if err != nil {
			return err
		}
		mine, err := os.Getgroups()
		if err != nil {
			return err
		}
		if number, _ := strconv.Atoi(group.Gid); os.Geteuid() > 0 && number != os.Getegid() && !slices.Contains(mine, number) {
			return hint("usermod -a -G "+s.Group+" "+myName()+", or run this as root", "only root, or a member, can give a socket to the group %s", s.Group)
		}
	}
	return nil
}
