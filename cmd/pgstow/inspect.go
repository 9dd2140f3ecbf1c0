package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"pgstow/catalog"
	"pgstow/cmd/internal/config"
	"pgstow/storage"
	"pgstow/storage/object"
	"pgstow/wal"
)

// maxInspected bounds what inspect reads into memory: the largest segment, incompressible, with room for its frames.
const maxInspected = 1<<30 + 64<<20

func inspectCommand(e *environment) *cli.Command {
	return leaf(&cli.Command{
		Name:  "inspect",
		Usage: "explain any object of the repository and verify it",
		Description: `Reads one object by its key, or with --file a copy on local disk, checks every checksum in it, and says what it is, who wrote it and what
it holds. Without an identity the content of an encrypted object cannot be shown, but damage is still found.`,
		ArgsUsage: "KEY",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "file", Usage: "KEY is a file on local disk"},
			&cli.StringFlag{Name: "plain", Usage: "write the plain bytes to the new `FILE`, - for the standard output"},
			jsonFlag(),
		},
		Action: func(c *cli.Context) error {
			args, err := operands(c, "KEY")
			if err != nil {
				return err
			}
			conf, err := settings(c, e, false)
			if err != nil {
				return err
			}
			return inspect(c.Context, e, conf, args[0], inspectOptions{local: c.Bool("file"), plain: c.String("plain"), json: c.Bool("json")})
		},
	}, `pgstow inspect main/7412345678901234567/wal/00000001/00000000/000000010000000000000003
pgstow inspect --file ./000000010000000000000003 --plain segment
`)
}

type inspectOptions struct {
	local bool
	plain string
	json  bool
}

type objectReport struct {
	Key          string           `json:"key"`
	Kind         string           `json:"kind"`
	Name         string           `json:"name,omitempty"`
	Stored       int              `json:"stored_bytes"`
	Plain        int64            `json:"plain_bytes,omitempty"`
	PlainSHA256  string           `json:"plain_sha256,omitempty"`
	Encrypted    bool             `json:"encrypted"`
	Generation   uint32           `json:"key_generation,omitempty"`
	Frames       int              `json:"frames,omitempty"`
	Timeline     uint32           `json:"timeline,omitempty"`
	From         string           `json:"from_lsn,omitempty"`
	To           string           `json:"to_lsn,omitempty"`
	LastRecord   string           `json:"last_record_lsn,omitempty"`
	FirstCommit  *time.Time       `json:"first_commit,omitempty"`
	LastCommit   *time.Time       `json:"last_commit,omitempty"`
	Switched     bool             `json:"switched,omitempty"`
	RestorePoint []string         `json:"restore_points,omitempty"`
	SystemID     uint64           `json:"system_id,string,omitempty"`
	WrittenAt    *time.Time       `json:"written_at,omitempty"`
	WrittenBy    string           `json:"written_by,omitempty"`
	Verified     string           `json:"verified"`
	Content      *json.RawMessage `json:"content,omitempty"`
}

func inspect(ctx context.Context, e *environment, conf *config.Config, key string, o inspectOptions) error {
	stored, err := readObject(ctx, e, conf, key, o.local)
	if err != nil {
		return err
	}
	report := objectReport{Key: key, Stored: len(stored)}
	if strings.HasSuffix(key, ".json") {
		if !json.Valid(stored) {
			return fmt.Errorf("%s is not valid JSON", key)
		}
		if err := catalog.CheckControl(key, stored); err != nil {
			return err
		}
		content := json.RawMessage(stored)
		report.Kind, report.Content, report.Verified = "control", &content, "valid JSON, and its checksum where it has one"
		return report.print(e, o.json)
	}
	plain, err := report.decode(conf, key, stored)
	if err != nil {
		return err
	}
	if o.plain != "" {
		if plain == nil {
			return fmt.Errorf("write the plain bytes of %s: %w", key, object.ErrNoIdentity)
		}
		if err := e.writePlain(o.plain, plain); err != nil || o.plain == "-" {
			return err
		}
	}
	return report.print(e, o.json)
}

func readObject(ctx context.Context, e *environment, conf *config.Config, key string, local bool) ([]byte, error) {
	if local {
		stored, err := os.ReadFile(key)
		if err != nil {
			return nil, fmt.Errorf("inspect: %w", err)
		}
		return stored, nil
	}
	if err := storage.CheckKey(key); err != nil {
		return nil, usage("%s", err)
	}
	store, err := openStore(ctx, e, conf, conf.StoreDeadline)
	if err != nil {
		return nil, err
	}
	stored, _, err := storage.ReadAll(ctx, store, key, maxInspected)
	return stored, err
}

// decode fills the report from the object's header and, where it can be opened, its content, which it returns.
func (r *objectReport) decode(conf *config.Config, key string, stored []byte) ([]byte, error) {
	h, err := object.ParseHeader(stored)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	r.header(h)
	if base := path.Base(key); h.Kind == object.KindWAL && base != h.Name {
		return nil, fmt.Errorf("%s holds %s: it was moved or renamed: %w", key, h.Name, object.ErrCorrupt)
	}
	identities, err := readIdentities(conf.IdentityFile)
	if err != nil {
		return nil, err
	}
	if h.Encrypted && len(identities) == 0 {
		if _, err := object.CheckStored(strings.NewReader(string(stored))); err != nil {
			return nil, fmt.Errorf("%s: %w", key, err)
		}
		r.Verified = "stored bytes only; an identity is needed to open it"
		return nil, nil
	}
	opened, err := object.Open(stored, identities)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	r.Frames = len(opened.Frames())
	plain, err := opened.Plain()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	r.Verified = "every frame and checksum"
	return plain, r.content(h, plain)
}

func (r *objectReport) header(h object.Header) {
	r.Kind, r.Name, r.Plain, r.Encrypted, r.Generation = h.Kind.String(), h.Name, h.PlainSize, h.Encrypted, h.KeyGeneration
	r.SystemID, r.Timeline, r.WrittenAt = h.SystemID, h.Timeline, moment(h.Time)
	r.WrittenBy = strings.TrimSpace(h.Program + " on " + h.Host + " from " + h.DataDirectory)
	if h.PlainSHA256 != [32]byte{} {
		r.PlainSHA256 = fmt.Sprintf("%x", h.PlainSHA256)
	}
	if h.To != 0 {
		r.From, r.To = wal.LSN(h.From).String(), wal.LSN(h.To).String()
	}
	if h.LastRecord != 0 {
		r.LastRecord = wal.LSN(h.LastRecord).String()
	}
	if h.FirstCommit != 0 {
		r.FirstCommit, r.LastCommit = moment(time.UnixMicro(h.FirstCommit)), moment(time.UnixMicro(h.LastCommit))
	}
	r.Switched = h.Flags&object.FlagSwitch != 0
}

// content adds what the plain bytes say about themselves.
func (r *objectReport) content(h object.Header, plain []byte) error {
	switch h.Kind {
	case object.KindWAL:
		name, err := wal.ParseFileName(h.Name)
		if err != nil {
			return err
		}
		info, err := wal.InspectSegment(plain, name)
		if err != nil {
			return err
		}
		for _, p := range info.RestorePoints {
			r.RestorePoint = append(r.RestorePoint, fmt.Sprintf("%s at %s, %s", p.Name, p.LSN, p.Time.UTC().Format(time.RFC3339Nano)))
		}
	case object.KindManifest:
		line, _, _ := strings.Cut(string(plain), "\n")
		if !json.Valid([]byte(line)) {
			return errors.New("the manifest does not begin with its header line")
		}
		content := json.RawMessage(line)
		r.Content = &content
	}
	return nil
}

func (e *environment) writePlain(to string, plain []byte) error {
	if to == "-" {
		_, err := e.stdout.Write(plain)
		return err
	}
	return writeNew(to, string(plain))
}

func (r *objectReport) print(e *environment, asJSON bool) error {
	if asJSON {
		return e.printJSON(r)
	}
	// The text is the JSON's fields in order, one a line: nothing can be in the one and not in the other.
	encoded, err := json.Marshal(r)
	if err != nil {
		return err
	}
	fields := json.NewDecoder(strings.NewReader(string(encoded)))
	if _, err := fields.Token(); err != nil {
		return err
	}
	for fields.More() {
		name, err := fields.Token()
		if err != nil {
			return err
		}
		var value json.RawMessage
		if err := fields.Decode(&value); err != nil {
			return err
		}
		e.printf("%-16s%s\n", name, strings.Trim(string(value), `"`))
	}
	return nil
}
