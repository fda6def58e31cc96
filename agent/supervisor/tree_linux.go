package supervisor

// owns says whether a process belongs to what was started as c: itself, or
// something that it has brought about.
func (c *child) owns(pid int) bool {
	st, err := statOf(pid)
	return err == nil && st.group == c.record.PID && st.session == c.record.Session
}
