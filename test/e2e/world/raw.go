package world

import (
	"bytes"
	"strings"

	"pgstow/storage"
)

// maxObject is more than any object of a test has.
const maxObject = 512 << 20

// Keys lists the keys in the repository that begin with prefix, in order.
func (w *World) Keys(prefix string) []string {
	w.t.Helper()
	var keys []string
	for info, err := range w.Store.List(w.t.Context(), prefix, "") {
		if err != nil {
			w.t.Fatalf("list %q: %v", prefix, err)
		}
		keys = append(keys, info.Key)
	}
	return keys
}

// KeysWith lists all keys that contain a word.
func (w *World) KeysWith(word string) []string {
	w.t.Helper()
	var keys []string
	for _, k := range w.Keys("") {
		if strings.Contains(k, word) {
			keys = append(keys, k)
		}
	}
	return keys
}

// Read returns the stored bytes of an object.
func (w *World) Read(key string) []byte {
	w.t.Helper()
	body, _, err := storage.ReadAll(w.t.Context(), w.Store, key, maxObject)
	if err != nil {
		w.t.Fatalf("read %s: %v", key, err)
	}
	return body
}

// ReadEverything returns all objects by their keys.
func (w *World) ReadEverything() map[string][]byte {
	w.t.Helper()
	all := map[string][]byte{}
	for _, k := range w.Keys("") {
		all[k] = w.Read(k)
	}
	return all
}

// Write replaces the stored bytes of an object, or makes it, as no command of pgstow would.
func (w *World) Write(key string, body []byte) {
	w.t.Helper()
	if _, err := w.Store.Put(w.t.Context(), key, body, storage.Any); err != nil {
		w.t.Fatalf("write %s: %v", key, err)
	}
}

// FlipByte inverts one byte of a stored object and returns a function that puts the old bytes back.
func (w *World) FlipByte(key string, at int) (undo func()) {
	w.t.Helper()
	before := w.Read(key)
	damaged := bytes.Clone(before)
	damaged[at] ^= 0xff
	w.Write(key, damaged)
	return func() { w.Write(key, before) }
}

// Delete removes objects.
func (w *World) Delete(keys ...string) {
	w.t.Helper()
	if err := w.Store.Delete(w.t.Context(), keys...); err != nil {
		w.t.Fatalf("delete %v: %v", keys, err)
	}
}

// Prefix is where the objects of the world's server lie: "main/<system identifier>/".
func (w *World) Prefix() string {
	w.t.Helper()
	return "main/" + w.Server.SystemID() + "/"
}

// WALKeys lists the keys of a WAL file: none, one, or for a .partial possibly several.
func (w *World) WALKeys(name string) []string {
	w.t.Helper()
	return w.KeysWith("/" + name)
}
