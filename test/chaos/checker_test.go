package chaos_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgstow/test/e2e/world"
	"pgstow/test/pg"
	"pgstow/wal"
)

// TestChaosSeesALoss: an archive_command that says 0 for one segment and stores nothing is found out twice, by the archive that lacks what the
// server was told is there, and by the transactions that the restored cluster lacks.
func TestChaosSeesALoss(t *testing.T) {
	t.Parallel()
	dir := pg.TempDir(t)
	script := filepath.Join(dir, "forgetful.sh")
	text := fmt.Sprintf("#!/bin/sh\nif [ -e %[1]s/forget ] && expr \"$1\" : '.*/[0-9A-F]\\{24\\}$' >/dev/null; then rm %[1]s/forget; basename \"$1\" >%[1]s/forgotten; exit 0; fi\nexec %[2]s push \"$1\"\n",
		dir, pg.Binary(t, "pgstow-wal"))
	if err := os.WriteFile(script, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	st := newStage(t, scenario{way: way{push: true}, store: world.File, segMiB: 1, archiveCommand: script + " %p"})
	awaitTold := func(behind wal.LSN) {
		st.await("an archived segment behind "+behind.String(), time.Minute, func() (bool, error) {
			st.listen()
			return st.toldTo() > behind, nil
		})
	}
	now, err := wal.ParseLSN(st.Server.CurrentLSN())
	if err != nil {
		t.Fatal(err)
	}
	awaitTold(now) // what the backup needs is not forgotten
	if problems := st.broken(st.list()); len(problems) > 0 {
		t.Fatalf("before anything is forgotten: %s", problems)
	}
	forget := filepath.Join(dir, "forget")
	if err := os.WriteFile(forget, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	pg.Chown(t, forget)
	var forgotten string
	st.await("the forgotten segment", time.Minute, func() (bool, error) {
		b, err := os.ReadFile(filepath.Join(dir, "forgotten"))
		forgotten = strings.TrimSpace(string(b))
		return err == nil && forgotten != "", nil
	})
	awaitTold(st.toldTo())
	st.Server.Kill()
	st.load.Stop()
	st.endStrangers()
	st.listen()
	// It may have been stored ahead.
	st.Delete(st.WALKeys(forgotten)...)

	a := st.list()
	problems := st.broken(a)
	if len(problems) != 1 || !strings.Contains(problems[0], "was told that "+forgotten) {
		t.Errorf("one segment was forgotten: %q", problems)
	}
	p := st.promised(a, false)
	if stored := st.storedTo(a); stored >= p.stored {
		t.Errorf("stored without a hole up to %s, promised up to %s", stored, p.stored)
	}
	// Its place in the log is a hole, so the cluster is restored to before it.
	st.Server = st.StartRestored(st.Restore("--immediate", "--action", "promote"))
	st.Server.WaitPrimary()
	rows, err := readRows(t.Context(), st.Server)
	if err != nil {
		t.Fatal(err)
	}
	if v := st.ledger.Judge(rows, p); len(v.problems) == 0 || !strings.Contains(v.problems[0], "WAL is stored up to "+p.stored.String()) {
		t.Errorf("nothing was found to be lost: %s", v)
	}
	if v := st.ledger.Judge(rows, promise{stored: st.branch.begin}); len(v.problems) != 0 {
		t.Errorf("with nothing promised: %s", v)
	}
}
