package main

import (
	"archive/zip"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The first events after a quiet moment find the loop ready; a stream of them does not
// make it scan all the time.
func TestPace(t *testing.T) {
	var p pace
	now := time.Unix(1e9, 0)
	scan := func(after, took time.Duration, news bool) time.Duration {
		began := now.Add(p.rest + after)
		p.scanned(began, took, news)
		now = began.Add(took)
		return p.rest
	}
	const short, soon = 50 * time.Microsecond, time.Millisecond
	for range 3 {
		scan(time.Second, short, false)
		for i := range longStreak - 1 {
			if rest := scan(soon, short, false); rest != 0 {
				t.Fatalf("after %d events it rests %v", i, rest)
			}
		}
		for range 3 {
			if rest := scan(soon, short, false); rest != streakRest {
				t.Errorf("in a stream of events it rests %v", rest)
			}
		}
	}
	for _, took := range []struct{ scan, rest time.Duration }{
		{10 * time.Millisecond, restFactor * 10 * time.Millisecond}, {time.Second, longRest}, {time.Minute, time.Minute},
	} {
		if rest := scan(time.Second, took.scan, false); rest != took.rest {
			t.Errorf("after a scan of %v it rests %v", took.scan, rest)
		}
		if rest := scan(0, took.scan, true); rest != 0 {
			t.Errorf("with more to come it rests %v", rest)
		}
	}
}

// BenchmarkBusyFolder measures how much of a core the agent takes while somebody
// writes into its folder a thousand times a second; with nothing else in it, and with
// thousands of drops that wait.
func BenchmarkBusyFolder(b *testing.B) {
	for _, waiting := range []int{0, 5000} {
		b.Run(fmt.Sprint(waiting, "-waiting"), func(b *testing.B) {
			w := newBench(b)
			whole := zipped(b)
			for i := range waiting {
				if err := os.WriteFile(filepath.Join(w.dir, fmt.Sprintf("patch/%05d.zip", i)), whole[:len(whole)/2], 0o644); err != nil {
					b.Fatal(err)
				}
			}
			f, err := os.Create(filepath.Join(w.dir, "patch/busy.zip"))
			if err != nil {
				b.Fatal(err)
			}
			defer f.Close()
			tick := time.NewTicker(time.Millisecond)
			defer tick.Stop()
			var busy, all time.Duration
			for b.Loop() {
				before, began := w.ticks(b), time.Now()
				for time.Since(began) < 5*time.Second {
					<-tick.C
					if _, err := f.WriteAt([]byte("x"), 0); err != nil {
						b.Fatal(err)
					}
				}
				busy += time.Duration(w.ticks(b)-before) * 10 * time.Millisecond
				all += time.Since(began)
			}
			b.ReportMetric(100*busy.Seconds()/all.Seconds(), "%core")
			b.ReportMetric(w.resident(b), "MiB-resident")
		})
	}
}

// zipped is a small whole zip that is no package.
func zipped(tb testing.TB) []byte {
	tb.Helper()
	var buf bytes.Buffer
	w := zip.NewWriter(&buf)
	f, err := w.Create("readme")
	if err == nil {
		_, err = fmt.Fprint(f, strings.Repeat("junk ", 40))
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		tb.Fatal(err)
	}
	return buf.Bytes()
}
