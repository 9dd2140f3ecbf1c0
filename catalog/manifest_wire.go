package catalog

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"
)

// The kinds of lines of a manifest, in the order in which they come.
const (
	lineHeader = "header"
	lineFile   = "file"
	linePack   = "pack"
	lineFooter = "footer"
)

type headerLine struct {
	Kind string `json:"kind"`
	BackupHeader
}

type fileLine struct {
	Kind      string    `json:"kind"`
	Path      string    `json:"path,omitempty"`
	PathHex   string    `json:"path_hex,omitempty"` // instead, if it is not valid UTF-8
	Type      FileType  `json:"type,omitempty"`     // "file" if there is none
	Mode      FileMode  `json:"mode"`
	Size      int64     `json:"size,omitempty"`
	ModTime   time.Time `json:"mtime,omitzero"`
	Target    string    `json:"target,omitempty"`
	TargetHex string    `json:"target_hex,omitempty"`
	Map       *refWire  `json:"map,omitempty"`
	Blob      []refWire `json:"blob,omitempty"`
	SHA256    Digest    `json:"sha256,omitzero"`
	Damaged   []uint32  `json:"damaged,omitempty"`
}

type refWire struct {
	Pack   int `json:"pack"`
	Frame  int `json:"frame"`
	Offset int `json:"offset"`
	Length int `json:"length"`
}

type packLine struct {
	Kind      string    `json:"kind"`
	Index     int       `json:"index"` // what map and blob refer to
	Backup    string    `json:"backup"`
	N         int       `json:"n"`
	Size      int64     `json:"size"`
	SHA256    Digest    `json:"sha256"`
	Frames    int       `json:"frames"`
	PlainSize int64     `json:"plain_size"`
	Created   time.Time `json:"created,omitzero"`
	Map       bool      `json:"map,omitempty"`
	LivePages int64     `json:"live_pages,omitempty"`
	Pages     int64     `json:"pages,omitempty"`
}

type footerLine struct {
	Kind   string `json:"kind"`
	Files  int64  `json:"files"`
	Packs  int64  `json:"packs"`
	Bytes  int64  `json:"bytes"`
	SHA256 Digest `json:"sha256"` // of all bytes before this line
}

// lineEncoder writes lines without escaping what only HTML cares for.
type lineEncoder struct {
	buf bytes.Buffer
	enc *json.Encoder
}

func newLineEncoder() *lineEncoder {
	e := &lineEncoder{}
	e.enc = json.NewEncoder(&e.buf)
	e.enc.SetEscapeHTML(false)
	return e
}

// encode returns v as a line with its newline; it stays valid until the next call.
func (e *lineEncoder) encode(v any) ([]byte, error) {
	e.buf.Reset()
	if err := e.enc.Encode(v); err != nil {
		return nil, err
	}
	return e.buf.Bytes(), nil
}

// decodeLine reads one line of the given kind; fields that it does not know are additions of a newer pgstow.
func decodeLine(line []byte, kind string, v any, got *string) error {
	if err := json.Unmarshal(line, v); err != nil {
		return fmt.Errorf("%s line: %w", kind, err)
	}
	if *got != kind {
		return fmt.Errorf("line of kind %q where a %s line belongs", *got, kind)
	}
	return nil
}

func (f FileEntry) wire() fileLine {
	l := fileLine{Kind: lineFile, Type: f.Type, Mode: f.Mode, Size: f.Size, ModTime: f.ModTime.UTC(), SHA256: f.SHA256, Damaged: f.Damaged}
	if f.ModTime.IsZero() {
		l.ModTime = time.Time{}
	}
	if l.Type == TypeFile {
		l.Type = ""
	}
	l.Path, l.PathHex = splitRaw(f.Path)
	l.Target, l.TargetHex = splitRaw(f.Target)
	if f.Map != nil {
		l.Map = (*refWire)(f.Map)
	}
	for _, s := range f.Blob {
		l.Blob = append(l.Blob, refWire(s))
	}
	return l
}

func (l *fileLine) entry() (FileEntry, error) {
	f := FileEntry{Type: l.Type, Mode: l.Mode, Size: l.Size, ModTime: l.ModTime, SHA256: l.SHA256, Damaged: l.Damaged}
	if f.Type == "" {
		f.Type = TypeFile
	}
	var err error
	if f.Path, err = joinRaw(l.Path, l.PathHex); err != nil {
		return f, err
	}
	if f.Target, err = joinRaw(l.Target, l.TargetHex); err != nil {
		return f, err
	}
	if l.Map != nil {
		f.Map = (*MapRef)(l.Map)
	}
	if len(l.Blob) > 0 {
		f.Blob = make([]Slice, len(l.Blob))
		for i, s := range l.Blob {
			f.Blob[i] = Slice(s)
		}
	}
	err = f.check()
	return f, err
}

// check is the part of an entry's validity that needs no other line.
func (f *FileEntry) check() error {
	bad := func(what string) error { return fmt.Errorf("%q: %s", f.Path, what) }
	switch f.Type {
	case TypeFile, "":
	case TypeDir, TypeLink:
		if f.Map != nil || len(f.Blob) > 0 || f.Size != 0 || len(f.Damaged) > 0 {
			return bad("a " + string(f.Type) + " with contents")
		}
	default:
		return bad(fmt.Sprintf("unknown type %q", f.Type))
	}
	if (f.Type == TypeLink) != (f.Target != "") {
		return bad("a target and no link, or a link and no target")
	}
	switch {
	case f.Mode > 0o7777:
		return bad("impossible mode")
	case f.Size < 0:
		return bad("negative size")
	case f.Map != nil && len(f.Blob) > 0:
		return bad("both a page map and a blob")
	case f.Map != nil && f.Size == 0:
		return bad("a page map of nothing")
	case f.Type != TypeDir && f.Type != TypeLink && f.Map == nil && f.Size > 0 && len(f.Blob) == 0:
		return bad("no contents")
	}
	if f.Map != nil {
		if err := refWire(*f.Map).check(); err != nil {
			return bad(err.Error())
		}
		return nil
	}
	var sum int64
	for _, s := range f.Blob {
		if err := refWire(s).check(); err != nil {
			return bad(err.Error())
		}
		sum += int64(s.Length)
	}
	if sum != f.Size {
		return bad(fmt.Sprintf("%d bytes in its parts, size %d", sum, f.Size))
	}
	return nil
}

// maxFrame is the greatest plain length of a frame (storage/object).
const maxFrame = 64 << 20

func (r refWire) check() error {
	if r.Pack < 0 || r.Frame < 0 || r.Offset < 0 || r.Length <= 0 || r.Offset > maxFrame || r.Length > maxFrame-r.Offset {
		return fmt.Errorf("impossible reference pack %d frame %d offset %d length %d", r.Pack, r.Frame, r.Offset, r.Length)
	}
	return nil
}

func (p PackEntry) wire(index int) packLine {
	return packLine{
		Kind: linePack, Index: index, Backup: p.Backup, N: p.N, Size: p.Size, SHA256: p.SHA256, Frames: p.Frames, PlainSize: p.PlainSize,
		Created: p.Created.UTC(), Map: p.Map, LivePages: p.LivePages, Pages: p.Pages,
	}
}

func (l *packLine) entry(index int) (PackEntry, error) {
	p := PackEntry{
		Backup: l.Backup, N: l.N, Size: l.Size, SHA256: l.SHA256, Frames: l.Frames, PlainSize: l.PlainSize,
		Created: l.Created, Map: l.Map, LivePages: l.LivePages, Pages: l.Pages,
	}
	if l.Index != index {
		return p, fmt.Errorf("pack line %d says it is number %d", index, l.Index)
	}
	err := p.check()
	return p, err
}

func (p *PackEntry) check() error {
	if err := CheckBackupID(p.Backup); err != nil {
		return fmt.Errorf("pack of %w", err)
	}
	if p.N < 0 || p.Size <= 0 || p.Frames <= 0 || p.PlainSize <= 0 || p.LivePages < 0 || p.Pages < p.LivePages || p.SHA256.IsZero() {
		return fmt.Errorf("pack %s/%d has impossible sizes or no SHA-256", p.Backup, p.N)
	}
	return nil
}
