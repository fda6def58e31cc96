package config

import (
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// capable says whether this process has a capability (capabilities(7)).
func capable(number uint) bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData // of 32 capabilities each
	if err := unix.Capget(&header, &sets[0]); err != nil {
		return os.Geteuid() == 0
	}
	return sets[number/32].Effective&(1<<(number%32)) != 0
}

// canNice says whether a child can be given that nice value, as setpriority(2) has it.
func canNice(value int) error {
	const lowest = 20 // the system call answers with 20 less the value, and RLIMIT_NICE counts so, too
	now, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
	if err != nil {
		return os.NewSyscallError("getpriority", err)
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NICE, &limit); err != nil {
		return os.NewSyscallError("getrlimit", err)
	}
	if wanted := lowest - value; wanted > now && uint64(wanted) > limit.Cur && !capable(unix.CAP_SYS_NICE) {
		return hint("a higher value, root, or AmbientCapabilities=CAP_SYS_NICE in the unit of the agent", "%d is more urgent than the agent, which has %d, and that takes CAP_SYS_NICE", value, lowest-now)
	}
	return nil
}

var resourceNumbers = map[string]int{
	"as": unix.RLIMIT_AS, "core": unix.RLIMIT_CORE, "cpu": unix.RLIMIT_CPU, "data": unix.RLIMIT_DATA, "fsize": unix.RLIMIT_FSIZE,
	"locks": unix.RLIMIT_LOCKS, "memlock": unix.RLIMIT_MEMLOCK, "msgqueue": unix.RLIMIT_MSGQUEUE, "nice": unix.RLIMIT_NICE,
	"nofile": unix.RLIMIT_NOFILE, "nproc": unix.RLIMIT_NPROC, "rss": unix.RLIMIT_RSS, "rtprio": unix.RLIMIT_RTPRIO,
	"rttime": unix.RLIMIT_RTTIME, "sigpending": unix.RLIMIT_SIGPENDING, "stack": unix.RLIMIT_STACK,
}

// canLimit says whether a child can be given that limit, as setrlimit(2) has it.
func canLimit(name string, limit Rlimit) error {
	// Nobody can have more files than that, by proc(5).
	if most, ok := kernelSetting("/proc/sys/fs/nr_open"); name == "nofile" && ok && limit.Hard > most {
		return hint("at most "+limitText(most), "%s = %s is more than the %d files that this system allows any process (fs.nr_open)", name, limit, most)
	}
	var now unix.Rlimit
	if err := unix.Getrlimit(resourceNumbers[name], &now); err != nil {
		return os.NewSyscallError("getrlimit", err)
	}
	if limit.Hard > now.Max && !capable(unix.CAP_SYS_RESOURCE) {
		return hint("a limit up to that, root, or a higher one in the unit of the agent (systemd's Limit"+strings.ToUpper(name)+"=)",
			"%s = %s is above the agent's own hard limit, which is %s, and that takes CAP_SYS_RESOURCE", name, limit, limitText(now.Max))
	}
	return nil
}

// canBind says whether the agent can listen on a port, as ip(7) has it.
func canBind(port int) error {
	if first, ok := kernelSetting("/proc/sys/net/ipv4/ip_unprivileged_port_start"); ok && uint64(port) < first && !capable(unix.CAP_NET_BIND_SERVICE) {
		return hint("AmbientCapabilities=CAP_NET_BIND_SERVICE in the unit of the agent, or root", "to listen on a port below %d takes CAP_NET_BIND_SERVICE", first)
	}
	return nil
}

// kernelSetting reads a number below /proc/sys.
func kernelSetting(file string) (uint64, bool) {
	data, err := os.ReadFile(file)
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(data)), 10, 64)
	return n, err == nil
}
