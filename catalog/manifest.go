package catalog

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"time"
	"unicode/utf8"

	"pgstow/wal"
)

// Method says how the changed pages of a backup were found.
type Method string

// The methods.
const (
	MethodFull      Method = "full"      // no reference: everything was stored
	MethodScan      Method = "scan"      // every page was read and compared by hash
	MethodSummaries Method = "summaries" // by PostgreSQL's WAL summaries, 17 and newer
	MethodStream    Method = "stream"    // by the server: BASE_BACKUP INCREMENTAL
)

// Source says where the bytes came from.
type Source string

// The sources.
const (
	SourceLocal   Source = "local"   // the data directory of a running server
	SourceOffline Source = "offline" // the data directory of a cleanly stopped one
	SourceStream  Source = "stream"  // the replication protocol
)

// BackupHeader is the first line of a manifest: all that is known of a backup but its files.
type BackupHeader struct {
	Format   int    `json:"format"`
	ID       string `json:"id"`
	Cluster  string `json:"cluster"`
	SystemID uint64 `json:"system_id,string"`
	Label    string `json:"label,omitempty"`
	Method   Method `json:"method"`
	Source   Source `json:"source"`
	Standby  bool   `json:"standby,omitempty"` // taken from a server in recovery

	PostgresVersion int `json:"postgres_version"` // server_version_num
	PostgresMajor   int `json:"postgres_major"`

	Start         wal.LSN          `json:"start_lsn"` // redo: replay begins here
	Stop          wal.LSN          `json:"stop_lsn"`  // consistent from here on
	CheckpointLSN wal.LSN          `json:"checkpoint_lsn"`
	Timeline      wal.TimelineID   `json:"timeline"` // at the start
	StopTimeline  wal.TimelineID   `json:"stop_timeline"`
	History       []TimelineSwitch `json:"history,omitempty"` // ancestors of StopTimeline, oldest first
	StartedAt     time.Time        `json:"started_at"`        // the server's clock
	StoppedAt     time.Time        `json:"stopped_at"`        // the server's clock
	NextXID       uint64           `json:"next_xid"`          // full, with epoch, at the stop or later; 0 if not known

	CatalogVersion  uint32          `json:"catalog_version"`
	ControlVersion  uint32          `json:"control_version"`
	BlockSize       uint32          `json:"block_size"`       // bytes
	RelSegSize      uint32          `json:"relseg_size"`      // pages in one file of a relation
	WALSegmentSize  wal.SegmentSize `json:"wal_segment_size"` // bytes
	ChecksumVersion uint32          `json:"data_checksum_version"`
	WALLevel        string          `json:"wal_level,omitempty"`
	WALLogHints     bool            `json:"wal_log_hints,omitempty"`
	ControlRedo     wal.LSN         `json:"control_redo_lsn"`         // of the stored pg_control
	ControlTimeline wal.TimelineID  `json:"control_timeline"`         // of the stored pg_control
	BigEndian       bool            `json:"big_endian,omitempty"`     // the server's byte order
	BackupLabel     []byte          `json:"backup_label,omitempty"`   // byte for byte, base64
	TablespaceMap   []byte          `json:"tablespace_map,omitempty"` // byte for byte, base64
	Tablespaces     []Tablespace    `json:"tablespaces,omitempty"`
	Databases       []Database      `json:"databases,omitempty"`    // by OID; none if there was no server to ask
	WALIncluded     bool            `json:"wal_included,omitempty"` // the backup holds its own WAL from start to stop
	IncludedWAL     []string        `json:"included_wal,omitempty"` // names; files pg_wal/<name> of the manifest

	// StopWAL is the SHA-256 of the WAL before Stop in its segment, and SummaryMade the time of the server's WAL summary that
	// ends at Start: what another past of the same server, on the same timeline, does not have. Zero where not known.
	StopWAL     Digest    `json:"stop_wal_sha256,omitzero"`
	SummaryMade time.Time `json:"summary_made,omitzero"`

	Reference    string       `json:"reference,omitempty"` // id of the backup whose maps were the beginning
	ReferenceLSN wal.LSN      `json:"reference_lsn,omitzero"`
	Why          string       `json:"why,omitempty"`   // why it was not done in a cheaper way
	Notes        []string     `json:"notes,omitempty"` // warnings that a person should read
	Damaged      int64        `json:"damaged,omitempty"`
	DamagedPages []DamagedRef `json:"damaged_pages,omitempty"` // a sample; all of them are with their files

	Files        int64 `json:"files"`     // lines: files, folders and links; filled in by Commit
	Relations    int64 `json:"relations"` // files with a page map; filled in by Commit
	Packs        int64 `json:"packs"`     // referenced, whoever wrote them; filled in by Commit
	Bytes        int64 `json:"bytes"`     // of all files; filled in by Commit
	BytesRead    int64 `json:"bytes_read"`
	BytesStored  int64 `json:"bytes_stored"` // in new packs
	PagesChanged int64 `json:"pages_changed"`
	// PagesRefreshed did not change and were stored again, so that no old pack is kept for a few pages.
	PagesRefreshed int64 `json:"pages_refreshed,omitempty"`
	PacksLent      int64 `json:"packs_lent,omitempty"` // of Packs, those that other backups wrote; filled in by Commit
	BytesLent      int64 `json:"bytes_lent,omitempty"` // their stored size; filled in by Commit

	Program           string            `json:"program,omitempty"` // pgstow's version
	Host              string            `json:"host,omitempty"`
	DataDirectory     string            `json:"data_directory,omitempty"`
	DataDirectoryMode FileMode          `json:"data_directory_mode,omitzero"`
	ConfigFiles       map[string]string `json:"config_files,omitempty"` // outside of the data directory: setting -> path of the manifest
	Options           map[string]string `json:"options,omitempty"`

	PackFrame int `json:"pack_frame"` // frame of the manifest object in which the pack lines begin; filled in by Commit
}

// Ref is the cluster the backup is of.
func (h BackupHeader) Ref() ClusterRef { return ClusterRef{Name: h.Cluster, SystemID: h.SystemID} }

// TimelineHistory is the history of StopTimeline as the backup recorded it.
func (h BackupHeader) TimelineHistory() wal.History {
	var out wal.History
	for _, s := range h.History {
		out = append(out, wal.HistoryEntry{Timeline: s.Timeline, End: s.End, Reason: s.Reason})
	}
	return append(out, wal.HistoryEntry{Timeline: h.StopTimeline, End: wal.MaxLSN})
}

// TimelineSwitch is one line of a history file: the timeline was left at End.
type TimelineSwitch struct {
	Timeline wal.TimelineID `json:"timeline"`
	End      wal.LSN        `json:"end_lsn"`
	Reason   string         `json:"reason,omitempty"`
}

// SwitchesOf is the form in which a BackupHeader keeps a history: the ancestors.
func SwitchesOf(h wal.History) []TimelineSwitch {
	var out []TimelineSwitch
	for _, e := range h[:max(len(h)-1, 0)] {
		out = append(out, TimelineSwitch{Timeline: e.Timeline, End: e.End, Reason: e.Reason})
	}
	return out
}

// Tablespace is one that the backup followed. Its files are in the manifest under Path.
type Tablespace struct {
	OID      uint32 `json:"oid"`
	Path     string `json:"path"`               // pg_tblspc/<oid>
	Location string `json:"-"`                  // where the link points to; see MarshalJSON for names that are not UTF-8
	InPlace  bool   `json:"in_place,omitempty"` // a folder, not a link
}

// DamagedRef names a page that did not agree with its checksum.
type DamagedRef struct {
	Path string `json:"path"`
	Page uint32 `json:"page"` // number in the relation, counted over all its files
	What string `json:"what,omitempty"`
}

// FileType says what a FileEntry is.
type FileType string

// The types.
const (
	TypeFile FileType = "file"
	TypeDir  FileType = "dir"
	TypeLink FileType = "link"
)

// FileEntry is one line of a manifest: a file, folder or symbolic link below the data directory. The data directory
// itself has none.
type FileEntry struct {
	Path    string   // below the data directory, '/' between the parts; any bytes but NUL
	Type    FileType // TypeFile if empty
	Mode    FileMode // permission bits
	Size    int64    // bytes; of files
	ModTime time.Time
	Target  string   // of links
	Map     *MapRef  // of relations with at least one page: where the page map is
	Blob    []Slice  // of other files: where the bytes are, in order
	SHA256  Digest   // of the bytes of a file without page map; zero if not computed
	Damaged []uint32 // numbers of damaged pages in the relation, counted over all its files
}

// MapRef says where the page map of a relation's file is: bytes of one frame of a pack.
type MapRef struct {
	Pack   int // index in the manifest's pack table
	Frame  int
	Offset int // bytes from the frame's first plain byte
	Length int // bytes
}

// Slice is a part of a blob: bytes of one frame of a pack.
type Slice struct {
	Pack   int // index in the manifest's pack table
	Frame  int
	Offset int // bytes from the frame's first plain byte
	Length int // bytes
}

// PackEntry is one line of the pack table: an object that the backup needs, whoever wrote it.
type PackEntry struct {
	Backup    string // id of the backup that wrote it
	N         int
	Size      int64  // stored bytes
	SHA256    Digest // of the stored bytes: what sha256sum says
	Frames    int
	PlainSize int64
	Created   time.Time // when it was written: for refresh
	Map       bool      // holds page maps, not data
	// LivePages and Pages are, for data packs, the pages that this backup's maps use and all that are in the pack.
	LivePages int64
	Pages     int64
}

// Key is where the pack lies.
func (p PackEntry) Key(ref ClusterRef) string { return ref.PackKey(p.Backup, p.N) }

// FileMode is a file's permission bits; "0600" in JSON.
type FileMode uint32

// MarshalText gives four octal digits.
func (m FileMode) MarshalText() ([]byte, error) { return fmt.Appendf(nil, "%04o", uint32(m)), nil }

// UnmarshalText reads octal digits up to 07777.
func (m *FileMode) UnmarshalText(b []byte) error {
	v, err := strconv.ParseUint(string(b), 8, 32)
	if err != nil || v > 0o7777 {
		return fmt.Errorf("%q is not a file mode in octal", b)
	}
	*m = FileMode(v)
	return nil
}

// Digest is a SHA-256; hexadecimal in JSON. The zero Digest stands for none.
type Digest [32]byte

// String gives 64 lower-case hex digits.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// IsZero reports whether there is no digest.
func (d Digest) IsZero() bool { return d == Digest{} }

// MarshalText is String.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads 64 hex digits.
func (d *Digest) UnmarshalText(b []byte) error {
	if len(b) != 2*len(d) {
		return fmt.Errorf("%q is not a SHA-256", b)
	}
	_, err := hex.Decode(d[:], b)
	return err
}

type tablespaceAlias Tablespace

type tablespaceWire struct {
	tablespaceAlias
	Location    string `json:"location,omitempty"`
	LocationHex string `json:"location_hex,omitempty"` // instead, if it is not valid UTF-8
}

// MarshalJSON writes location, or location_hex where the name is not valid UTF-8.
func (t Tablespace) MarshalJSON() ([]byte, error) {
	w := tablespaceWire{tablespaceAlias: tablespaceAlias(t)}
	w.Location, w.LocationHex = splitRaw(t.Location)
	return json.Marshal(w)
}

// UnmarshalJSON reads either form.
func (t *Tablespace) UnmarshalJSON(b []byte) error {
	var w tablespaceWire
	if err := json.Unmarshal(b, &w); err != nil {
		return err
	}
	loc, err := joinRaw(w.Location, w.LocationHex)
	*t = Tablespace(w.tablespaceAlias)
	t.Location = loc
	return err
}

// splitRaw gives a name to one of two JSON fields: as it is, or in hexadecimal if it is not valid UTF-8.
func splitRaw(s string) (text, hexed string) {
	if utf8.ValidString(s) {
		return s, ""
	}
	return "", hex.EncodeToString([]byte(s))
}

func joinRaw(text, hexed string) (string, error) {
	switch {
	case hexed == "":
		return text, nil
	case text != "":
		return "", fmt.Errorf("a name both as text and in hexadecimal: %q", text)
	}
	b, err := hex.DecodeString(hexed)
	return string(b), err
}
