package supervisor

import (
	"testing"
	"time"
)

// The delay doubles up to the longest, with a little by chance, and begins anew after
// a quiet run.
func TestDelays(t *testing.T) {
	b := Backoff{First: time.Second, Max: 10 * time.Second, Limit: -1, Quiet: time.Minute}
	var a attempts
	var now time.Time
	chance := map[time.Duration]bool{}
	check := func(want time.Duration) {
		t.Helper()
		got, ok := a.next(b, now)
		if !ok || got < want || got > want+want/jitter {
			t.Errorf("%s, %v; want %s and a little", got, ok, want)
		}
		chance[got-want] = true
	}
	for _, want := range []time.Duration{1, 2, 4, 8, 10, 10} {
		check(want * time.Second)
	}
	for range 1000 { // without a limit, and without an overflow
		check(10 * time.Second)
	}
	if len(chance) < 100 {
		t.Errorf("only %d different delays", len(chance))
	}
	a.lived(b, time.Minute-1)
	check(10 * time.Second)
	a.lived(b, time.Minute)
	check(1 * time.Second)
	b.First = time.Hour // what is configured counts at once
	check(10 * time.Second)
	if len(a.recent) > 0 {
		t.Errorf("%d times are kept for no limit", len(a.recent))
	}
}

// At most so many restarts are made within the window, until a quiet run.
func TestLimit(t *testing.T) {
	b := Backoff{First: time.Second, Max: time.Second, Limit: 3, Window: 10 * time.Minute, Quiet: time.Minute}
	var a attempts
	begin := time.Now()
	for _, c := range []struct {
		minute int
		want   bool
	}{{0, true}, {2, true}, {4, true}, {6, false}, {10, false}, {11, true}, {11, false}, {13, true}, {15, true}, {15, false}} {
		a.lived(b, time.Minute-1)
		if _, ok := a.next(b, begin.Add(time.Duration(c.minute)*time.Minute)); ok != c.want {
			t.Errorf("after %d minutes %v", c.minute, ok)
		}
	}
	a.lived(b, time.Minute)
	if _, ok := a.next(b, begin.Add(15*time.Minute)); !ok {
		t.Error("a quiet run does not begin the count anew")
	}
	a = attempts{}
	b.Limit = 1 // what is configured counts at once
	if _, ok := a.next(b, begin); !ok {
		t.Error("not even one")
	}
	if _, ok := a.next(b, begin); ok {
		t.Error("one too many")
	}
}

func TestDefaults(t *testing.T) {
	var a attempts
	begin := time.Now()
	most := 0
	for ; most < 1000; most++ {
		if _, ok := a.next(Backoff{}, begin); !ok {
			break
		}
	}
	if _, ok := a.next(Backoff{}, begin.Add(time.Hour+1)); most != 50 || !ok {
		t.Errorf("%d restarts within the hour, and after it %v", most, ok)
	}
}
