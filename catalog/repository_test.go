package catalog_test

import (
	"bytes"
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"pgstow/catalog"
	"pgstow/storage"
	"pgstow/storage/fault"
	"pgstow/storage/file"
	"pgstow/storage/object"
)

func TestInitAndOpen(t *testing.T) {
	s := newStore(t)
	if _, err := catalog.Open(t.Context(), s, catalog.Pins{EncryptionNone: true}); err == nil {
		t.Fatal("an empty store is a repository")
	} else {
		wantErr(t, err, catalog.ErrNoRepository)
		wantHint(t, err)
	}
	r := initPlain(t, s)
	if !r.New || r.Encrypted || r.ID == "" || r.Generation != 1 || !r.Probe.ConditionalPut {
		t.Errorf("%+v", r)
	}
	again := initPlain(t, s)
	if again.New || again.ID != r.ID {
		t.Errorf("a second init made %q new %v, want %q", again.ID, again.New, r.ID)
	}
	opened, err := catalog.Open(t.Context(), s, catalog.Pins{EncryptionNone: true})
	if err != nil || opened.ID != r.ID {
		t.Fatalf("%v %v", opened, err)
	}
	if _, err := catalog.Init(t.Context(), s, catalog.InitOptions{Recipients: []string{newKey(t).recipient}}); err == nil {
		t.Error("a plain repository became an encrypted one")
	} else {
		wantErr(t, err, catalog.ErrRecipients)
	}
	for _, o := range []catalog.InitOptions{{}, {EncryptionNone: true, Recipients: []string{newKey(t).recipient}}} {
		if _, err := catalog.Init(t.Context(), newStore(t), o); err == nil {
			t.Errorf("init took %+v", o)
		}
	}
}

// TestInitInterrupted: whatever call fails, init can be run again and ends in one repository.
func TestInitInterrupted(t *testing.T) {
	for n := 1; ; n++ {
		inner := newStore(t)
		s := fault.New(inner).Crash(n, true, nil)
		_, err := catalog.Init(t.Context(), s, catalog.InitOptions{EncryptionNone: true})
		if err == nil {
			if n < 6 {
				t.Fatalf("call %d failed and init did not notice", n)
			}
			return
		}
		initPlain(t, inner)
	}
}

func TestInitRace(t *testing.T) {
	s := newStore(t)
	ids := make([]string, 8)
	var group sync.WaitGroup
	for i := range ids {
		group.Go(func() {
			r, err := catalog.Init(context.Background(), s, catalog.InitOptions{EncryptionNone: true})
			if err != nil {
				t.Error(err)
				return
			}
			ids[i] = r.ID
		})
	}
	group.Wait()
	for _, id := range ids {
		if id != ids[0] {
			t.Errorf("two repositories: %v", ids)
		}
	}
}

// TestUnsafeStore: a store that ignores conditions is found out and refused, or used and named.
func TestUnsafeStore(t *testing.T) {
	s := fault.New(newStore(t))
	s.Add(fault.Fault{Op: fault.Put, Kind: fault.IgnoreCondition, Times: -1})
	_, err := catalog.Init(t.Context(), s, catalog.InitOptions{EncryptionNone: true})
	wantErr(t, err, catalog.ErrUnsafeStore)
	wantHint(t, err)
	r, err := catalog.Init(t.Context(), s, catalog.InitOptions{EncryptionNone: true, AllowUnsafe: true})
	if err != nil || !r.Unsafe {
		t.Fatalf("%v %v", r, err)
	}
	_, err = catalog.Open(t.Context(), s, catalog.Pins{EncryptionNone: true})
	wantErr(t, err, catalog.ErrUnsafeStore)
	if r, err := catalog.Open(t.Context(), s, catalog.Pins{EncryptionNone: true, AllowUnsafe: true}); err != nil || !r.Unsafe {
		t.Fatalf("%v %v", r, err)
	}
}

func TestPins(t *testing.T) {
	a, b := newKey(t), newKey(t)
	plain, encrypted := newStore(t), newStore(t)
	initPlain(t, plain)
	if _, err := catalog.Init(t.Context(), encrypted, catalog.InitOptions{Recipients: []string{a.recipient, b.recipient}}); err != nil {
		t.Fatal(err)
	}
	fa, fb := object.Fingerprint(a.recipient), object.Fingerprint(b.recipient)
	for _, tt := range []struct {
		name  string
		store storage.Store
		pins  catalog.Pins
		ok    bool
	}{
		{"plain, pinned plain", plain, catalog.Pins{EncryptionNone: true}, true},
		{"plain, nothing pinned", plain, catalog.Pins{}, false},
		{"plain, recipients pinned", plain, catalog.Pins{Recipients: []string{fa}}, false},
		{"encrypted, full strings", encrypted, catalog.Pins{Recipients: []string{b.recipient, a.recipient}}, true},
		{"encrypted, fingerprints", encrypted, catalog.Pins{Recipients: []string{fa, fb}}, true},
		{"encrypted, one of each", encrypted, catalog.Pins{Recipients: []string{a.recipient, fb}}, true},
		{"encrypted, one too few", encrypted, catalog.Pins{Recipients: []string{fa}}, false},
		{"encrypted, one too many", encrypted, catalog.Pins{Recipients: []string{fa, fb, object.Fingerprint("age1x")}}, false},
		{"encrypted, pinned plain", encrypted, catalog.Pins{EncryptionNone: true}, false},
		{"encrypted, nothing pinned", encrypted, catalog.Pins{}, false},
		{"both", encrypted, catalog.Pins{Recipients: []string{fa, fb}, EncryptionNone: true}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, err := catalog.Open(t.Context(), tt.store, tt.pins)
			if tt.ok {
				if err != nil {
					t.Fatal(err)
				}
				d, err := r.Descriptor()
				if err != nil {
					t.Fatal(err)
				}
				if again, err := catalog.OpenDescriptor(tt.store, tt.pins, d); err != nil || again.ID != r.ID {
					t.Errorf("descriptor: %v", err)
				}
				if _, err := catalog.OpenDescriptor(newStore(t), tt.pins, d); err == nil {
					t.Error("a descriptor serves for another store")
				}
				if _, err := catalog.OpenDescriptor(tt.store, catalog.Pins{}, d); err == nil {
					t.Error("a descriptor needs no pins")
				}
				return
			}
			wantErr(t, err, catalog.ErrRecipients)
			wantHint(t, err)
		})
	}
}

// TestTamperedRecipients: whoever can write into the bucket cannot make a host encrypt to him, nor write plain.
func TestTamperedRecipients(t *testing.T) {
	mine, thief := newKey(t), newKey(t)
	s := newStore(t)
	initEncrypted(t, s, mine)
	pins := catalog.Pins{Recipients: []string{mine.recipient}}
	for _, recipients := range []string{`["` + mine.recipient + `","` + thief.recipient + `"]`, `["` + thief.recipient + `"]`, `[]`} {
		body := `{"format":1,"generation":2,"created":"2026-11-24T15:45:00Z","recipients":` + recipients + `,"probe":{"conditional_put":true}}`
		if _, err := s.Put(t.Context(), "repo/2.json", []byte(body), storage.Any); err != nil {
			t.Fatal(err)
		}
		_, err := catalog.Open(t.Context(), s, pins)
		wantErr(t, err, catalog.ErrRecipients)
	}
	if err := s.Delete(t.Context(), "repo/2.json"); err != nil {
		t.Fatal(err)
	}
	repo, _, err := storage.ReadAll(t.Context(), s, catalog.RepoKey, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	// Whoever writes it anew leaves the checksum out, or makes a right one.
	forged, _, _ := bytes.Cut(bytes.Replace(repo, []byte("true"), []byte("false"), 1), []byte(",\n  \"crc32c\""))
	if _, err := s.Put(t.Context(), catalog.RepoKey, append(forged, "\n}\n"...), storage.Any); err != nil {
		t.Fatal(err)
	}
	_, err = catalog.Open(t.Context(), s, pins)
	wantErr(t, err, catalog.ErrRecipients)
}

func TestChangeRecipients(t *testing.T) {
	a, b := newKey(t), newKey(t)
	s := newStore(t)
	r := initEncrypted(t, s, a)
	for i := 2; i <= 11; i++ { // "10" sorts before "2"
		k := []keyPair{a, b}[i%2]
		var err error
		if r, err = r.ChangeRecipients(t.Context(), []string{k.recipient}, day); err != nil {
			t.Fatal(err)
		}
	}
	opened, err := catalog.Open(t.Context(), s, catalog.Pins{Recipients: []string{b.recipient}})
	if err != nil {
		t.Fatal(err)
	}
	if opened.Generation != 11 || opened.WriterOptions().KeyGeneration != 11 {
		t.Errorf("generation %d", opened.Generation)
	}
	_, err = catalog.Open(t.Context(), s, catalog.Pins{Recipients: []string{a.recipient}})
	wantErr(t, err, catalog.ErrRecipients)
	if _, err := initPlain(t, newStore(t)).ChangeRecipients(t.Context(), []string{a.recipient}, day); err == nil {
		t.Error("a plain repository got recipients")
	}
	if _, err := r.ChangeRecipients(t.Context(), nil, day); err == nil {
		t.Error("an encrypted repository lost its recipients")
	}
}

// TestPutRefusesPlaintext tries every way of writing into an encrypted repository that the package offers, and looks for
// the plain bytes in all that is stored.
func TestPutRefusesPlaintext(t *testing.T) {
	root := t.TempDir()
	s, err := file.Open(file.Options{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	k := newKey(t)
	r := initEncrypted(t, s, k)
	const secret = "the secret of the data, repeated; the secret of the data, repeated"
	h := object.Header{Kind: object.KindPack, Name: "x"}
	plain, err := object.EncodeAll(object.WriterOptions{}, h, []byte(secret))
	if err != nil {
		t.Fatal(err)
	}
	_, err = r.Put(t.Context(), "main/1/pack/x/1", plain, storage.Any)
	wantErr(t, err, catalog.ErrPlaintext)
	ph, err := object.ParseHeader(plain)
	if err != nil {
		t.Fatal(err)
	}
	ph.Encrypted, ph.KeyGeneration = true, 1
	lie := ph.Encode()
	_, err = r.Put(t.Context(), "main/1/pack/x/1", append(lie[:], plain[object.HeaderSize:]...), storage.Any)
	wantErr(t, err, catalog.ErrPlaintext)
	if _, err := r.Put(t.Context(), "main/1/pack/x/1", []byte(secret), storage.Any); err == nil {
		t.Error("bytes without a header were taken")
	}
	old := r.WriterOptions()
	old.KeyGeneration = 7
	other, err := object.EncodeAll(old, h, []byte(secret))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Put(t.Context(), "main/1/pack/x/1", other, storage.Any); err == nil {
		t.Error("another generation was taken")
	}

	good, err := object.EncodeAll(r.WriterOptions(), h, []byte(secret))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Put(t.Context(), "main/1/pack/x/1", good, storage.IfAbsent); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Put(t.Context(), "main/1/x.json", good, storage.IfAbsent); err == nil {
		t.Error("a JSON key was taken")
	}
	w := newManifest(t, r, testID)
	add(t, w, catalog.FileEntry{Path: secret, Type: catalog.TypeDir})
	commit(t, w, testHeader())
	if _, err := r.ClaimBackup(t.Context(), mainRef, catalog.LeaseOptions{}, nil); err != nil {
		t.Fatal(err)
	}
	scan(t, root, secret)

	none := initPlain(t, newStore(t))
	if _, err := none.Put(t.Context(), "main/1/pack/x/1", good, storage.IfAbsent); err == nil {
		t.Error("an encrypted object was put into a plain repository")
	}
}

// scan reads every file below root.
func scan(t *testing.T, root, secret string) {
	t.Helper()
	files := 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		files++
		if bytes.Contains(data, []byte(secret[:16])) {
			t.Errorf("%s holds plain bytes", path)
		}
		return err
	})
	if err != nil || files < 5 {
		t.Fatalf("%d files: %v", files, err)
	}
}

func TestNewerFormat(t *testing.T) {
	s := newStore(t)
	if _, err := s.Put(t.Context(), catalog.RepoKey, []byte(`{"format":2,"id":"x","what":[1,2]}`), storage.Any); err != nil {
		t.Fatal(err)
	}
	_, err := catalog.Open(t.Context(), s, catalog.Pins{EncryptionNone: true})
	wantErr(t, err, catalog.ErrFormatTooNew)
	for _, body := range []string{`{}`, `{"id":"x"}`, `[]`, ``, `{"format":1,"id":"x"} {"format":1}`} {
		if _, err := s.Put(t.Context(), catalog.RepoKey, []byte(body), storage.Any); err != nil {
			t.Fatal(err)
		}
		if _, err := catalog.Open(t.Context(), s, catalog.Pins{EncryptionNone: true}); err == nil {
			t.Errorf("%q is a repository", body)
		}
	}
}

func TestProbeStale(t *testing.T) {
	s := newStore(t)
	probed := func(_ context.Context, s storage.Store, prefix string) (catalog.Capabilities, error) {
		if !strings.HasPrefix(prefix, "repo/probe-") {
			t.Errorf("probe may write below %q", prefix)
		}
		return catalog.Capabilities{ConditionalPut: true, CompareAndSwap: true, Store: s.String(), Date: day, ClockDifference: time.Second}, nil
	}
	r, err := catalog.Init(t.Context(), s, catalog.InitOptions{EncryptionNone: true, Probe: probed})
	if err != nil {
		t.Fatal(err)
	}
	if r.ProbeStale() || !r.Probe.CompareAndSwap || r.Probe.ClockDifference != time.Second {
		t.Errorf("%+v", r.Probe)
	}
	r.Probe.Store = "s3://elsewhere"
	if !r.ProbeStale() {
		t.Error("another store is not stale")
	}
}
