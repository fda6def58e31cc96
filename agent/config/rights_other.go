//go:build !linux

package config

// What a process can be given is not found out here, where none is supervised.
func canNice(int) error             { return nil }
func canLimit(string, Rlimit) error { return nil }
func canBind(int) error             { return nil }
