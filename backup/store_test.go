package backup_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"pgstow/backup"
	"pgstow/catalog"
	"pgstow/storage"
	"pgstow/storage/fault"
	"pgstow/test/pg"
)

// faultyRepo opens a new repository through a store that can be made to fail.
func faultyRepo(t *testing.T) (*catalog.Repository, *fault.Store) {
	t.Helper()
	_, inner := newRepo(t)
	s := fault.New(inner)
	repo, err := catalog.Open(t.Context(), s, catalog.Pins{EncryptionNone: true})
	if err != nil {
		t.Fatal(err)
	}
	s.Reset()
	return repo, s
}

var errStore = errors.New("no more space in the store")

// Whatever Put fails, the backup fails with that error, and does not exist. Only a
// reply that was lost after the manifest was stored leaves a backup behind.
func TestEveryFailingPut(t *testing.T) {
	dir := newCluster(t)
	relationFile(t, dir, "90001", 5000) // two jobs and more
	repo, s := faultyRepo(t)
	if _, err := backup.Create(t.Context(), repo, backup.CreateOptions{Cluster: "main", PGData: dir, Offline: true}); err != nil {
		t.Fatal(err)
	}
	puts := s.Count(fault.Put)
	if puts < 7 {
		t.Fatalf("only %d puts", puts)
	}
	for n := 1; n < puts; n++ { // the last one releases the lease
		repo, s := faultyRepo(t)
		s.Add(fault.Fault{Op: fault.Put, Nth: n, Err: errStore})
		_, err := backup.Create(t.Context(), repo, backup.CreateOptions{Cluster: "main", PGData: dir, Offline: true})
		if !errors.Is(err, errStore) {
			t.Errorf("put %d of %d: error %v", n, puts, err)
		}
		if k := append(manifests(t, s.Unwrap()), keys(t, s.Unwrap(), "main/lease/")...); len(k) != 0 {
			t.Errorf("put %d of %d: left behind: %v", n, puts, k)
		}
		s.VerifyAllHit(t)
	}
}

// Losing the lease ends the backup: nothing is committed, and the lease is left to
// whom it belongs now.
func TestLeaseLost(t *testing.T) {
	dir := newCluster(t)
	repo, s := faultyRepo(t)
	var taken atomic.Bool
	lost := make(chan struct{})
	s.OnCall(func(c fault.Call) error {
		if taken.Load() && c.Op == fault.Put && strings.Contains(c.Key, "/lease/") {
			close(lost)
		}
		return nil
	})
	hook := &hookFS{on: func(path string) {
		if taken.Load() || !strings.HasSuffix(path, "global/1260") {
			return
		}
		k := keys(t, s.Unwrap(), "main/lease/")
		if len(k) != 1 {
			t.Fatalf("leases %v", k)
		}
		if _, err := s.Unwrap().Put(t.Context(), k[0], []byte(`{"format":1,"name":"x","nonce":"other"}`), storage.Any); err != nil {
			t.Error(err)
		}
		taken.Store(true)
		<-lost // the renewal meets the other's writing
	}}
	_, err := backup.Create(t.Context(), repo, backup.CreateOptions{
		Cluster: "main", PGData: dir, Offline: true, FS: hook, Workers: 1, Lease: backup.LeaseOptions{TTL: 300 * time.Millisecond},
	})
	if !errors.Is(err, catalog.ErrLeaseLost) {
		t.Errorf("error %v", err)
	}
	if k := keys(t, s.Unwrap(), "main/lease/"); len(k) != 1 {
		t.Errorf("the other's lease: %v", k)
	}
	if k := manifests(t, s.Unwrap()); len(k) != 0 {
		t.Errorf("committed: %v", k)
	}
}

// C7: configuration from outside is in the backup, under names that the header
// explains.
func TestConfigurationFromOutside(t *testing.T) {
	s := pg.New(t, pg.Options{})
	s.Stop(pg.Fast)
	etc := pg.TempDir(t)
	hba := filepath.Join(etc, "pg_hba.conf")
	run(t, "mv", filepath.Join(s.Dir, "pg_hba.conf"), hba)
	extra := filepath.Join(etc, "extra.conf")
	if err := os.WriteFile(extra, []byte("work_mem = '5MB'\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(s.Dir, "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteString("hba_file = '" + hba + "'\ninclude '" + extra + "'\n")
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	pg.Chown(t, etc)
	s.Start()
	repo, _ := newRepo(t)
	h, err := backup.Create(t.Context(), repo, backup.CreateOptions{Cluster: "main", Conn: s.DSN("postgres"), WAL: backup.WALInclude})
	if err != nil {
		t.Fatal(err)
	}
	r := rebuild(t, repo, h)
	if len(h.ConfigFiles) != 2 {
		t.Errorf("config files %v", h.ConfigFiles)
	}
	r.same(t, h.ConfigFiles["hba_file"], hba)
	r.same(t, h.ConfigFiles[extra], extra)
	if _, ok := r.files["pg_hba.conf"]; ok || len(r.files["pg_ident.conf"]) == 0 {
		t.Error("the files inside of the data directory")
	}
}

// The rate limit is kept.
func TestRateLimit(t *testing.T) {
	dir := newCluster(t)
	repo, _ := newRepo(t)
	begin := time.Now()
	h, err := backup.Create(t.Context(), repo, backup.CreateOptions{Cluster: "main", PGData: dir, Offline: true, RateLimit: 20 << 20})
	if err != nil {
		t.Fatal(err)
	}
	least := time.Duration(float64(h.BytesRead-17<<20) / (20 << 20) * float64(time.Second)) // the WAL and the first burst are free
	if took := time.Since(begin); took < least || least < 100*time.Millisecond {
		t.Errorf("%d bytes took %s, want at least %s", h.BytesRead, took, least)
	}
}

// A backup that is cancelled while it waits for the archive stops waiting.
func TestCancelledWhileWaiting(t *testing.T) {
	repo, store := newRepo(t)
	s := pg.New(t, pg.Options{ArchiveCommand: "false"})
	ctx, cancel := context.WithCancel(t.Context())
	ev := events{on: func(e backup.Event) {
		if _, ok := e.(backup.WaitingEvent); ok {
			cancel()
		}
	}}
	_, err := backup.Create(ctx, repo, backup.CreateOptions{Cluster: "main", Conn: s.DSN("postgres"), Events: ev.add})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if k := append(manifests(t, store), keys(t, store, "main/lease/")...); len(k) != 0 {
		t.Errorf("left behind: %v", k)
	}
}
