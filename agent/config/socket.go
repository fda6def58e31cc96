package config

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Socket is held by the agent for the process.
type Socket struct {
	Listen      string // "tcp:host:port" or "unix:/path"
	Name        string // in LISTEN_FDNAMES
	Mode        Octal  // of a unix socket
	User        string // that a unix socket belongs to; "": target.user's
	Group       string // the same
	Nonblocking bool
}

// File is the path of a unix socket; "" for any other.
func (s Socket) File() string {
	if file, ok := strings.CutPrefix(s.Listen, unixPrefix); ok {
		return path.Clean(file)
	}
	return ""
}

const socketKey = "target.socket"

// nameless is what systemd calls a socket that has no name (sd_listen_fds(3)).
const nameless = "unknown"

// defaultSocketMode is systemd's SocketMode= (systemd.socket(5)): who may connect is for
// the folder to say.
const defaultSocketMode = 0o666

const anyWrite = 0o222 // unix(7): it takes that to connect

// Bounds of a socket.
const (
	maxSocketName = 255 // as systemd has it, which hands these names on
	maxSocketPath = 107 // unix(7): 108 bytes, of which the last is a zero
	maxSockets    = 64  // each is a descriptor of the agent, of the process, and of every start between
)

// fields are the keys of one socket, without their section. A change of any needs a
// restart of the agent.
func (s *Socket) fields() []field {
	return []field{
		{"listen", &s.Listen, restart},
		{"name", &s.Name, restart},
		{"mode", &s.Mode, restart},
		{"user", &s.User, restart},
		{"group", &s.Group, restart},
		{"nonblocking", &s.Nonblocking, restart},
	}
}

// sockets takes the list of tables, each with its defaults.
func (r *reader) sockets() {
	value := at(r.values, []string{"target", "socket"})
	if value == nil {
		return
	}
	r.set[socketKey] = true
	list, ok := value.([]map[string]any)
	if !ok {
		r.problem(socketKey, "is a list of tables; write [[%s]]", socketKey)
		return
	}
	if len(list) > maxSockets {
		r.problem(socketKey, "has %d sockets; there can be %d", len(list), maxSockets)
		return
	}
	r.socketLines = socketLines(r.data, len(list))
	for i, table := range list {
		var s Socket
		known := map[string]any{}
		var names []string
		for _, f := range s.fields() {
			known[f.key] = f.value
			names = append(names, f.key)
		}
		for _, key := range slices.Sorted(maps.Keys(table)) {
			if known[key] == nil {
				meant := nearest(key, names, nil, nil)
				r.bad[socketOf(i, meant)] = true // that it is missing is no other mistake
				r.unsound(i, key, "there is no key %s in it; did you mean %s?", key, meant)
			} else if err := assign(key, known[key], table[key]); err != nil {
				r.unsound(i, key, "%s %v", key, err)
			}
		}
		r.cfg.Target.Sockets = append(r.cfg.Target.Sockets, s)
	}
}

// unsound tells what is wrong with a key of one socket.
func (r *reader) unsound(i int, key, format string, args ...any) {
	r.bad[socketOf(i, key)] = true
	if !r.full() {
		r.add(Problem{Line: keyLine(r.data, r.socketLines[i], key), Key: socketKey, Message: fmt.Sprintf(format, args...)})
	}
}

// socketOf is where it is noted that a key of one of the sockets is wrong; no key is
// called so.
func socketOf(i int, key string) string { return socketKey + "." + strconv.Itoa(i) + "." + key }

// listeners refuses sockets that nobody could listen on, or that are one and the same,
// and fills in what is left out of the others.
func (r *reader) listeners() {
	seen := map[string]bool{}
	for i := range r.cfg.Target.Sockets {
		s := &r.cfg.Target.Sockets[i]
		if !r.bad[socketOf(i, "listen")] {
			address, err := canonical(s.Listen)
			switch {
			case err != nil:
				r.unsound(i, "listen", "listen %v", err)
			case seen[address]:
				r.unsound(i, "listen", "listen is %q, and another socket listens there already", s.Listen)
			}
			seen[address] = true
		}
		if len(s.Name) > maxSocketName || strings.ContainsFunc(s.Name, func(c rune) bool { return c < ' ' || c >= 0x7f || c == ':' }) {
			r.unsound(i, "name", "name is %.300q; it must be at most %d characters of ASCII, and none of them a colon", s.Name, maxSocketName)
		}
		if s.Name == "" {
			s.Name = nameless
		}
		if !strings.HasPrefix(s.Listen, tcpPrefix) {
			r.unixSocket(i, s)
		} else if s.Mode.Set || s.User != "" || s.Group != "" {
			r.unsound(i, ofFile(s), "mode, user and group are those of a unix socket's file; a TCP socket has none")
		}
	}
}

// ofFile is the first key of a socket that only one with a file can have.
func ofFile(s *Socket) string {
	switch {
	case s.Mode.Set:
		return "mode"
	case s.User != "":
		return "user"
	default:
		return "group"
	}
}

// unixSocket is about the file of a unix socket.
func (r *reader) unixSocket(i int, s *Socket) {
	if !s.Mode.Set {
		s.Mode = Octal{Set: true, Bits: defaultSocketMode}
	}
	if s.Mode.Bits&anyWrite == 0 {
		r.unsound(i, "mode", "mode is %q; to connect to a unix socket takes the right to write, which that gives nobody", s.Mode)
	}
	if !nameOfUser(s.User) {
		r.unsound(i, "user", "user %q is not the name of a user", s.User)
	}
	if !nameOfUser(s.Group) {
		r.unsound(i, "group", "group %q is not the name of a group", s.Group)
	}
}

// intruders refuses sockets in the agent's own folders: one has another of its own, and
// a mode that lets nobody in, and of the other all that is in it is a drop.
func (r *reader) intruders() {
	for i, s := range r.cfg.Target.Sockets {
		for key, dir := range map[string]string{"state.dir": r.cfg.State.Dir, "patch.dir": r.cfg.Patch.Dir} {
			if file := s.File(); file != "" && below(file, dir) && !r.bad[socketOf(i, "listen")] {
				r.unsound(i, "listen", "listen is %q, which is in %s; choose a folder that is the service's", s.Listen, key)
			}
		}
	}
}

const (
	tcpPrefix  = "tcp:"
	unixPrefix = "unix:"
)

// canonical is an address as it is compared with others; an error if it is none.
func canonical(listen string) (string, error) {
	if file, ok := strings.CutPrefix(listen, unixPrefix); ok {
		return unixPrefix + path.Clean(file), checkSocketPath(file)
	}
	address, ok := strings.CutPrefix(listen, tcpPrefix)
	if !ok {
		return "", fmt.Errorf(`is %q; write "tcp:127.0.0.1:8080", "tcp:[::1]:8080" or "unix:/run/app.sock"`, listen)
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		if strings.Count(address, ":") > 1 {
			return "", fmt.Errorf(`is %q; an IPv6 address stands in brackets: "tcp:[::1]:8080"`, listen)
		}
		return "", fmt.Errorf(`is %q, which has no port; write "tcp:127.0.0.1:8080"`, listen)
	}
	if host == "" {
		return "", fmt.Errorf(`is %q, which has no address; write "tcp:0.0.0.0:%s" or "tcp:[::]:%s" for all of this machine's`, listen, port, port)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return "", fmt.Errorf("is %q; a port is a number from 1 to 65535", listen)
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		host = ip.String()
	}
	return tcpPrefix + net.JoinHostPort(strings.ToLower(host), strconv.FormatUint(n, 10)), nil
}

// checkSocketPath refuses a path at which there can be no socket.
func checkSocketPath(file string) error {
	switch {
	case !path.IsAbs(file):
		return fmt.Errorf(`is %q; a unix socket has an absolute path: write "unix:/run/app.sock"`, unixPrefix+file)
	case len(file) > maxSocketPath:
		return fmt.Errorf("is a path of %d bytes; that of a unix socket can have %d", len(file), maxSocketPath)
	case strings.HasSuffix(file, "/"):
		return fmt.Errorf("is %q, a folder; name the socket in it", unixPrefix+file)
	case strings.ContainsRune(file, 0):
		return fmt.Errorf("has a zero byte in it")
	}
	return nil
}

var socketHeader = regexp.MustCompile(`^\s*\[\[\s*target\s*\.\s*socket\s*\]\]`)

// socketLines returns the lines on which the n tables begin, of which the library
// knows only the last. They are 0 where they are written in another way.
func socketLines(data string, n int) []int {
	var lines []int
	number := 0
	for line := range strings.Lines(data) {
		number++
		if socketHeader.MatchString(line) {
			lines = append(lines, number)
		}
	}
	if len(lines) != n {
		return make([]int, n)
	}
	return lines
}

// keyLine is the line of a key in the table that begins on a line; that line itself where
// the table does not have it, or has it in another way.
func keyLine(data string, begin int, key string) int {
	number := 0
	for line := range strings.Lines(data) {
		if number++; begin == 0 || number <= begin {
			continue
		}
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "[") {
			break
		}
		if name, _, ok := strings.Cut(line, "="); ok && strings.Trim(strings.TrimSpace(name), `"'`) == key {
			return number
		}
	}
	return begin
}
