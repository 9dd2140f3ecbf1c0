package object_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"pgstow/storage/object"
)

// Two identities that no secret depends on, one of each sort, and two strangers.
var (
	x25519ID   = mustID(age.GenerateX25519Identity())
	hybridID   = mustID(age.GenerateHybridIdentity())
	x25519Else = mustID(age.GenerateX25519Identity())
	hybridElse = mustID(age.GenerateHybridIdentity())
)

type keyPair struct {
	id   object.Identity
	text string
	to   object.Recipient
}

func mustID[I interface {
	object.Identity
	fmt.Stringer
}](id I, err error) keyPair {
	if err != nil {
		panic(err)
	}
	recipient, ok := object.RecipientOf(id)
	if !ok {
		panic("no recipient")
	}
	to, err := object.ParseRecipients([]string{recipient})
	if err != nil {
		panic(err)
	}
	return keyPair{id, id.String(), to[0]}
}

func (k keyPair) ids() []object.Identity   { return []object.Identity{k.id} }
func (k keyPair) recs() []object.Recipient { return []object.Recipient{k.to} }

func crc(b []byte) uint32              { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }
func put32(b []byte, at int, v uint32) { binary.LittleEndian.PutUint32(b[at:], v) }
func put64(b []byte, at int, v uint64) { binary.LittleEndian.PutUint64(b[at:], v) }
func get32(b []byte, at int) uint32    { return binary.LittleEndian.Uint32(b[at:]) }
func sealHeader(b []byte)              { put32(b, 508, crc(b[:508])) }
func footerOf(b []byte) (start int)    { return len(b) - int(get32(b, len(b)-12)) }
func clone(b []byte) []byte            { return bytes.Clone(b) }
func frameAt(b []byte, i int) (at, size int) {
	return frameOffset(b, i), int(get32(b, footerOf(b)+40+12*i))
}

var sample = object.Header{
	Kind: object.KindWAL, Name: "000000010000000000000042",
	SystemID: 7301234567890123456, Timeline: 1, From: 0x42000000, To: 0x43000000,
	LastRecord: 0x42ffff00, FirstCommit: 1700000000000001, LastCommit: 1700000000999999,
	MaxXID: 4711, Flags: object.FlagSwitch, Time: time.Date(2026, 1, 2, 3, 4, 5, 678901000, time.UTC),
	Host: "db1.example", DataDirectory: "/var/lib/postgresql/15/main", Program: "pgstow 1.0",
}

func frameOffset(b []byte, i int) int {
	at := object.HeaderSize
	for j := range i {
		at += int(get32(b, footerOf(b)+40+12*j))
	}
	return at
}

// reseal makes every checksum and length of an unencrypted object right again
// after a test changed something else, so that the test meets the very check it
// is for. It is written from docs/format.md, not with the package's own code.
func reseal(b []byte) []byte {
	f := footerOf(b)
	tie := sha256.Sum256(b[:496])
	copy(b[f+8:], tie[:])
	put32(b, len(b)-16, crc(b[f:len(b)-16]))
	put64(b, 496, uint64(len(b)))
	put32(b, 504, crc(b[512:]))
	sealHeader(b)
	return b
}

// encryptBody turns an unencrypted object into an encrypted one, from
// docs/format.md.
func encryptBody(t testing.TB, b []byte, to ...object.Recipient) []byte {
	t.Helper()
	b = clone(b)
	put32(b, 20, 1)
	put32(b, 24, 3)
	reseal(b)
	return encryptAsIs(t, b, to...)
}

// encryptAsIs encrypts what follows the header, whatever it is, and seals the header.
func encryptAsIs(t testing.TB, b []byte, to ...object.Recipient) []byte {
	t.Helper()
	var out bytes.Buffer
	out.Write(b[:512])
	w, err := age.Encrypt(&out, to...)
	must(t, err)
	_, err = w.Write(b[512:])
	must(t, err)
	must(t, w.Close())
	return sealStored(out.Bytes())
}

// sealStored makes stored size and checksum and the header's own right.
func sealStored(b []byte) []byte {
	put64(b, 496, uint64(len(b)))
	put32(b, 504, crc(b[512:]))
	sealHeader(b)
	return b
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// textOf gives n bytes that compress like a table's text, noiseOf bytes that do not.
func textOf(n int) []byte {
	r := rand.New(rand.NewPCG(1, 2))
	words := strings.Fields("accounts branch teller history balance update insert page vacuum 0 1 42 4711")
	b := make([]byte, 0, n+16)
	for len(b) < n {
		b = append(append(b, words[r.IntN(len(words))]...), ' ')
	}
	return b[:n]
}

func noiseOf(n int) []byte {
	b := make([]byte, n)
	var seed [32]byte
	if _, err := rand.NewChaCha8(seed).Read(b); err != nil {
		panic(err)
	}
	return b
}

// small is an object of three frames, not encrypted.
func small(t testing.TB) (stored, plain []byte) {
	t.Helper()
	w, err := object.NewWriter(object.WriterOptions{Hash: true, Verify: true})
	must(t, err)
	for _, part := range []string{"first frame", strings.Repeat("second ", 100), "third"} {
		_, err := w.AddFrame([]byte(part))
		must(t, err)
		plain = append(plain, part...)
	}
	stored, err = w.Finish(sample)
	must(t, err)
	return stored, plain
}

// The ways to read an object from memory; each must find each fault.
var readers = map[string]func(stored []byte, ids []object.Identity) ([]byte, error){
	"open": func(stored []byte, ids []object.Identity) ([]byte, error) {
		o, err := object.Open(stored, ids)
		if err != nil {
			return nil, err
		}
		return o.Plain()
	},
	"stream": func(stored []byte, ids []object.Identity) ([]byte, error) {
		s, err := object.DecodeStream(bytes.NewReader(stored), ids, 0)
		if err != nil {
			return nil, err
		}
		return io.ReadAll(s)
	},
	"ranged": func(stored []byte, ids []object.Identity) ([]byte, error) {
		ctx := context.Background()
		r, err := object.OpenAt(ctx, rangesOf(stored, nil), int64(len(stored)), ids)
		if err != nil {
			return nil, err
		}
		var plain []byte
		for i := range r.Frames() {
			part, err := r.Frame(ctx, i, nil)
			if err != nil {
				return nil, err
			}
			plain = append(plain, part...)
		}
		return plain, nil
	},
}

// rangesOf reads stored by ranges, as a store does, and counts in n.
func rangesOf(stored []byte, n *int) object.ReadAt {
	return func(_ context.Context, off, length int64) ([]byte, error) {
		if n != nil {
			*n++
		}
		size := int64(len(stored))
		if off >= size {
			return nil, nil
		}
		return stored[off:min(off+length, size)], nil
	}
}
