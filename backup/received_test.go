package backup_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"pgstow/backup"
	"pgstow/catalog"
	"pgstow/test/pg"
	"pgstow/wal"
)

// receiver stands in for pgstow wal receive: a walsender on the server, and full segments of pg_wal in the archive.
type receiver struct {
	*archiver
	s    *pg.Server
	conn *pgconn.PgConn
}

func newReceiver(t *testing.T, repo *catalog.Repository, s *pg.Server) *receiver {
	t.Helper()
	conn, err := pgconn.Connect(t.Context(), s.DSN("postgres")+" replication=true application_name=pgstow")
	if err != nil {
		t.Fatal(err)
	}
	r := &receiver{archiver: newArchiver(t, repo), s: s, conn: conn}
	r.ref = catalog.ClusterRef{Name: "main", SystemID: systemID(t, s)}
	t.Cleanup(r.leave)
	return r
}

func (r *receiver) leave() { _ = r.conn.Close(r.t.Context()) }

// push stores what is whole.
func (r *receiver) push() {
	r.t.Helper()
	paths, err := filepath.Glob(filepath.Join(r.s.Dir, "pg_wal", "0000*"))
	if err != nil {
		r.t.Error(err)
	}
	for _, path := range paths {
		name, err := wal.ParseFileName(filepath.Base(path))
		if err != nil || name.Kind != wal.Segment || r.done[name.String()] {
			continue
		}
		b, err := os.ReadFile(path)
		if err != nil {
			r.t.Error(err)
		}
		if _, err := wal.InspectSegment(b, name); err == nil {
			r.store(name, b)
		}
	}
}

// TestReceived: archive_mode is off, and a receiver fills the archive. The backup waits for it and proves its segments by the server's own.
func TestReceived(t *testing.T) {
	for name, o := range map[string]pg.Options{
		"archive_mode is off":      {},
		"archive_command is empty": {Conf: map[string]string{"archive_mode": "on", "archive_command": ""}},
	} {
		t.Run(name, func(t *testing.T) {
			repo, store := newRepo(t)
			s := pg.New(t, o)
			create := func(on func(backup.Event)) (catalog.BackupHeader, error) {
				ev := events{on: on}
				return backup.Create(t.Context(), repo, backup.CreateOptions{
					Cluster: "main", Conn: s.DSN("postgres"), ArchiveTimeout: 300 * time.Millisecond, Events: ev.add,
				})
			}
			_, err := create(nil)
			if err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(catalog.Hint(err), "wal receive") {
				t.Fatalf("nobody archives: %v, hint %q", err, catalog.Hint(err))
			}
			r := newReceiver(t, repo, s)
			h, err := create(func(e backup.Event) {
				if w, ok := e.(backup.WaitingEvent); ok {
					if !w.Received || w.ReceiverGone {
						t.Errorf("%+v", w)
					}
					r.push()
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			if h.WALIncluded || len(manifests(t, store)) != 1 {
				t.Errorf("%+v", h)
			}
			rebuild(t, repo, h)
			if n := s.Value("SELECT count(*) FROM pg_replication_slots"); n != "0" {
				t.Errorf("%s slots were left", n)
			}

			// It stands still, and goes away.
			_, err = create(func(e backup.Event) {
				if _, ok := e.(backup.WaitingEvent); ok {
					r.leave()
					s.AwaitValue("SELECT count(*) FROM pg_stat_replication", "0")
				}
			})
			var timeout *backup.ArchiveTimeoutError
			if !errors.As(err, &timeout) || !timeout.Received || !timeout.ReceiverGone || len(timeout.Missing) == 0 ||
				!strings.Contains(err.Error(), timeout.Missing[0]) || !strings.Contains(catalog.Hint(err), "--wal include") {
				t.Errorf("%v, hint %q", err, catalog.Hint(err))
			}
			if n := len(manifests(t, store)); n != 1 {
				t.Errorf("%d manifests", n)
			}
		})
	}
}

// TestReceivedForeign: the archive has another segment under the name of one of the backup's.
func TestReceivedForeign(t *testing.T) {
	repo, store := newRepo(t)
	s := pg.New(t, pg.Options{})
	r := newReceiver(t, repo, s)
	ev := events{on: func(e backup.Event) {
		w, ok := e.(backup.WaitingEvent)
		if !ok {
			return
		}
		name, err := wal.ParseFileName(w.Missing[0])
		if err != nil {
			t.Error(err)
		}
		b, err := os.ReadFile(filepath.Join(s.Dir, "pg_wal", name.String()))
		if err != nil {
			t.Error(err)
		}
		b[100] ^= 1 // in the first record
		r.store(name, b)
	}}
	_, err := backup.Create(t.Context(), repo, backup.CreateOptions{Cluster: "main", Conn: s.DSN("postgres"), Events: ev.add})
	var foreign *backup.ForeignWALError
	if !errors.As(err, &foreign) || len(manifests(t, store)) > 0 {
		t.Fatal(err)
	}
}
