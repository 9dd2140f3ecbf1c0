package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
	"github.com/urfave/cli/v2"

	"pgstow/catalog"
	"pgstow/cmd/internal/config"
	"pgstow/storage"
	"pgstow/storage/file"
	"pgstow/storage/s3"
	"pgstow/wal/pgcontrol"
)

func initCommand(e *environment) *cli.Command {
	return leaf(&cli.Command{
		Name:  "init",
		Usage: "make a repository and print the lines for postgresql.conf",
		Description: `Probes the store (conditional PUT, compare-and-swap, read after write, checksums, clock), writes repo.json, and with --pgdata the
cluster's description from its pg_control; no running server is needed. Whether a repository is encrypted is decided here, for ever.
Running it again on the same repository changes nothing and prints the lines again.`,
		Flags: []cli.Flag{
			&cli.StringSliceFlag{Name: "recipient", Usage: "encrypt to this age `RECIPIENT` (pgstow keygen makes one); may be repeated"},
			&cli.BoolFlag{Name: "plain", Usage: "make a repository that is not encrypted"},
			&cli.BoolFlag{Name: "create-bucket", Usage: "create the bucket, or the folder's parents, if missing"},
			&cli.StringFlag{Name: "write-config", Usage: "write the settings to a new `FILE` for --config"},
			jsonFlag(),
		},
		Action: func(c *cli.Context) error {
			if _, err := operands(c); err != nil {
				return err
			}
			conf, err := settings(c, e, false)
			if err != nil {
				return err
			}
			return initRepository(c.Context, e, conf, initOptions{
				recipients: c.StringSlice("recipient"), plain: c.Bool("plain"), create: c.Bool("create-bucket"),
				writeConfig: c.String("write-config"), json: c.Bool("json"),
			})
		},
	}, `pgstow init --repo file:///var/lib/pgstow --cluster main --pgdata /var/lib/postgresql/15/main --plain
pgstow init --repo 's3://backups/pg?region=eu-central-1' --cluster main --recipient age1pq1… --write-config /etc/pgstow/pgstow.toml
`)
}

type initOptions struct {
	recipients  []string
	plain       bool
	create      bool
	writeConfig string
	json        bool
}

func initRepository(ctx context.Context, e *environment, conf *config.Config, o initOptions) error {
	if err := mergeEncryption(conf, o); err != nil {
		return err
	}
	if err := createStore(ctx, conf, o.create); err != nil {
		return err
	}
	store, err := openStore(ctx, e, conf, conf.StoreDeadline)
	if err != nil {
		return err
	}
	pins, err := pinsOf(conf)
	if err != nil {
		return err
	}
	repo, err := catalog.Init(ctx, store, catalog.InitOptions{
		Recipients: conf.Recipients, EncryptionNone: pins.EncryptionNone, Identities: pins.Identities, AllowUnsafe: pins.AllowUnsafe, Probe: probeStore,
	})
	if err != nil {
		return err
	}
	if repo.Unsafe {
		e.message("warning: %s", unsafeWarning)
	}
	report := initReport{Repository: conf.Repo, ID: repo.ID, Encrypted: repo.Encrypted, Cluster: conf.Cluster}
	if conf.PGData != "" {
		if report.SystemID, err = describeCluster(ctx, repo, conf); err != nil {
			return err
		}
	}
	if o.writeConfig != "" {
		if err := writeConfig(o.writeConfig, conf); err != nil {
			return err
		}
		conf.File = o.writeConfig
	}
	if err := report.commands(conf, o.writeConfig != ""); err != nil {
		return err
	}
	report.Recipients = repo.Fingerprints()
	if o.json {
		return e.printJSON(report)
	}
	report.print(e)
	return nil
}

// mergeEncryption settles what the flags and the configuration say about encryption; saying nothing is not a choice.
func mergeEncryption(conf *config.Config, o initOptions) error {
	if len(o.recipients) > 0 {
		if err := conf.Override("recipients", strings.Join(o.recipients, ",")); err != nil {
			return usage("%s", err)
		}
	}
	if o.plain {
		if err := conf.Override("encryption", "none"); err != nil {
			return usage("%s", err)
		}
	}
	switch {
	case conf.Encryption == "none" && len(conf.Recipients) > 0:
		return usage("a repository is either plain or encrypted to recipients, not both")
	case conf.Encryption != "none" && len(conf.Recipients) == 0:
		return usage("decide about encryption, it is for ever: --recipient (pgstow keygen makes one) or --plain")
	}
	return nil
}

// createStore makes the folder of a file repository, and a bucket only when asked for.
func createStore(ctx context.Context, conf *config.Config, create bool) error {
	if conf.Repo == "" {
		return nil // openStore says so
	}
	url, err := storage.ParseURL(conf.Repo)
	if err != nil {
		return usage("%s", err)
	}
	switch {
	case url.Scheme == "file":
		parent := filepath.Dir(url.Path)
		if create {
			if err := os.MkdirAll(parent, 0o755); err != nil {
				return fmt.Errorf("make the folder of the repository: %w", err)
			}
		} else if _, err := os.Stat(parent); err != nil {
			return &catalog.HintError{
				Err:  fmt.Errorf("the folder above %s is missing: %w", url.Path, err),
				Hint: "is it mounted? --create-bucket makes the folders above the repository's too",
			}
		}
		if _, err := file.Create(file.Options{Root: url.Path}); err != nil && !errors.Is(err, storage.ErrExist) {
			return fmt.Errorf("make the repository's folder: %w", err)
		}
	case create:
		options, err := s3.FromURL(url)
		if err != nil {
			return usage("%s", err)
		}
		if err := s3.CreateBucket(ctx, options); err != nil && !errors.Is(err, storage.ErrExist) {
			return fmt.Errorf("create the bucket %s: %w", url.Bucket, err)
		}
	}
	return nil
}

// describeCluster stores cluster.json from pg_control.
func describeCluster(ctx context.Context, repo *catalog.Repository, conf *config.Config) (systemID uint64, err error) {
	control, err := readControl(conf.PGData)
	if err != nil {
		return 0, err
	}
	if _, err := repo.EnsureCluster(ctx, clusterInfo(conf.Cluster, control)); err != nil {
		return 0, err
	}
	return control.SystemID, nil
}

func clusterInfo(name string, control pgcontrol.Control) catalog.ClusterInfo {
	checksums := control.DataChecksumVersion != 0
	return catalog.ClusterInfo{
		Name: name, SystemID: control.SystemID, PostgresMajor: control.Major(), SegmentSize: control.WALSegmentSize, PageSize: control.BlockSize,
		RelSegSize: control.RelSegSize, Checksums: &checksums, Created: time.Now().UTC(), Host: hostname(),
	}
}

func readControl(pgdata string) (pgcontrol.Control, error) {
	path := filepath.Join(pgdata, "global", "pg_control")
	data, err := os.ReadFile(path)
	if err != nil {
		return pgcontrol.Control{}, fmt.Errorf("%s is not a data directory of PostgreSQL that can be read: %w", pgdata, err)
	}
	control, err := pgcontrol.Parse(data)
	if err != nil {
		return pgcontrol.Control{}, fmt.Errorf("read %s: %w", path, err)
	}
	return control, nil
}

// writeConfig writes the settings that decide where bytes go and who can read them.
func writeConfig(path string, conf *config.Config) error {
	absolute, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	values := struct {
		Repo       string   `toml:"repo"`
		Cluster    string   `toml:"cluster"`
		Encryption string   `toml:"encryption,omitempty"`
		Recipients []string `toml:"recipients,omitempty"`
		Spool      string   `toml:"spool,omitempty"`
	}{conf.Repo, conf.Cluster, conf.Encryption, conf.Recipients, conf.Spool}
	var text strings.Builder
	text.WriteString("# Settings of pgstow; the identity that opens an encrypted repository does not belong on this host.\n")
	if err := toml.NewEncoder(&text).Encode(values); err != nil {
		return fmt.Errorf("write the configuration: %w", err)
	}
	out, err := os.OpenFile(absolute, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, os.ErrExist) {
		return fmt.Errorf("%s exists already and is not overwritten", path)
	}
	if err != nil {
		return fmt.Errorf("write the configuration: %w", err)
	}
	_, err = out.WriteString(text.String())
	if closeErr := out.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return fmt.Errorf("write the configuration %s: %w", path, err)
	}
	return nil
}

type initReport struct {
	Repository     string   `json:"repository"`
	ID             string   `json:"id"`
	Encrypted      bool     `json:"encrypted"`
	Recipients     []string `json:"recipients,omitempty"` // fingerprints
	Cluster        string   `json:"cluster"`
	SystemID       uint64   `json:"system_id,string,omitempty"`
	ArchiveCommand string   `json:"archive_command"`
	RestoreCommand string   `json:"restore_command"`
}

func (r *initReport) commands(conf *config.Config, viaFile bool) (err error) {
	if viaFile {
		// The file holds everything; flags would only repeat it.
		only := *conf
		only.Repo, only.Cluster, only.Encryption, only.Recipients, only.Spool = "", "", "", nil, ""
		conf = &only
	}
	if r.ArchiveCommand, err = walCommandLine(conf, "push", "%p"); err != nil {
		return err
	}
	r.RestoreCommand, err = walCommandLine(conf, "fetch", "%f", "%p")
	return err
}

func (r *initReport) print(e *environment) {
	kind := "plain"
	if r.Encrypted {
		kind = "encrypted to " + strings.Join(r.Recipients, ", ")
	}
	e.printf("# repository %s at %s, %s\n", r.ID, r.Repository, kind)
	if r.SystemID != 0 {
		e.printf("# cluster %s, system identifier %d\n", r.Cluster, r.SystemID)
	}
	e.printf("# postgresql.conf:\nwal_level = replica\narchive_mode = on\narchive_command = %s\narchive_timeout = 60\nrestore_command = %s\n",
		confQuote(r.ArchiveCommand), confQuote(r.RestoreCommand))
}
