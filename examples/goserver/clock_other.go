//go:build !linux

package main

// monotonic is nothing: who reads notifications runs on Linux.
func monotonic() string { return "" }
