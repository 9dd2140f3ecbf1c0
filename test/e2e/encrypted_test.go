package e2e_test

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"

	"pgstow/storage/object"
	"pgstow/test/e2e/world"
)

const (
	secretRow   = "MARKER-6f1d-of-a-row-that-nobody-may-read"
	secretLabel = "MARKER-77a0-of-a-label"
)

// secrets are bytes that must not be found in an encrypted repository.
var secrets = []string{
	secretRow, secretLabel, "MARKER", "PG_VERSION", "START WAL LOCATION", "CHECKPOINT LOCATION", "global/pg_control", "backup_label", "pg_hba",
}

// fillSecrets makes a table whose pages cannot be compressed, so that in a repository in plain text its strings stand there as they are.
func fillSecrets(w *world.World) {
	w.Server.Exec("CREATE TABLE secret AS SELECT '" + secretRow + `' AS s, (SELECT string_agg(decode(md5(random()::text || i || j), 'hex'), '')
		FROM generate_series(1, 100) AS j) AS noise FROM generate_series(1, 500) AS i`)
}

// found lists the secrets that stand in the raw bytes of the repository, with a key where they do.
func found(all map[string][]byte) map[string]string {
	where := map[string]string{}
	for key, body := range all {
		for _, s := range secrets {
			if bytes.Contains(body, []byte(s)) {
				where[s] = key
			}
		}
	}
	return where
}

// TestEncrypted: the host has the public half of the keys. It archives and backs up, and cannot read; the identity restores.
func TestEncrypted(t *testing.T) {
	world.EachStore(t, func(t *testing.T, store string) {
		w := world.New(t, world.Options{Store: store, Encrypted: true})
		fillSecrets(w)
		b := w.Backup("--label", secretLabel)
		included := w.Backup("--wal", "include", "--label", secretLabel)
		w.Server.Exec("INSERT INTO secret SELECT * FROM secret LIMIT 10")
		w.Server.ArchiveAll()
		want := w.Server.Sums()

		t.Run("list without identity", func(t *testing.T) {
			w := w.In(t)
			var list []world.Backup
			world.Decode(t, w.Must("backup", "list", "--json"), &list)
			if len(list) != 2 || list[0].ID != b.ID || list[1].ID != included.ID || !list[0].Opaque || list[0].StopLSN != b.StopLSN {
				t.Errorf("backup list: %+v", list)
			}
			w.Expect(0, []string{b.ID, "encrypted"}, "backup", "list")
			w.Expect(0, []string{b.ID}, "info")
			w.Expect(0, []string{"000000010000"}, "wal", "list")
			r := w.RunWith(w.IdentityEnv(), "backup", "show", b.ID)
			w.Check(r, 0, secretLabel)
		})
		t.Run("restore without identity", func(t *testing.T) {
			w := w.In(t)
			dir := w.NewDir("refused")
			w.Expect(1, []string{"identity", "--identity-file"}, "restore", dir)
			missing(t, dir)
		})
		t.Run("wrong identity", func(t *testing.T) {
			w := w.In(t)
			other, _ := w.Keygen()
			dir := w.NewDir("refused")
			w.ExpectWith([]string{"PGSTOW_IDENTITY_FILE=" + other}, 1, []string{"other identities"}, "restore", dir)
			missing(t, dir)
			segment := w.KeysWith("/wal/")[0]
			w.ExpectWith([]string{"PGSTOW_IDENTITY_FILE=" + other}, 1, []string{segment, "other identities"}, "inspect", segment)
			dst := filepath.Join(w.Dir, "fetched")
			r := w.RunProgramWith([]string{"PGSTOW_IDENTITY_FILE=" + other}, "pgstow-wal", "fetch", "--pgdata", w.Server.Dir, filepath.Base(segment), dst)
			w.Check(r, 126, "other identities")
			missing(t, dst)
		})
		t.Run("fetch without identity", func(t *testing.T) {
			w := w.In(t)
			dst := filepath.Join(w.Dir, "fetched")
			segment := filepath.Base(w.KeysWith("/wal/")[0])
			r := w.RunProgram("pgstow-wal", "fetch", "--pgdata", w.Server.Dir, segment, dst)
			w.Check(r, 126, "identity")
			missing(t, dst)
		})
		t.Run("another recipient is pinned", func(t *testing.T) {
			w := w.In(t)
			_, other := w.Keygen()
			w.ExpectWith([]string{"PGSTOW_RECIPIENTS=" + other}, 12, []string{"recipient"}, "backup", "list")
		})
		t.Run("no encryption is pinned", func(t *testing.T) {
			w := w.In(t)
			pins := []string{"PGSTOW_RECIPIENTS=", "PGSTOW_ENCRYPTION=none"}
			before := w.Keys("")
			w.ExpectWith(pins, 12, []string{"encrypt"}, "backup", "create")
			equal(t, "objects", len(w.Keys("")), len(before))
		})
		t.Run("nothing readable in the repository", func(t *testing.T) {
			w := w.In(t)
			all := w.ReadEverything()
			if where := found(all); len(where) > 0 {
				t.Errorf("plain text in the repository: %v", where)
			}
			for key, body := range all {
				if strings.HasSuffix(key, ".json") {
					continue
				}
				if len(body) < object.HeaderSize || !bytes.HasPrefix(body[object.HeaderSize:], []byte("age-encryption.org/v1\n")) {
					t.Errorf("%s is not an age file behind its header", key)
				}
			}
		})
		for _, args := range [][]string{nil, {"--backup", included.ID, "--immediate", "--action", "promote"}} {
			t.Run("restore "+strings.Join(args, " "), func(t *testing.T) {
				w := w.In(t)
				dir := w.Restore(args...)
				w.VerifyBackup(dir, args != nil)
				s := w.StartRestored(dir)
				s.WaitPrimary()
				if args == nil {
					same(t, "restored", want, s)
				}
				equal(t, "rows", s.Value("SELECT count(*) >= 500 AND min(s) = '"+secretRow+"' AND max(s) = min(s) FROM secret"), "t")
				s.Kill()
			})
		}
	})
}

// TestPlainIsReadable shows that the search of TestEncrypted finds what it looks for where it is.
func TestPlainIsReadable(t *testing.T) {
	t.Parallel()
	w := world.New(t, world.Options{})
	fillSecrets(w)
	w.Backup("--label", secretLabel)
	where := found(w.ReadEverything())
	if where[secretRow] == "" {
		t.Errorf("the row's text is not found in a repository in plain text: %v", where)
	}
	kinds := map[bool]bool{}
	for key, body := range w.ReadEverything() {
		if bytes.Contains(body, []byte(secretRow)) {
			kinds[strings.Contains(key, "/wal/")] = true
		}
	}
	if !kinds[true] || !kinds[false] {
		t.Errorf("the text should be in packs and in WAL: %v", kinds)
	}
}
