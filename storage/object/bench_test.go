package object_test

import (
	"bytes"
	"fmt"
	"io"
	"testing"

	"pgstow/storage/object"
)

func BenchmarkAddFrame(b *testing.B) {
	plain := textOf(object.FrameSize)
	for _, o := range []object.WriterOptions{
		{}, {Verify: true}, {Level: object.LevelDefault}, {Recipients: hybridID.recs()},
	} {
		b.Run(fmt.Sprintf("%v,verify=%v,encrypt=%v", o.Level, o.Verify, o.Recipients != nil), func(b *testing.B) {
			w, err := object.NewWriter(o)
			must(b, err)
			b.SetBytes(int64(len(plain)))
			b.ReportAllocs()
			for b.Loop() {
				if w.Frames() == 32 {
					w.Reset()
				}
				_, err := w.AddFrame(plain)
				must(b, err)
			}
		})
	}
}

func BenchmarkEncodeSegment(b *testing.B) {
	plain := textOf(16 << 20)
	for _, o := range []object.WriterOptions{
		{Hash: true, Concurrency: 1}, {Hash: true, Concurrency: 2}, {Hash: true, Verify: true, Concurrency: 2},
		{Hash: true, Concurrency: 2, Recipients: hybridID.recs()},
	} {
		b.Run(fmt.Sprintf("workers=%d,verify=%v,encrypt=%v", o.Concurrency, o.Verify, o.Recipients != nil), func(b *testing.B) {
			w, err := object.NewWriter(o)
			must(b, err)
			b.SetBytes(int64(len(plain)))
			b.ReportAllocs()
			for b.Loop() {
				_, err := w.Encode(sample, plain)
				must(b, err)
			}
		})
	}
	b.Run("EncodeAll,workers=2", func(b *testing.B) {
		b.SetBytes(int64(len(plain)))
		b.ReportAllocs()
		for b.Loop() {
			_, err := object.EncodeAll(object.WriterOptions{Concurrency: 2}, sample, plain)
			must(b, err)
		}
	})
}

func BenchmarkRead(b *testing.B) {
	plain := textOf(16 << 20)
	for _, key := range []*keyPair{nil, &hybridID} {
		var o object.WriterOptions
		var ids []object.Identity
		if key != nil {
			o.Recipients, ids = key.recs(), key.ids()
		}
		stored, err := object.EncodeAll(o, sample, plain)
		must(b, err)
		run := func(name string, read func() error) {
			b.Run(fmt.Sprintf("%s,encrypt=%v", name, key != nil), func(b *testing.B) {
				b.SetBytes(int64(len(plain)))
				b.ReportAllocs()
				for b.Loop() {
					must(b, read())
				}
			})
		}
		run("Plain", func() error {
			o, err := object.Open(stored, ids)
			if err == nil {
				_, err = o.Plain()
			}
			return err
		})
		run("Frames", func() error {
			o, err := object.Open(stored, ids)
			var buf []byte
			for i := 0; err == nil && i < len(o.Frames()); i++ {
				buf, err = o.Frame(i, buf)
			}
			return err
		})
		run("DecodeStream", func() error {
			s, err := object.DecodeStream(bytes.NewReader(stored), ids, 0)
			if err == nil {
				_, err = s.WriteTo(io.Discard)
			}
			return err
		})
	}
}
