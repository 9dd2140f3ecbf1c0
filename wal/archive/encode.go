package archive

import (
	"fmt"
	"os"
	"syscall"

	"pgstow/catalog"
	"pgstow/storage/object"
)

// encoded is an object ready to be stored: in memory, or a mapping of a file without a name.
type encoded struct {
	bytes  []byte
	mapped bool
	f      *os.File
	done   func() // when the bytes are needed no more; nil: nobody wants to know
}

func (e *encoded) close() {
	if e.done != nil {
		e.done()
	}
	if e.mapped {
		_ = syscall.Munmap(e.bytes)
	}
	if e.f != nil {
		_ = e.f.Close()
	}
}

// encode makes the object once per call. In a lane it is valid until the lane's next one.
func (o *PushOptions) encode(repo *catalog.Repository, h object.Header, p *pushFile, l *lane) (*encoded, error) {
	w := repo.WriterOptions()
	w.Level, w.Concurrency, w.Hash, w.Verify = o.Level, pushConcurrency, true, !o.SkipVerify
	if l != nil {
		w.Concurrency = l.width
	}
	if p.mapped {
		return encodeLarge(w, h, p.plain, o.Spool.Dir())
	}
	var b []byte
	var err error
	if l == nil {
		b, err = object.EncodeAll(w, h, p.plain)
	} else {
		b, err = l.encode(repo, w, h, p.plain)
	}
	if err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	return &encoded{bytes: b}, nil
}

// encodeLarge builds the object in a file that has lost its name, so that it is gone with this process whatever happens, and maps it.
func encodeLarge(w object.WriterOptions, h object.Header, plain []byte, dir string) (*encoded, error) {
	f, err := os.CreateTemp(dir, ".new-*") // "" is the temporary folder
	if err != nil && dir != "" {
		f, err = os.CreateTemp("", "pgstow-*")
	}
	if err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	e := &encoded{f: f}
	if err = os.Remove(f.Name()); err == nil {
		err = e.fill(w, h, plain)
	}
	if err != nil {
		e.close()
		return nil, fmt.Errorf("encode: %w", err)
	}
	return e, nil
}

func (e *encoded) fill(w object.WriterOptions, h object.Header, plain []byte) error {
	fw, err := object.NewFileWriter(w, e.f)
	if err != nil {
		return err
	}
	if _, err := fw.Write(plain); err != nil {
		return err
	}
	size, err := fw.Finish(h)
	if err != nil {
		return err
	}
	e.bytes, err = syscall.Mmap(int(e.f.Fd()), 0, int(size), syscall.PROT_READ, syscall.MAP_SHARED)
	e.mapped = err == nil
	return err
}
