package supervisor

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A mark tells what one start of the process brings about from all else.
type mark struct {
	invocation string // 128 random bits, in hexadecimal; in the environment as INVOCATION_ID
	cgroup     string // the folder of a cgroup that is for this start alone; "": there is none
}

// invocationName is the variable that systemd.exec(5) has for the same.
const invocationName = "INVOCATION_ID"

// newMark makes one, with a cgroup where that can be had. Each start has its own: in
// one whose cgroup.kill was used, what is started later ends at once. Empty ones that
// an agent with this state file has left are removed.
func newMark(opts Options) mark {
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails
	m := mark{invocation: hex.EncodeToString(id[:])}
	own, _, err := ownCgroup()
	if err != nil || opts.noCgroup {
		return m
	}
	prefix, known := cgroupPrefix(opts.StateFile)
	if known {
		removeLeftovers(own, prefix)
	}
	dir := filepath.Join(own, prefix+m.invocation)
	if os.Mkdir(dir, 0o755) != nil {
		return m // read-only, or somebody else's
	}
	if unix.Access(filepath.Join(dir, "cgroup.kill"), unix.W_OK) != nil { // before Linux 5.14
		_ = os.Remove(dir)
		return m
	}
	m.cgroup = dir
	return m
}

// remove is for a mark that nothing has, any more.
func (m mark) remove() {
	if m.cgroup != "" {
		removeCgroup(m.cgroup)
	}
}

// cgroupNames is what the names of all agents' cgroups begin with.
const cgroupNames = "patchagent-"

// cgroupPrefix is what the names of an agent's cgroups begin with. An agent is known
// by its state file, which two never have at a time; without one it has only its number.
func cgroupPrefix(stateFile string) (prefix string, known bool) {
	path, err := filepath.Abs(stateFile)
	if stateFile == "" || err != nil {
		return cgroupNames + strconv.Itoa(os.Getpid()) + "-", false
	}
	sum := sha256.Sum256([]byte(path))
	return cgroupNames + hex.EncodeToString(sum[:6]) + "-", true
}

// removeLeftovers removes the empty cgroups of an agent that could not do so
// itself: it was killed, or something in them took long to end.
func removeLeftovers(own, prefix string) {
	all, _ := os.ReadDir(own)
	for _, e := range all {
		if !strings.HasPrefix(e.Name(), prefix) {
			continue
		}
		dir := filepath.Join(own, e.Name())
		if empty, err := cgroupEmpty(dir); err == nil && empty {
			removeCgroup(dir)
		}
	}
}

var errNoCgroup = errors.New("there is no cgroup of version 2 for this process")

// ownCgroup is the folder of the cgroup that this program is in, and the cgroup's
// name as in /proc/PID/cgroup (cgroups(7)). The agent itself stays where it is: the
// new ones are beside it, and as nobody distributes resources to them a cgroup may
// have both members and children.
func ownCgroup() (dir, name string, err error) {
	if name, err = cgroupOf(os.Getpid()); err != nil {
		return "", "", err
	}
	root, point, err := cgroupMount(name)
	return filepath.Join(point, strings.TrimPrefix(name, root)), name, err
}

// cgroupOf is the name of the cgroup that a process is in.
func cgroupOf(pid int) (string, error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cgroup")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(data)) {
		if name, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::"); ok {
			return name, nil
		}
	}
	return "", errNoCgroup
}

// cgroupMount finds where the cgroup is mounted (proc_pid_mountinfo(5)): the name of
// what is mounted, without a slash at its end, and the mount point. The last one may
// cover others.
func cgroupMount(name string) (root, point string, err error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", "", err
	}
	for line := range strings.Lines(string(data)) {
		before, after, _ := strings.Cut(line, " - ")
		fields := strings.Fields(before)
		const rootField, pointField = 3, 4
		if !strings.HasPrefix(after, "cgroup2 ") || len(fields) <= pointField {
			continue
		}
		mounted := strings.TrimSuffix(unescaped(fields[rootField]), "/")
		if name == mounted || strings.HasPrefix(name, mounted+"/") {
			root, point = mounted, unescaped(fields[pointField])
		}
	}
	if point == "" {
		return "", "", errNoCgroup
	}
	return root, point, nil
}

// unescaped undoes what mountinfo does to the characters that separate its fields.
func unescaped(field string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(field)
}

// cgroupName is the name of the cgroup that has this folder, "" if it cannot be told.
func cgroupName(dir string) string {
	own, name, err := ownCgroup()
	if err != nil || dir == "" {
		return ""
	}
	root, point, err := cgroupMount(name)
	rest, below := strings.CutPrefix(dir, strings.TrimSuffix(point, "/")+"/")
	if err != nil || own == "" || !below {
		return ""
	}
	return root + "/" + rest
}

// cgroupEmpty says whether nothing lives in the cgroup and those below it.
func cgroupEmpty(dir string) (bool, error) {
	data, err := os.ReadFile(filepath.Join(dir, "cgroup.events"))
	return strings.Contains(string(data), "populated 0"), err
}

// removeCgroup removes the cgroup and those below it, which the process may have
// made. The kernel refuses that where something is in one.
func removeCgroup(dir string) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if e.IsDir() {
			removeCgroup(filepath.Join(dir, e.Name()))
		}
	}
	_ = unix.Rmdir(dir)
}

// cgroupMembers are the processes in the cgroup and those below it.
func cgroupMembers(dir string) (pids []int) {
	_ = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.IsDir() {
			return nil
		}
		data, _ := os.ReadFile(filepath.Join(path, "cgroup.procs"))
		for field := range strings.FieldsSeq(string(data)) {
			if pid, err := strconv.Atoi(field); err == nil {
				pids = append(pids, pid)
			}
		}
		return nil
	})
	return pids
}

// mayBeCgroup says whether a folder has the name of a cgroup that newMark makes for a
// start with this mark. What is on record may be damaged, and all that is in a cgroup is
// killed without a look at it.
func mayBeCgroup(dir, invocation string) bool {
	const digits = 32 // of 128 bits
	if len(invocation) != digits || strings.Trim(invocation, "0123456789abcdef") != "" {
		return false
	}
	rest, ours := strings.CutPrefix(filepath.Base(dir), cgroupNames)
	agent, ours2 := strings.CutSuffix(rest, "-"+invocation)
	return ours && ours2 && agent != "" && strings.Trim(agent, "0123456789abcdef") == "" && filepath.IsAbs(dir) && filepath.Clean(dir) == dir
}

// isCgroup says whether a folder is a cgroup of version 2.
func isCgroup(dir string) bool {
	var fs unix.Statfs_t
	return unix.Statfs(dir, &fs) == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC
}

// tellCgroup tells the kernel to kill all that is in the cgroup.
func tellCgroup(dir string) error {
	f, err := os.OpenFile(filepath.Join(dir, "cgroup.kill"), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString("1")
	return errors.Join(err, f.Close())
}

// killCgroup kills all that is in the cgroup and those below it, and removes them.
// It says how many were killed, and which are still there after sweepTime. No number
// is involved, so nothing else can be hit, and nothing that is started meanwhile
// gets away. After an error it is not known whether anything is in it.
func killCgroup(dir string) (killed int, left []int, err error) {
	members := cgroupMembers(dir)
	err = tellCgroup(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil, nil // it was empty, and somebody has tidied up
	}
	if err != nil {
		return 0, nil, err
	}
	for began := time.Now(); ; time.Sleep(sweepPause) {
		empty, err := cgroupEmpty(dir)
		if empty || errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) { // it may be removed by now
			break
		}
		if time.Since(began) > sweepTime {
			return len(members), cgroupMembers(dir), err
		}
	}
	removeCgroup(dir)
	return len(members), nil, nil
}
