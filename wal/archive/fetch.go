package archive

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"pgstow/catalog"
	"pgstow/storage"
	"pgstow/storage/object"
	"pgstow/wal"
	"pgstow/wal/spool"
)

// Defaults of FetchOptions.
const (
	DefaultFetchDeadline   = 15 * time.Minute
	DefaultStandbyDeadline = 5 * time.Second
	DefaultFetchStall      = 15 * time.Second
)

// FetchOptions are those of a fetch. Pins.Identities decrypt.
type FetchOptions struct {
	Options
	// Deadline is how long a fetch tries again outside standby mode, for a store that does not answer and at a hole. A transfer
	// that goes on is not cut. 0: the default.
	Deadline time.Duration
	// StandbyDeadline is the same in standby mode. 0: the default.
	StandbyDeadline time.Duration
	// Stall is the most time without any byte moving before a request is given up and made again. 0: the default.
	Stall time.Duration
	// Timeline is the timeline that the operator chose as recovery's target; 0: the latest. It decides how far the WAL of an
	// ancestor counts.
	Timeline wal.TimelineID
	// Incomplete serves a segment of which only the first part is stored, padded with zeros, to whoever asks; without it only plain
	// archive recovery gets one.
	Incomplete bool
	// StopAtHole takes a hole for the end of WAL.
	StopAtHole bool
	// Prefetch is how many segments may be fetched into Spool ahead of a recovery that asks for one after the other; 0: none.
	Prefetch int
	// StartPrefetch starts a process that calls Prefetch with the same options, from behind the named segment on. nil: there can be none,
	// and a call fetches a few beside its own file, staying at most as long again as that took.
	StartPrefetch func(name string) error
}

func (o *FetchOptions) setDefaults() {
	o.Options.setDefaults()
	if o.Deadline <= 0 {
		o.Deadline = DefaultFetchDeadline
	}
	if o.StandbyDeadline <= 0 {
		o.StandbyDeadline = DefaultStandbyDeadline
	}
	if o.Stall <= 0 {
		o.Stall = DefaultFetchStall
	}
}

// The names under which recovery wants a segment and a history (RestoreArchivedFile in src/backend/access/transam/xlogarchive.c); pg_rewind
// and people give the file's own name.
const (
	recoveryFile    = spool.RecoveryFile
	recoveryHistory = "RECOVERYHISTORY"
)

// Fetch brings the file name to dst: verified, synced, and put there by a rename. An error leaves dst as it was. ErrAbsent (proven) and,
// in standby mode only, ErrUnreachable are to end a restore_command with 1; any other error with 126, see [FetchExit].
func Fetch(ctx context.Context, o FetchOptions, name, dst string) error {
	o.setDefaults()
	f := &fetch{FetchOptions: o, dst: dst, begin: time.Now(), want: name}
	f.open = func() (sink, error) {
		t, err := openTemporary(dst)
		return placed{t, dst}, err
	}
	if err := f.serve(ctx); err != nil {
		return fmt.Errorf("fetch %s: %w", name, err)
	}
	return nil
}

// serve takes the file out of the spool, or waits for who is fetching it already, or does it.
func (f *fetch) serve(ctx context.Context) error {
	if done, err := f.Spool.Take(f.want, f.dst); err != nil || done {
		return err
	}
	if err := f.parseName(); err != nil {
		return err
	}
	f.findMode()
	c := f.newCompany()
	if c == nil {
		return f.run(ctx)
	}
	f.Spool.AwaitClaim(fetchClaim, f.want, spool.ClaimStale)
	claim, _ := f.Spool.Claim(fetchClaim, f.want)
	if done, err := f.Spool.Take(f.want, f.dst); err != nil || done { // it may have come since it was looked for
		claim.Release()
		return err
	}
	f.beat, f.found = claim.Beat, func() { c.found(ctx) }
	began := time.Now()
	err := f.run(ctx)
	claim.Release()
	c.ended(err, time.Since(began))
	return err
}

// fetch is one fetch on its way.
type fetch struct {
	FetchOptions
	want    string // as asked for
	hash8   string // of a .partial that was asked for by its key's name
	name    wal.FileName
	dst     string
	server  server
	begin   time.Time
	corrupt int   // how often what came was not sound
	beyond  bool  // nothing of the segment is served (see behindFork)
	cut     int64 // bytes of a full segment that are served, the rest as zeros; 0: all (see behindFork)

	open  func() (sink, error) // where the file goes
	found func()               // is told when the store has the file; may be nil
	beat  func()               // is told when something moves; may be nil

	standby  bool // a standby: it asks again for ever, and streams
	recovery bool // plain archive recovery: what it is told is absent ends it
	promotes bool // the end of recovery: it asks for the history of its timeline, and takes its own copy if it gets none
	warned   time.Time
}

func (f *fetch) run(ctx context.Context) error {
	if f.name == wal.HistoryName(1) {
		return ErrAbsent // timeline 1 has none, and PostgreSQL asks when it is promoted
	}
	err := f.search(ctx)
	var local *localError
	if err == nil || !f.promotes || errors.Is(err, ErrAbsent) || errors.As(err, &local) {
		return err
	}
	return fmt.Errorf("the archive is %w; the server has its own copy: %w", ErrUnreachable, err)
}

func (f *fetch) search(ctx context.Context) error {
	var err error
	if f.server, err = findServer(ctx, &f.Options); err != nil {
		return err
	}
	f.behindFork()
	wait := min(100*time.Millisecond, f.patience()/10)
	for {
		err := f.attempt(ctx)
		if err == nil || f.final(err) {
			return err
		}
		if ctx.Err() != nil {
			return explain(ctx, err)
		}
		if left := f.left(); left <= 0 {
			return f.giveUp(err)
		} else if wait > left {
			wait = left
		}
		f.warnOnce(err)
		if cause := pause(ctx, wait); cause != nil {
			return fmt.Errorf("%w: %w", cause, err)
		}
		wait = min(2*wait, 5*time.Second)
	}
}

// parseName takes the name of a WAL file, and that of one of several .partial files of a segment with its hash.
func (f *fetch) parseName() error {
	name := f.want
	if n := len(name) - 9; n > 0 && filepath.Ext(name[:n]) == ".partial" {
		name, f.hash8 = name[:n], name[n+1:]
	}
	var err error
	f.name, err = wal.ParseFileName(name)
	return err
}

// findMode looks at what the server is doing. Recovery needs one of the two files, and with both it is a standby
// (readRecoverySignalFile in src/backend/access/transam/xlogrecovery.c).
func (f *fetch) findMode() {
	if f.PGData == "" {
		return
	}
	f.standby = exists(filepath.Join(f.PGData, "standby.signal"))
	// A promotion removes the two files first, and then asks for the history of the timeline that it leaves (StartupXLOG in xlog.c,
	// writeTimeLineHistory in timeline.c). It must not wait for a store that is away, and with its own copy it need not.
	f.promotes = f.name.Kind == wal.HistoryFile && filepath.Base(f.dst) == recoveryHistory && !f.standby &&
		!exists(filepath.Join(f.PGData, "recovery.signal")) && exists(filepath.Join(filepath.Dir(f.dst), f.want))
	f.recovery = !f.standby && filepath.Base(f.dst) == recoveryFile && exists(filepath.Join(f.PGData, "recovery.signal"))
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func (f *fetch) patience() time.Duration {
	if f.standby || f.promotes {
		return f.StandbyDeadline
	}
	return f.Deadline
}

func (f *fetch) left() time.Duration { return f.patience() - time.Since(f.begin) }

// giveUp says how the last error is to be taken when there is no time left.
func (f *fetch) giveUp(err error) error {
	if f.standby {
		return fmt.Errorf("the archive is %w: %w", ErrUnreachable, err)
	}
	var hole *HoleError
	if errors.As(err, &hole) {
		return &catalog.HintError{Err: err, Hint: "recovery stops here rather than end early: find the file (pgstow wal list shows all holes), or let recovery end at the hole with: pgstow wal fetch --stop-at-hole"}
	}
	return fmt.Errorf("given up after %s: %w", f.patience(), err)
}

const warnEvery = time.Minute

func (f *fetch) warnOnce(err error) {
	if now := time.Now(); now.Sub(f.warned) >= warnEvery {
		f.warned = now
		f.warn("fetch %s: trying again for %s: %v", f.want, f.left().Round(time.Second), err)
	}
}

// errAgain says that the archive changed while it was looked at.
var errAgain = errors.New("the archive is changing")

// final tells whether trying again is of no use: the answer is known, or a person has to do something first.
func (f *fetch) final(err error) bool {
	var local *localError
	var disagree *DisagreeError
	switch {
	case errors.Is(err, ErrAbsent), errors.As(err, &local), errors.As(err, &disagree):
		return true
	case errors.Is(err, object.ErrCorrupt):
		f.corrupt++
		return f.corrupt >= corruptTries
	case errors.Is(err, object.ErrNoIdentity), errors.Is(err, object.ErrWrongIdentity), errors.Is(err, object.ErrFormat),
		errors.Is(err, errMisplaced), errors.Is(err, storage.ErrArchived), errors.Is(err, storage.ErrInvalidKey):
		return true
	case f.standby:
		// Whatever else hinders a standby, it is better told "not now" than stopped: it may be streaming.
		return false
	case errors.Is(err, catalog.ErrNoRepository), errors.Is(err, catalog.ErrNoCluster), errors.Is(err, catalog.ErrFormatTooNew),
		errors.Is(err, catalog.ErrRecipients), errors.Is(err, catalog.ErrClusterMismatch), errors.Is(err, storage.ErrNoStore),
		errors.Is(err, storage.ErrPermission), errors.Is(err, storage.ErrUnsupported), errors.Is(err, storage.ErrRejected), errors.Is(err, storage.ErrUntrusted):
		return true
	}
	return false
}

// corruptTries is how often an object that is not sound is read before it is the object and not the way to it.
const corruptTries = 3

// attempt looks once: the file itself, then the proof that it is absent.
func (f *fetch) attempt(ctx context.Context) error {
	outer := ctx
	ctx, w, stop := watched(ctx, min(f.Stall, f.patience())) // the store's wrapper tries much longer than we may wait
	defer stop()
	w.beat = f.beat
	err := f.look(ctx, w)
	if err != nil && outer.Err() == nil {
		err = explain(ctx, err)
	}
	return err
}

func (f *fetch) look(ctx context.Context, w *watch) error {
	if f.name.Kind == wal.Partial {
		return f.partialByName(ctx, w)
	}
	if f.beyond {
		if f.standby {
			return ErrAbsent
		}
		if _, err := f.prove(ctx, w); err != nil {
			return err
		}
		return ErrAbsent
	}
	key := f.server.ref.WALKey(f.name, "")
	err := f.get(ctx, w, key)
	if !errors.Is(err, storage.ErrNotExist) {
		return err
	}
	if f.standby && !f.Incomplete {
		// It will ask again, and is told the same of a store that does not answer: this needs no proof.
		return ErrAbsent
	}
	return f.absent(ctx, w, key)
}
