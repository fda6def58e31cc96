package supervisor

import (
	"cmp"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
)

// Backlog is how many connections may wait on a held socket for the process to
// accept them: at a thousand a second those of four seconds, which is more than a
// cold patch takes. It costs nothing until they wait.
const Backlog = 4096

// A Keeper holds sockets beyond the agent's own end, so that the next agent can be
// given them: a service manager with a store for descriptors.
type Keeper interface {
	// Keep hands over a copy of the socket, in place of any that had the name.
	Keep(name string, socket *os.File) error
	// Forget lets go of what was kept under the name.
	Forget(name string) error
}

// Inherited is an open socket that the agent was started with: one that a Keeper
// has kept, or one that its service manager has made for it.
type Inherited struct {
	Name string
	FD   int // belongs to the supervisor from then on
}

// KeepSockets has the held sockets kept by k, which may be nil, and those of left
// used in place of new ones where their address is that of one of Options.Sockets;
// the rest of them are closed. It is called before Run.
func (s *Supervisor) KeepSockets(k Keeper, left []Inherited) { s.sockets.keepBy(k, left) }

// endpoint takes the address of a socket apart: tcp:host:port, unix:/path.
func endpoint(listen string) (network, address string, err error) {
	network, address, _ = strings.Cut(listen, ":")
	switch network {
	case "tcp":
		if _, _, err := net.SplitHostPort(address); err != nil {
			return "", "", fmt.Errorf("%q is not tcp:host:port: %w", listen, err)
		}
		return network, address, nil
	case "unix":
		if !filepath.IsAbs(address) {
			return "", "", fmt.Errorf("%q is not unix: and an absolute path", listen)
		}
		if most := 107; len(address) > most { // unix(7)
			return "", "", fmt.Errorf("the path of %q is longer than %d bytes", listen, most)
		}
		return network, address, nil
	default:
		return "", "", fmt.Errorf("%q is neither tcp:host:port nor unix:/path", listen)
	}
}

// handedName is the socket's name in LISTEN_FDNAMES; sd_listen_fds_with_names(3)
// has this word for one without.
func (s Socket) handedName() string { return cmp.Or(s.Name, "unknown") }

// keptPrefix tells the sockets that an agent has had kept from those that its
// service manager has made itself.
const keptPrefix = "held-"

// keptName is under which name a Keeper has the socket. It depends on the address
// alone and has no byte that a name may not have (sd_pid_notify_with_fds(3): no
// colon, no control character, at most 255 bytes).
func (s Socket) keptName() string {
	const most = 200
	name := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', strings.ContainsRune("-._/", r):
			return r
		default:
			return '_'
		}
	}, s.Listen)
	return keptPrefix + name[:min(len(name), most)]
}

// sameAddress says whether a TCP socket that listens at got is what was wanted. A
// wanted address without a host is that of all interfaces.
func sameAddress(wanted string, got *net.TCPAddr) bool {
	want, err := net.ResolveTCPAddr("tcp", wanted)
	if err != nil || want.Port != got.Port || want.Zone != got.Zone {
		return false
	}
	if want.IP == nil {
		return got.IP.IsUnspecified()
	}
	return want.IP.Equal(got.IP)
}
