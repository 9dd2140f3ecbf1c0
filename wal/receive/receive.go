package receive

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"pgstow/catalog"
	"pgstow/wal"
	"pgstow/wal/walsender"
)

// ErrServer says that a server is another one than was meant, or would wait for what a receiver never does.
var ErrServer = errors.New("this server cannot be received from")

var (
	errStopTimeout = errors.New("not everything could be stored in the time that there was for it")
	errStalled     = errors.New("the store has not confirmed WAL for too long")
	errSilent      = errors.New("the server says nothing any more")
	errEnded       = errors.New("the server ended the stream")
	errAnew        = errors.New("another connection is needed") // at once
)

// receiver is what outlasts a connection. Nothing of it is needed to go on: a new process finds all in the store.
type receiver struct {
	o      Options
	wanted uint64 // the server's system id; 0: any
	// floor is the first segment that the server may still have: what is missing before has been said to be.
	floor  wal.SegmentNumber
	swept  bool
	worked bool   // the last session stored something
	first  bool   // no session has come to streaming yet
	quiet  func() // ends beat
	counts [2]int64
	status StatusEvent
}

// Run receives until ctx ends, Options.Until is stored, or something is wrong that only a person can settle: then the error is a
// *archive.RefusedError, one of catalog's, or says that the slot is missing. When ctx ends it stores what has arrived and returns nil.
func Run(ctx context.Context, o Options) error {
	o.setDefaults()
	if err := o.Check(); err != nil {
		return err
	}
	r := &receiver{o: o, wanted: o.SystemID, first: true, quiet: func() {}}
	waits := newBackoff()
	for again := 0; ; {
		err := r.session(ctx)
		if again++; r.worked {
			again = 0
		}
		switch {
		case err == nil:
			return nil
		case errors.Is(err, errAnew) && ctx.Err() == nil && again < atOnce:
			continue
		case isFinal(err), errors.Is(err, errNoSlot), o.Once && ctx.Err() == nil, r.first && isLogin(err):
			return err
		case ctx.Err() != nil:
			if !errors.Is(err, context.Canceled) {
				r.o.Events(NoteEvent{Text: fmt.Sprintf("ended: %s; the slot keeps what is not stored", err)})
			}
			return nil // it was told to end, and has ended
		}
		if r.worked {
			waits.Reset()
		}
		r.worked = false
		wait := waits.NextBackOff()
		r.o.Events(RetryEvent{Err: err, Wait: wait})
		if !pause(ctx, wait, r.alive) {
			return nil
		}
	}
}

// atOnce is how many sessions may follow each other without a wait: what one has found out changes what the next does.
const atOnce = 8

// isLogin tells whether the server refused the role: at the beginning that is a mistake, later it may be a restart.
func isLogin(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && strings.HasPrefix(pg.Code, "28")
}

// alive tells whoever watches that Run is not stuck.
func (r *receiver) alive() {
	e := r.status
	e.Connected = false
	r.o.Events(e)
}

// session is one connection: from the look into the store up to its loss.
func (r *receiver) session(ctx context.Context) error {
	r.beat()
	defer func() { r.quiet() }()
	repo, err := catalog.Open(ctx, r.o.Store, r.o.Pins)
	if err != nil {
		return err
	}
	s, err := connect(ctx, &r.o)
	if err != nil {
		return err
	}
	defer s.close()
	if err := r.acquaint(ctx, repo, s); err != nil {
		return err
	}
	conn := &session{receiver: r, repo: repo, server: s, ref: catalog.ClusterRef{Name: r.o.Cluster, SystemID: s.SystemID}}
	for {
		next, err := conn.receive(ctx)
		if err != nil || !next {
			return err
		}
	}
}

// acquaint makes sure that this is the right server, and that its WAL has its place in the repository.
func (r *receiver) acquaint(ctx context.Context, repo *catalog.Repository, s *server) error {
	if r.wanted != 0 && r.wanted != s.SystemID {
		return fmt.Errorf("%w: %s has system id %d, not %d: %w", ErrServer, s.address, s.SystemID, r.wanted, catalog.ErrClusterMismatch)
	}
	r.wanted = s.SystemID
	sums := s.Checksums
	_, err := repo.EnsureCluster(ctx, catalog.ClusterInfo{
		Name: r.o.Cluster, SystemID: s.SystemID, PostgresMajor: s.Major(), SegmentSize: s.WALSegmentSize, PageSize: s.BlockSize, Checksums: &sums,
		Created: r.o.Now(), Host: r.o.Host,
	})
	if err != nil {
		return err
	}
	return r.checkSynchronous(ctx, s)
}

// checkSynchronous refuses a server that would wait for us to apply WAL, which a receiver never does: its commits would hang for ever.
func (r *receiver) checkSynchronous(ctx context.Context, s *server) error {
	names, err := walsender.Show(ctx, s.conn, "synchronous_standby_names")
	if err != nil {
		return err
	}
	level, err := walsender.Show(ctx, s.conn, "synchronous_commit")
	if err != nil {
		return err
	}
	waits := waitsFor(names, s.appName)
	if !waits {
		if r.o.Synchronous {
			r.o.Events(NoteEvent{Text: fmt.Sprintf("synchronous_standby_names of the server does not name %s: no commit waits for this receiver", s.appName)})
		}
		return nil
	}
	where := "synchronous_commit is remote_apply"
	if level != "remote_apply" {
		// A role or a database may have a setting of its own.
		rows, err := s.sql(ctx, &r.o, `SELECT coalesce(d.datname, '') || ' ' || coalesce(r.rolname, '') FROM pg_db_role_setting s
			LEFT JOIN pg_database d ON d.oid = s.setdatabase LEFT JOIN pg_roles r ON r.oid = s.setrole
			WHERE 'synchronous_commit=remote_apply' = ANY (s.setconfig)`)
		if err != nil || len(rows) == 0 {
			return nil //nolint:nilerr // a role that may only replicate cannot ask
		}
		where = fmt.Sprintf("synchronous_commit is remote_apply for the database or role %s", strings.TrimSpace(string(rows[0][0])))
	}
	return &catalog.HintError{
		Err:  fmt.Errorf("%w: %s, and synchronous_standby_names names %s: commits would wait for ever, since a receiver stores WAL and applies none", ErrServer, where, s.appName),
		Hint: "set synchronous_commit = on, which waits until the store has confirmed; or take " + s.appName + " out of synchronous_standby_names",
	}
}

// beat calls alive now and then until quiet is called: while something goes on that has deadlines of its own.
func (r *receiver) beat() {
	r.quiet()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for pause(ctx, time.Hour, r.alive) {
		}
	}()
	r.quiet = sync.OnceFunc(func() {
		cancel()
		<-ended
	})
}

// started is called when WAL begins to flow: from now on the stream itself shows that it is alive.
func (r *receiver) started() {
	r.first = false
	r.quiet()
}

// report brings the status up to date and tells it.
func (r *receiver) report(tli wal.TimelineID, p position, end wal.LSN) {
	e := StatusEvent{
		Connected: true, Timeline: tli, Received: p.received, Stored: p.stored, ServerEnd: end,
		Pieces: r.counts[parts] + p.counts[parts], Segments: r.counts[wholes] + p.counts[wholes],
	}
	if !p.oldest.IsZero() {
		e.Behind = max(0, r.o.Now().Sub(p.oldest)).Round(time.Millisecond)
	}
	r.status = e
	r.o.Events(e)
}
