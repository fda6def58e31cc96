//go:build !linux

package config

func mountOf(string) uint64 { return 0 }
