//go:build !linux

package main

func rooted() {}
