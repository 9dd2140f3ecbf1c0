package archive

import (
	"io"

	"pgstow/wal/spool"
)

// sink is where a file that was asked for goes.
type sink interface {
	io.Writer
	// install puts it there, whole and verified.
	install() error
	// close removes it unless it was installed.
	close()
}

// placed is a temporary beside its destination.
type placed struct {
	*temporary
	dst string
}

func (p placed) install() error { return p.temporary.install(p.dst) }

// spoolSink keeps a file in the spool for the call that will ask for it.
type spoolSink struct{ r *spool.Ready }

func newSpoolSink(s *spool.Spool, name string) (sink, error) {
	r, err := s.NewReady(name)
	if err != nil {
		return nil, err
	}
	return spoolSink{r}, nil
}

func (s spoolSink) Write(p []byte) (int, error) {
	n, err := s.r.Write(p)
	if err != nil {
		err = &localError{err}
	}
	return n, err
}

func (s spoolSink) install() error {
	if err := s.r.Finish(); err != nil {
		return &localError{err}
	}
	return nil
}

func (s spoolSink) close() { s.r.Discard() }
