package chaos_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"sort"
	"strings"
	"sync"

	"pgstow/wal"
)

// ledger is what the clients know: each transaction that one has begun, and whether its COMMIT was answered. It outlives every server.
//
// A transaction is named by its worker and a number that no worker uses twice. It writes one row for each of its parts, and what is in them
// follows from the seed, so that a restored row can be judged by itself.
type ledger struct {
	seed uint64

	mu    sync.Mutex
	tick  int64 // a clock of the clients' own: what one sees after another has seen it has a later time
	acked int
	txs   [][]tx // by worker and number
}

// tx is one transaction as its client saw it.
type tx struct {
	parts        int
	began, acked int64   // by the ledger's clock; acked 0: nobody knows how it ended
	after        wal.LSN // a position at or behind its commit record; MaxLSN if the client could not ask any more
	fate         fate
}

// fate is what the last disaster has made of a transaction.
type fate uint8

const (
	open fate = iota // since the last disaster
	kept             // it was there after a disaster: it must be there for ever
	lost             // it was not, by right: it must never come back
)

// row is one row of the clients' table.
type row struct {
	worker, number, part, parts int
	payload                     string
}

func newLedger(seed uint64, workers int) *ledger {
	return &ledger{seed: seed, txs: make([][]tx, workers)}
}

// Begin notes that a worker is about to write a transaction of so many rows. It may exist from now on.
func (l *ledger) Begin(worker, parts int) (number int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tick++
	l.txs[worker] = append(l.txs[worker], tx{parts: parts, began: l.tick})
	return len(l.txs[worker]) - 1
}

// Acknowledge notes that COMMIT was answered.
func (l *ledger) Acknowledge(worker, number int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tick++
	l.acked++
	t := &l.txs[worker][number]
	t.acked, t.after = l.tick, wal.MaxLSN
}

// Place notes a position of the log that the client asked for after the answer.
func (l *ledger) Place(worker, number int, after wal.LSN) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.txs[worker][number].after = after
}

// Acknowledged counts the answered commits.
func (l *ledger) Acknowledged() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.acked
}

// payload is what stands in a row.
func payload(seed uint64, worker, number, part int) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%d %d %d %d", seed, worker, number, part))
	return strings.Repeat(hex.EncodeToString(sum[:]), 1+int(sum[0])%3)
}

// promise says which acknowledged transactions a server must have.
type promise struct {
	everything bool    // all
	stored     wal.LSN // otherwise those that were over before this position
}

// verdict is what the comparison of a server with the ledger has found.
type verdict struct {
	problems                         []string
	due, present, missing, unplanned int // transactions: promised, there, acknowledged and not there, there without an answer

	there map[name]bool
}

// name names a transaction.
type name struct{ worker, number int }

func (n name) String() string { return fmt.Sprintf("transaction %d of worker %d", n.number, n.worker) }

// maxProblems bounds a message; what comes behind is counted.
const maxProblems = 10

func (v *verdict) problem(format string, args ...any) {
	v.problems = append(v.problems, fmt.Sprintf(format, args...))
}

// String is all problems, or as many as one can read.
func (v *verdict) String() string {
	shown := v.problems[:min(len(v.problems), maxProblems)]
	text := strings.Join(shown, "\n")
	if rest := len(v.problems) - len(shown); rest > 0 {
		text += fmt.Sprintf("\nand %d more", rest)
	}
	return text
}

// Judge compares the rows of a server with the ledger: nothing is there that nobody has written, no transaction is there in part, what is
// promised is there, what was lost stays lost, and time has no holes: a transaction that began after another was acknowledged is not there
// without it.
func (l *ledger) Judge(rows []row, p promise) *verdict {
	l.mu.Lock()
	defer l.mu.Unlock()
	v := &verdict{there: map[name]bool{}}
	parts := l.known(v, rows)
	var names []name
	for n := range parts {
		names = append(names, n)
	}
	sort.Slice(names, func(i, j int) bool {
		a, b := names[i], names[j]
		return a.worker < b.worker || a.worker == b.worker && a.number < b.number
	})
	var latest name // of those since the last disaster
	var began int64
	for _, n := range names {
		t := l.txs[n.worker][n.number]
		v.there[n] = true
		if got := len(parts[n]); got != t.parts {
			v.problem("%s has %d of its %d rows", n, got, t.parts)
		}
		switch {
		case t.fate == lost:
			v.problem("%s was lost in an earlier disaster and is there again", n)
		case t.fate == open && t.acked == 0:
			v.unplanned++
		}
		if t.fate == open && t.began > began {
			latest, began = n, t.began
		}
		v.present++
	}
	for w, list := range l.txs {
		for i, t := range list {
			l.judgeOne(v, name{w, i}, t, p, latest, began)
		}
	}
	return v
}

// judgeOne looks at a transaction from the ledger's side. latest is the one that began last of all that are there.
func (l *ledger) judgeOne(v *verdict, n name, t tx, p promise, latest name, began int64) {
	due := t.fate == kept || t.fate == open && t.acked != 0 && (p.everything || t.after <= p.stored)
	if due {
		v.due++
	}
	if v.there[n] {
		return
	}
	switch {
	case t.fate == kept:
		v.problem("%s outlived an earlier disaster and is gone", n)
	case due && p.everything:
		v.problem("%s was acknowledged (position %s) and is missing", n, t.after)
	case due:
		v.problem("%s was acknowledged at %s, WAL is stored up to %s, and it is missing", n, t.after, p.stored)
	case t.fate == open && t.acked != 0:
		v.missing++
		if t.acked < began {
			v.problem("%s (position %s) is missing, but %s, which began after it was acknowledged, is there", n, t.after, latest)
		}
	}
}

// known sorts rows by transaction and part, and finds those that no client can have written.
func (l *ledger) known(v *verdict, rows []row) map[name]map[int]bool {
	parts := map[name]map[int]bool{}
	for _, r := range rows {
		n := name{r.worker, r.number}
		if r.worker < 0 || r.worker >= len(l.txs) || r.number < 0 || r.number >= len(l.txs[r.worker]) {
			v.problem("%s was never begun", n)
			continue
		}
		t := l.txs[r.worker][r.number]
		switch {
		case r.parts != t.parts || r.part < 0 || r.part >= t.parts:
			v.problem("%s has %d rows and none that is number %d of %d", n, t.parts, r.part, r.parts)
			continue
		case r.payload != payload(l.seed, r.worker, r.number, r.part):
			v.problem("row %d of %s has %q in it", r.part, n, r.payload)
		}
		if parts[n] == nil {
			parts[n] = map[int]bool{}
		}
		if parts[n][r.part] {
			v.problem("row %d of %s is there twice", r.part, n)
		}
		parts[n][r.part] = true
	}
	return parts
}

// Settle makes what a restored server has the truth from now on: the log has branched there. It returns how many acknowledged transactions
// are lost by that, and how many have outlived it.
func (l *ledger) Settle(v *verdict) (gone, alive int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for w, list := range l.txs {
		for i := range list {
			t := &list[i]
			switch there := v.there[name{w, i}]; {
			case there:
				alive++
				t.fate = kept
			case t.fate == open:
				t.fate = lost
				if t.acked != 0 {
					gone++
				}
			}
		}
	}
	return gone, alive
}
