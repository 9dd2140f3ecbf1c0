package spool

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"os"
	"slices"
	"strings"
	"syscall"
)

// Identity is everything that decides where bytes go, and where they come from. Two calls may share a spool only if all of it is
// equal: a mark that says "stored" must never answer for another bucket, another cluster name or another server's data directory.
type Identity struct {
	Program string   // version of the program; another one may lay out the repository or the spool differently
	Config  []byte   // bytes of the configuration file
	AWS     [][]byte // bytes of the AWS shared configuration and credentials files, where there are any
	Environ []string // as os.Environ gives it; only PGSTOW_* and AWS_* count, in any order
	Flags   []string // flags that decide where bytes go, each "name=value", in the order given
	Data    DataDirectory
}

// DataDirectory tells one PostgreSQL data directory from all others, its own copies included.
type DataDirectory struct {
	Device   uint64 // of the folder that holds pg_control
	Inode    uint64
	SystemID [8]byte // as pg_control holds it, in the server's byte order
}

// ErrNoDataDirectory says that a folder has no global/pg_control and so is no data directory.
var ErrNoDataDirectory = errors.New("no global/pg_control there: not a data directory")

// IdentifyData reads what identifies the data directory at path. pg_control begins with the system identifier
// (src/include/catalog/pg_control.h).
func IdentifyData(path string) (DataDirectory, error) {
	var id DataDirectory
	folder, err := os.Stat(path + "/global")
	if err != nil {
		return id, notData(err)
	}
	st, ok := folder.Sys().(*syscall.Stat_t)
	if !ok {
		return id, ErrNoDataDirectory
	}
	control, err := os.Open(path + "/global/pg_control")
	if err != nil {
		return id, notData(err)
	}
	defer func() { _ = control.Close() }()
	if _, err := io.ReadFull(control, id.SystemID[:]); err != nil {
		return id, err
	}
	id.Device, id.Inode = st.Dev, st.Ino
	return id, nil
}

func notData(err error) error {
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return ErrNoDataDirectory
	}
	return err
}

// Name returns the name of the spool folder for this identity: 128 bits of a SHA-256 in hex. The parts are hashed with their
// lengths, so that no two different identities run together into the same bytes.
func (i Identity) Name() string {
	h := sha256.New()
	part(h, "pgstow spool 1")
	part(h, i.Program)
	part(h, string(i.Config))
	count(h, len(i.AWS))
	for _, file := range i.AWS {
		part(h, string(file))
	}
	environ := relevant(i.Environ)
	count(h, len(environ))
	for _, entry := range environ {
		part(h, entry)
	}
	count(h, len(i.Flags))
	for _, flag := range i.Flags {
		part(h, flag)
	}
	var data [24]byte
	binary.LittleEndian.PutUint64(data[0:], i.Data.Device)
	binary.LittleEndian.PutUint64(data[8:], i.Data.Inode)
	copy(data[16:], i.Data.SystemID[:])
	h.Write(data[:])
	sum := h.Sum(nil)
	return hex.EncodeToString(sum[:16])
}

// nameLength is the length of what Name returns.
const nameLength = 32

func relevant(environ []string) []string {
	var entries []string
	for _, entry := range environ {
		if strings.HasPrefix(entry, "PGSTOW_") || strings.HasPrefix(entry, "AWS_") {
			entries = append(entries, entry)
		}
	}
	slices.Sort(entries)
	return entries
}

func part(h hash.Hash, s string) {
	count(h, len(s))
	_, _ = io.WriteString(h, s) // a hash never fails to write
}

func count(h hash.Hash, n int) {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], uint64(n))
	h.Write(b[:])
}
