package chaos_test

import (
	"slices"
	"strings"
	"testing"

	"pgstow/wal"
)

// story is a ledger of one worker that wrote ten transactions at the positions 100, 200, … 1000; the client did not hear of the end of number 4,
// and could not ask for the position of number 8.
func story() (*ledger, []row) {
	l := newLedger(7, 2)
	var rows []row
	for i := range 10 {
		parts := 1 + i%2
		number := l.Begin(1, parts)
		for part := range parts {
			rows = append(rows, row{1, number, part, parts, payload(7, 1, number, part)})
		}
		if i == 4 {
			continue
		}
		l.Acknowledge(1, number)
		if i != 8 {
			l.Place(1, number, wal.LSN(100*(i+1)))
		}
	}
	return l, rows
}

// without are the rows that do not belong to these transactions.
func without(rows []row, numbers ...int) []row {
	return slices.DeleteFunc(slices.Clone(rows), func(r row) bool { return slices.Contains(numbers, r.number) })
}

// TestLedger shows the checker what it is to find, and what it must let pass.
func TestLedger(t *testing.T) {
	_, all := story()
	stored := func(at wal.LSN) promise { return promise{stored: at} }
	everything := promise{everything: true}
	changed := func(change func(*row)) []row {
		rows := slices.Clone(all)
		change(&rows[3])
		return rows
	}
	for what, c := range map[string]struct {
		rows    []row
		promise promise
		want    []string // one word of each problem
	}{
		"all is there":                             {all, everything, nil},
		"nothing was promised":                     {nil, stored(99), nil},
		"the end is missing":                       {without(all, 6, 7, 8, 9), stored(699), nil},
		"unanswered and absent":                    {without(all, 4), everything, nil},
		"behind an unanswered one":                 {without(all, 4, 5, 6, 7, 8, 9), stored(500), nil},
		"the last stored one is missing":           {without(all, 6, 7, 8, 9), stored(700), []string{"transaction 6 of worker 1 was acknowledged at 0/2BC"}},
		"without a position it is not promised":    {without(all, 8, 9), stored(900), nil},
		"but it is when all are":                   {without(all, 8), everything, []string{"transaction 8 of worker 1 was acknowledged (position"}},
		"a hole in time":                           {without(all, 5), stored(100), []string{"transaction 9 of worker 1, which began after"}},
		"an older one is there":                    {without(all, 0), stored(0), []string{"transaction 0 of worker 1 (position 0/64) is missing, but"}},
		"a transaction in part":                    {all[1:2], stored(0), []string{"transaction 1 of worker 1 has 1 of its 2 rows", "transaction 0"}},
		"a number that nobody has used":            {changed(func(r *row) { r.number = 77 }), stored(0), []string{"transaction 77 of worker 1 was never begun", "transaction 2"}},
		"a worker that has written nothing":        {append(without(all), row{0, 0, 0, 1, ""}), everything, []string{"transaction 0 of worker 0 was never begun"}},
		"a worker that does not exist":             {append(without(all), row{2, 0, 0, 1, ""}), everything, []string{"of worker 2 was never begun"}},
		"another number of rows":                   {changed(func(r *row) { r.parts++ }), stored(0), []string{"has 1 rows", "transaction 2"}},
		"another content":                          {changed(func(r *row) { r.payload += "x" }), everything, []string{"in it"}},
		"a row twice":                              {append(without(all), all[0]), everything, []string{"twice"}},
		"no server without those of long ago, too": {nil, stored(100), []string{"transaction 0 of worker 1"}},
	} {
		t.Run(what, func(t *testing.T) {
			l, _ := story()
			wantProblems(t, l.Judge(c.rows, c.promise), c.want...)
		})
	}
}

// TestLedgerOverDisasters: what was there after one disaster stays, what was lost stays lost, and the clients' numbers go on.
func TestLedgerOverDisasters(t *testing.T) {
	l, all := story()
	first := without(all, 4, 6, 7, 8, 9)
	v := l.Judge(first, promise{stored: 600})
	wantProblems(t, v)
	if v.due != 5 || v.present != 5 || v.missing != 4 {
		t.Errorf("of 5 promised transactions 5 are there and 4 acknowledged ones are not: %+v", v)
	}
	if gone, alive := l.Settle(v); gone != 4 || alive != 5 {
		t.Errorf("%d are lost and %d alive, want 4 and 5", gone, alive)
	}
	// The log has branched: positions begin anew.
	number := l.Begin(1, 1)
	if number != 10 {
		t.Fatalf("number %d is used again", number)
	}
	l.Acknowledge(1, number)
	l.Place(1, number, 650)
	second := append(slices.Clone(first), row{1, 10, 0, 1, payload(7, 1, 10, 0)})
	wantProblems(t, l.Judge(second, promise{stored: 650}))
	wantProblems(t, l.Judge(first, promise{stored: 640}))
	wantProblems(t, l.Judge(first, promise{stored: 650}), "transaction 10 of worker 1 was acknowledged at")
	wantProblems(t, l.Judge(without(second, 5), promise{}), "transaction 5 of worker 1 outlived")
	wantProblems(t, l.Judge(append(without(all, 4), second[len(second)-1]), promise{}),
		"transaction 6 of worker 1 was lost", "transaction 7", "transaction 8", "transaction 9")
	wantProblems(t, l.Judge(without(all, 6, 7, 8, 9), promise{}), "transaction 4 of worker 1 was lost") // its client never knew
}

// wantProblems fails the test unless each of these words, and no other problem, was found.
func wantProblems(t *testing.T, v *verdict, words ...string) {
	t.Helper()
	for _, word := range words {
		if !slices.ContainsFunc(v.problems, func(p string) bool { return strings.Contains(p, word) }) {
			t.Errorf("not found: %q in\n%s", word, v)
		}
	}
	if len(v.problems) != len(words) {
		t.Errorf("%d problems, want %d:\n%s", len(v.problems), len(words), v)
	}
}
