package main

import "time"

// stamp is a time for people: local, to the second, with its zone, as the log has it.
func stamp(t time.Time) string { return t.Local().Format(time.DateTime + "Z0700") }
