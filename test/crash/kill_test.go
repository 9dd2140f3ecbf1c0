package crash_test

import (
	"path/filepath"
	"testing"

	"pgstow/backup/restore"
	"pgstow/test/e2e/world"
	"pgstow/test/pg"
)

// TestKillPush: what a killed push leaves is nothing or the whole object, and the next push succeeds.
func TestKillPush(t *testing.T) {
	world.EachStore(t, func(t *testing.T, store string) {
		w, files := withSegments(t, world.Options{Store: store})
		dst := filepath.Join(w.Server.Dir, "pg_wal", "fetched")
		spool := w.NewDir("spool")
		pushed := 0
		next := func() string { pushed++; return files[pushed%len(files)] }
		env := []string{"PGSTOW_SPOOL=" + spool, "PGSTOW_PGDATA=" + w.Server.Dir}
		push := func(path string) world.Result { return w.RunWith(env, "wal", "push", path) }
		forget := func(path string) {
			w.Delete(w.WALKeys(filepath.Base(path))...)
			remove(t, spool)
		}
		whole := func(path string) {
			t.Helper()
			if keys := w.WALKeys(filepath.Base(path)); len(keys) != 1 {
				t.Fatalf("objects of %s: %v", filepath.Base(path), keys)
			}
			remove(t, dst)
			w.Check(w.RunWith(env, "wal", "fetch", filepath.Base(path), dst), 0)
			wantFile(t, dst, path)
		}
		k := newKiller(t, usual(t, func() {
			path := next()
			w.Check(push(path), 0)
			forget(path)
		}))
		survived := 0
		for k.More() {
			path := next()
			cmd := w.Command("pgstow-wal", "push", path)
			cmd.Env = append(cmd.Env, env...)
			if k.Kill(cmd) && len(w.WALKeys(filepath.Base(path))) > 0 {
				survived++
				whole(path)
			}
			w.Check(push(path), 0)
			whole(path)
			forget(path)
		}
		t.Logf("%d of the killed had stored their object", survived)
	})
}

// TestKillFetch: what a killed fetch leaves at its destination is nothing or the whole file, and the next fetch succeeds and clears up.
func TestKillFetch(t *testing.T) {
	world.EachStore(t, func(t *testing.T, store string) {
		w, files := withSegments(t, world.Options{Store: store})
		for _, path := range files {
			w.Must("wal", "push", path)
		}
		dst := filepath.Join(w.Server.Dir, "pg_wal", "RECOVERYXLOG")
		fetched := 0
		next := func() string { fetched++; return files[fetched%len(files)] }
		env := []string{"PGSTOW_PGDATA=" + w.Server.Dir}
		fetch := func(path string) world.Result { return w.RunWith(env, "wal", "fetch", filepath.Base(path), dst) }
		k := newKiller(t, usual(t, func() {
			w.Check(fetch(next()), 0)
			remove(t, dst)
		}))
		for k.More() {
			path := next()
			cmd := w.Command("pgstow-wal", "fetch", filepath.Base(path), dst)
			cmd.Env = append(cmd.Env, env...)
			k.Kill(cmd)
			if there(t, dst) {
				wantFile(t, dst, path)
				remove(t, dst)
			}
			w.Check(fetch(path), 0)
			wantFile(t, dst, path)
			left, err := filepath.Glob(dst + "?*")
			if err != nil || len(left) > 0 {
				t.Fatalf("left beside the destination: %v, %v", left, err)
			}
			remove(t, dst)
		}
	})
}

// TestKillBackup: a killed backup is not listed, unless it was complete; the next one is, and can be restored.
func TestKillBackup(t *testing.T) {
	world.EachStore(t, func(t *testing.T, store string) {
		w := world.New(t, world.Options{Store: store, Checksums: true})
		w.Server.PgbenchInit(1)
		known := len(backups(t, w))
		k := newKiller(t, usual(t, func() { w.Backup() }))
		known += 3
		check := func() string {
			t.Helper()
			ids := backups(t, w)
			dir := w.Restore("--backup", ids[len(ids)-1], "--action", "promote")
			w.VerifyBackup(dir, false)
			return dir
		}
		for k.More() {
			w.Server.Exec("UPDATE pgbench_branches SET bbalance = bbalance + 1")
			if k.Kill(w.Command("pgstow", "backup", "create")) {
				if n := len(backups(t, w)); n == known+1 {
					t.Log("a backup was complete when it was killed")
					known++
					remove(t, check())
				}
			} else {
				known++
			}
			if n := len(backups(t, w)); n != known {
				t.Fatalf("%d backups are listed, want %d", n, known)
			}
			b := w.Backup()
			known++
			if ids := backups(t, w); len(ids) != known || ids[known-1] != b.ID {
				t.Fatalf("backups %v, want %d with %s as the last", ids, known, b.ID)
			}
			dir := check()
			if k.killed == k.wanted {
				want := w.Server.Sums()
				w.Server.ArchiveAll()
				wantServer(t, w, dir, want)
			}
			remove(t, dir)
		}
		// The server has forgotten the sessions of the killed.
		w.Server.AwaitValue("SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'pgstow%'", "0")
	})
}

// TestKillRestore: no server starts in a directory that a killed restore leaves, unless it is complete; the same restore again completes it.
func TestKillRestore(t *testing.T) {
	world.EachStore(t, func(t *testing.T, store string) {
		w := world.New(t, world.Options{Store: store, Checksums: true, NoArchive: true})
		w.Server.PgbenchInit(1)
		w.Backup("--wal", "include")
		want := w.Server.Sums()
		w.Server.Stop(pg.Fast)
		k := newKiller(t, usual(t, func() { remove(t, w.Restore()) }))
		refused, complete := 0, 0
		for k.More() {
			dir := w.NewDir("killed")
			k.Kill(w.Command("pgstow", "restore", dir))
			started := there(t, dir) // the directory is made first
			switch {
			case there(t, filepath.Join(dir, "global", "pg_control")):
				complete++
			case started:
				refused++
				wantNoStart(t, w, dir)
			}
			if !started || there(t, filepath.Join(dir, restore.MarkerName)) || !there(t, filepath.Join(dir, "global", "pg_control")) {
				w.Check(w.RunRestore(dir), 0)
			}
			w.VerifyBackup(dir, true)
			wantServer(t, w, dir, want)
			remove(t, dir)
		}
		if refused == 0 && !testing.Short() {
			t.Error("no restore was killed in the middle")
		}
		t.Logf("%d were killed before there was a directory, %d in the middle, %d ended or nearly so", k.killed+k.missed-refused-complete, refused, complete)
	})
}
