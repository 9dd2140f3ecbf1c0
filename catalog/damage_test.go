package catalog_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"pgstow/catalog"
	"pgstow/storage"
	"pgstow/storage/object"
	"pgstow/wal"
)

// TestDamageNamesTheObject: who is told of damage must know which object to look at.
func TestDamageNamesTheObject(t *testing.T) {
	s := newStore(t)
	r := initPlain(t, s)
	name := wal.SegmentName(1, 7, segmentSize)
	segment, history := mainRef.WALKey(name, ""), mainRef.HistoryKey(2)
	putObject(t, r, segment, object.Header{Kind: object.KindWAL, Name: name.String()}, "segment")
	putObject(t, r, history, object.Header{Kind: object.KindHistory, Name: "00000002.history"}, "1\t0/700000\tno recovery target specified\n")
	for _, key := range []string{segment, history} {
		stored, _, err := storage.ReadAll(t.Context(), s, key, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		stored[100] ^= 0xff
		if _, err := s.Put(t.Context(), key, stored, storage.Any); err != nil {
			t.Fatal(err)
		}
	}
	_, err := r.History(t.Context(), mainRef, 2)
	wantErr(t, err, object.ErrCorrupt)
	if !strings.Contains(err.Error(), history) {
		t.Errorf("history: %v", err)
	}
	index, err := r.ListWAL(t.Context(), mainRef, segmentSize)
	if err != nil {
		t.Fatal(err)
	}
	_, err = catalog.NewStoredSegments(r, index).Header(t.Context(), 1, 7)
	wantErr(t, err, object.ErrCorrupt)
	if !strings.Contains(err.Error(), segment) {
		t.Errorf("segment: %v", err)
	}
}

// TestDamagedControl flips each byte of each JSON object: a name or a number may change and leave valid JSON.
func TestDamagedControl(t *testing.T) {
	s := newStore(t)
	r := initPlain(t, s)
	if _, err := r.EnsureCluster(t.Context(), catalog.ClusterInfo{Name: "main", SystemID: mainRef.SystemID, PostgresMajor: 15, SegmentSize: segmentSize}); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"repo.json", "repo/1.json", mainRef.InfoKey()} {
		sound, _, err := storage.ReadAll(t.Context(), s, key, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		if err := catalog.CheckControl(key, sound); err != nil {
			t.Error(err)
		}
		member := bytes.LastIndex(sound, []byte(",\n  \"crc32c\": \""))
		if member < 0 || !json.Valid(sound) {
			t.Fatalf("%s has no checksum, or is no JSON: %s", key, sound)
		}
		for at := range member {
			for _, flip := range []byte{0xff, 0x01, 0x20} {
				damaged := bytes.Clone(sound)
				damaged[at] ^= flip
				wantErr(t, catalog.CheckControl(key, damaged), object.ErrCorrupt)
			}
		}
		sound[len(sound)-5] ^= 0x01 // the last digit of the checksum
		if _, err := s.Put(t.Context(), key, sound, storage.Any); err != nil {
			t.Fatal(err)
		}
		if _, err = catalog.Open(t.Context(), s, catalog.Pins{EncryptionNone: true}); err == nil {
			_, err = r.Cluster(t.Context(), mainRef)
		}
		wantErr(t, err, object.ErrCorrupt)
		sound[len(sound)-5] ^= 0x01
		if _, err := s.Put(t.Context(), key, sound, storage.Any); err != nil {
			t.Fatal(err)
		}
	}
}
