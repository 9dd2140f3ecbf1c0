package restore_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgstow/backup/restore"
	"pgstow/catalog"
	"pgstow/storage"
	"pgstow/storage/fault"
	"pgstow/test/pg"
)

// TestStrewnPages restores random backups whose pages lie all over the place, in one round and in many, from plain and
// encrypted packs, and lets pg_verifybackup compare every file with the checksums computed on the way.
func TestStrewnPages(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			var key *keyPair
			if seed%2 == 1 {
				key = newKey(t)
			}
			repo, store := newRepo(t, key)
			s := newSynthetic(t, repo, store, seed)
			s.build(12, 8)
			for _, run := range []restore.RunOptions{{}, {Pieces: 20, Workers: 3}, {Memory: 1}} {
				o := options(t)
				var last restore.ProgressEvent
				var totals restore.TotalsEvent
				run.Events = func(e restore.Event) {
					switch e := e.(type) {
					case restore.ProgressEvent:
						last = e
					case restore.TotalsEvent:
						totals = e
					}
				}
				result, err := restore.Run(t.Context(), repo, mustPlan(t, repo, o), run)
				if err != nil {
					t.Fatal(err)
				}
				s.check(o.Directory)
				verify(t, o.Directory, "-n")
				if last.BytesWritten != totals.BytesWrite || last.BytesWritten != result.BytesWritten || last.Packs != totals.Packs {
					t.Errorf("progress ended at %+v of %+v, result %+v", last, totals, result)
				}
				label, err := os.ReadFile(filepath.Join(o.Directory, "backup_label"))
				if err != nil || strings.Contains(string(label), "INCREMENTAL") {
					t.Errorf("label %q, %v", label, err)
				}
			}
		})
	}
}

// TestResume ends a restore after each step, damages what is there, and runs it again.
func TestResume(t *testing.T) {
	repo, store := newRepo(t, nil)
	s := newSynthetic(t, repo, store, 42)
	s.build(12, 6)
	random := rand.New(rand.NewPCG(1, 1))
	for _, step := range []string{restore.StepMarker, restore.StepData, restore.StepSync, restore.StepSettings, restore.StepControl} {
		t.Run(step, func(t *testing.T) {
			o := options(t)
			_, err := restore.Run(t.Context(), repo, mustPlan(t, repo, o), restore.RunOptions{FailAfter: failAfter(step)})
			if !errors.Is(err, errInjected) {
				t.Fatal(err)
			}
			_, err = os.Stat(filepath.Join(o.Directory, "global/pg_control"))
			if ended := err == nil; ended != (step == restore.StepControl) {
				t.Errorf("pg_control is there: %v", ended)
			}
			other := o
			other.Target = catalog.Target{Kind: catalog.TargetImmediate}
			if _, err := restore.Plan(t.Context(), repo, other); err == nil || !strings.Contains(err.Error(), "another plan") {
				t.Errorf("another plan: %v", err)
			}
			damaged := step == restore.StepData || step == restore.StepSync
			if damaged {
				damage(t, o.Directory, random)
			}
			p := mustPlan(t, repo, o)
			if !p.Resume {
				t.Error("the plan does not say that it goes on")
			}
			result, err := restore.Run(t.Context(), repo, p, restore.RunOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if damaged && (result.BytesKept == 0 || result.BytesWritten == 0) {
				t.Errorf("nothing kept, or nothing written: %+v", result)
			}
			s.check(o.Directory)
			verify(t, o.Directory, "-n")
			if _, err := os.Stat(filepath.Join(o.Directory, restore.MarkerName)); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("marker: %v", err)
			}
		})
	}
}

func failAfter(step string) func(string) error {
	return func(done string) error {
		if done == step {
			return errInjected
		}
		return nil
	}
}

// damage changes, cuts, lengthens and removes relations of a half-done restore.
func damage(t *testing.T, dir string, random *rand.Rand) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "base/5/*"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, path := range files {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		switch random.IntN(5) {
		case 0:
			err = os.Remove(path)
		case 1:
			err = os.Truncate(path, random.Int64N(info.Size()+1))
		case 2:
			err = os.Truncate(path, info.Size()+random.Int64N(3*pageSize))
		default:
			var f *os.File
			if f, err = os.OpenFile(path, os.O_RDWR, 0); err == nil {
				for range 5 {
					if info.Size() > 0 && err == nil {
						_, err = f.WriteAt([]byte{byte(random.Uint32()) | 1}, random.Int64N(info.Size()))
					}
				}
				err = errors.Join(err, f.Close())
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// A server was started between the last rename and the rerun: what it did must not be overwritten.
func TestResumeAfterServerStart(t *testing.T) {
	repo, store := newRepo(t, nil)
	newSynthetic(t, repo, store, 3).build(2, 2)
	o := options(t)
	_, err := restore.Run(t.Context(), repo, mustPlan(t, repo, o), restore.RunOptions{FailAfter: failAfter(restore.StepControl)})
	if !errors.Is(err, errInjected) {
		t.Fatal(err)
	}
	control := filepath.Join(o.Directory, "global/pg_control")
	raw, err := os.ReadFile(control)
	if err != nil {
		t.Fatal(err)
	}
	raw[16]++ // the server's state
	write(t, control, string(raw))
	_, err = restore.Run(t.Context(), repo, mustPlan(t, repo, o), restore.RunOptions{})
	checkRefusal(t, err, "a server was started here", restore.MarkerName)
}

// TestFlippedByte damages each object of the backup in turn: the restore stops, names it, and leaves nothing that starts.
func TestFlippedByte(t *testing.T) {
	repo, store := newRepo(t, nil)
	s := newSynthetic(t, repo, store, 5)
	s.build(10, 6)
	random := rand.New(rand.NewPCG(2, 2))
	keys := []string{s.ref.BackupManifestKey(s.id)}
	for _, p := range s.packs {
		keys = append(keys, p.Key(s.ref))
	}
	for _, key := range keys {
		good, _, err := storage.ReadAll(t.Context(), store, key, 1<<30)
		if err != nil {
			t.Fatal(err)
		}
		for _, flip := range []func([]byte) []byte{
			func(b []byte) []byte { b[random.IntN(len(b))] ^= 1 << random.IntN(8); return b },
			func(b []byte) []byte { return b[:random.IntN(len(b))] },
		} {
			bad := flip(append([]byte(nil), good...))
			if _, err := store.Put(t.Context(), key, bad, storage.Any); err != nil {
				t.Fatal(err)
			}
			o := options(t)
			p, err := restore.Plan(t.Context(), repo, o)
			if err == nil {
				_, err = restore.Run(t.Context(), repo, p, restore.RunOptions{})
			}
			checkDamaged(t, err, key, o.Directory, s)
		}
		if _, err := store.Put(t.Context(), key, good, storage.Any); err != nil {
			t.Fatal(err)
		}
	}
}

// checkDamaged allows one success: the damage lies in a frame that nobody needs any more and that was not read.
func checkDamaged(t *testing.T, err error, key, dir string, s *synthetic) {
	t.Helper()
	if err == nil {
		s.check(dir)
		return
	}
	name := key
	if key == s.ref.BackupManifestKey(s.id) {
		name = s.id
	}
	if !strings.Contains(err.Error(), name) {
		t.Errorf("the error does not name %s: %v", name, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "global/pg_control")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after damage in %s there is a pg_control: %v", key, err)
	}
}

// Damage that happens on the way is not the end: the pack is read again.
func TestDamageOnTheWay(t *testing.T) {
	repo, store := newRepo(t, nil)
	s := newSynthetic(t, repo, store, 6)
	s.build(10, 6)
	faulty := fault.New(store)
	reopened, err := catalog.Open(t.Context(), faulty, catalog.Pins{EncryptionNone: true})
	if err != nil {
		t.Fatal(err)
	}
	o := options(t)
	p := mustPlan(t, reopened, o)
	for _, pack := range s.packs[:3] {
		faulty.Add(fault.Fault{Op: fault.Get, Key: pack.Key(s.ref), Kind: fault.Flip, At: 20})
	}
	if _, err := restore.Run(t.Context(), reopened, p, restore.RunOptions{}); err != nil {
		t.Fatal(err)
	}
	s.check(o.Directory)
	faulty.VerifyAllHit(t)
}

func TestMissingPack(t *testing.T) {
	repo, store := newRepo(t, nil)
	s := newSynthetic(t, repo, store, 8)
	s.build(6, 4)
	key := s.packs[0].Key(s.ref)
	if err := store.Delete(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	_, err := restore.Run(t.Context(), repo, mustPlan(t, repo, options(t)), restore.RunOptions{})
	if !errors.Is(err, storage.ErrNotExist) || !strings.Contains(err.Error(), key) {
		t.Errorf("got %v", err)
	}
}

// A cancelled restore stops, and goes on when it is run again.
func TestCancel(t *testing.T) {
	repo, store := newRepo(t, nil)
	s := newSynthetic(t, repo, store, 9)
	s.build(12, 6)
	o := options(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var blobs int64 // when more than that is written some of it are pages, which can be kept
	for path, data := range s.want {
		if filepath.Dir(path) != "base/5" {
			blobs += int64(len(data))
		}
	}
	_, err := restore.Run(ctx, repo, mustPlan(t, repo, o), restore.RunOptions{Events: func(e restore.Event) {
		if p, ok := e.(restore.ProgressEvent); ok && p.BytesWritten > blobs {
			cancel()
		}
	}})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	if _, result := mustRestore(t, repo, o); result.BytesKept == 0 {
		t.Errorf("nothing was kept: %+v", result)
	}
	s.check(o.Directory)
}

// The disk is full: the error says so, and with more room the same restore goes on.
func TestDiskFull(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can mount a small file system")
	}
	small := pg.TempDir(t)
	sh(t, "mount", "-t", "tmpfs", "-o", "size=2m", "none", small)
	t.Cleanup(func() { sh(t, "umount", small) })
	pg.Chown(t, small)
	repo, store := newRepo(t, nil)
	s := newSynthetic(t, repo, store, 10)
	s.build(12, 6)
	o := options(t)
	o.Directory = filepath.Join(small, "data")
	var space *restore.SpaceError
	if _, err := restore.Plan(t.Context(), repo, o); !errors.As(err, &space) {
		t.Fatalf("the plan: %v", err)
	}
	o.Force = true
	_, err := restore.Run(t.Context(), repo, mustPlan(t, repo, o), restore.RunOptions{})
	if err == nil || !strings.Contains(err.Error(), "no space left on device") || !strings.Contains(catalog.Hint(err), "run the same restore again") {
		t.Fatalf("got %v, hint %q", err, catalog.Hint(err))
	}
	sh(t, "mount", "-o", "remount,size=200m", small)
	mustRestore(t, repo, o)
	s.check(o.Directory)
}

func TestOptions(t *testing.T) {
	repo, _ := newRepo(t, nil)
	for name, o := range map[string]restore.Options{
		"no directory":          {Cluster: "main"},
		"standby with a target": {Cluster: "main", Directory: "/x", Standby: true, Target: catalog.Target{Kind: catalog.TargetImmediate}},
		"primary, no standby":   {Cluster: "main", Directory: "/x", PrimaryConnInfo: "host=x"},
		"unknown action":        {Cluster: "main", Directory: "/x", Action: "explode"},
	} {
		if _, err := restore.Plan(t.Context(), repo, o); !errors.Is(err, restore.ErrOptions) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := restore.Plan(t.Context(), repo, restore.Options{Cluster: "main", Directory: "/tmp/x"}); !errors.Is(err, catalog.ErrNoCluster) {
		t.Errorf("no cluster: %v", err)
	}
}
