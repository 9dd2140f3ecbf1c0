package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/urfave/cli/v2"

	"pgstow/catalog"
	"pgstow/cmd/internal/config"
	"pgstow/storage/object"
)

// finding is one line of `pgstow check`.
type finding struct {
	Level string `json:"level"` // "ok", "warning" or "failed"
	What  string `json:"what"`
	Text  string `json:"text"`
	Hint  string `json:"hint,omitempty"` // what to do
}

type checkReport struct {
	Settings []config.Setting `json:"settings"`
	Findings []finding        `json:"findings"`
}

func (r *checkReport) ok(what, format string, args ...any)   { r.add("ok", what, format, args...) }
func (r *checkReport) warn(what, format string, args ...any) { r.add("warning", what, format, args...) }
func (r *checkReport) fail(what, format string, args ...any) { r.add("failed", what, format, args...) }

func (r *checkReport) add(level, what, format string, args ...any) {
	r.Findings = append(r.Findings, finding{Level: level, What: what, Text: fmt.Sprintf(format, args...)})
}

// hint says what to do about the last finding.
func (r *checkReport) hint(format string, args ...any) {
	r.Findings[len(r.Findings)-1].Hint = fmt.Sprintf(format, args...)
}

func (r *checkReport) failures() (n int) {
	for _, f := range r.Findings {
		if f.Level == "failed" {
			n++
		}
	}
	return n
}

func checkCommand(e *environment) *cli.Command {
	return leaf(&cli.Command{
		Name:  "check",
		Usage: "prove that archiving and backup work, end to end",
		Description: `Shows each setting and where it comes from, probes the store, looks for holes in the archive and at the age of the newest backup, and, where
the server can be reached as libpq reaches it, at what waits to be archived, the space for it and the replication slots, has the server switch
to a new segment and waits until that arrives in this very repository. Exit status 1 if anything failed.`,
		Flags: []cli.Flag{
			systemIDFlag(), jsonFlag(),
			&cli.BoolFlag{Name: "no-switch", Usage: "do not make the server switch to a new segment"},
			&cli.BoolFlag{Name: "no-server", Usage: "look at the repository only"},
			&cli.DurationFlag{Name: "wait", Value: time.Minute, Usage: "wait so long for the switched segment"},
			&cli.StringFlag{Name: "slot", Usage: "the replication `SLOT` of pgstow wal receive, if its name does not begin with pgstow"},
			&cli.DurationFlag{Name: "max-backup-age", Usage: "fail if the newest backup is older"},
		},
		Action: func(c *cli.Context) error {
			if _, err := operands(c); err != nil {
				return err
			}
			conf, err := settings(c, e, false)
			if err != nil {
				return err
			}
			report := checkReport{Settings: conf.Settings()}
			if err := checkAll(c, e, conf, &report); err != nil {
				report.fail("repository", "%s", err)
			}
			if c.Bool("json") {
				err = e.printJSON(report)
			} else {
				report.print(e)
			}
			if n := report.failures(); err == nil && n > 0 {
				return fmt.Errorf("%d of %d checks failed", n, len(report.Findings))
			}
			return err
		},
	}, `pgstow check
pgstow check --no-server --max-backup-age 26h --json
`)
}

func (r *checkReport) print(e *environment) {
	t := e.newTable("setting", "value", "from")
	for _, s := range r.Settings {
		t.AppendRow([]any{s.Key, s.Value, s.Source})
	}
	t.Render()
	e.printf("\n")
	for _, f := range r.Findings {
		e.printf("%-8s %-12s %s\n", f.Level, f.What, f.Text)
		if f.Hint != "" {
			e.printf("%-8s %-12s hint: %s\n", "", "", f.Hint)
		}
	}
}

func checkAll(c *cli.Context, e *environment, conf *config.Config, r *checkReport) error {
	repo, err := openRepository(c.Context, e, conf)
	if err != nil {
		return err
	}
	r.ok("repository", "%s, %s", repo.ID, encryptionText(repo))
	checkProbe(c.Context, repo, r)
	checkIdentity(repo, r)
	var server *serverFacts
	if !c.Bool("no-server") {
		server = checkServer(c, conf, repo, r)
	}
	checkAhead(e, conf, r)
	infos, err := clusters(c.Context, c, repo, conf)
	if errors.Is(err, catalog.ErrNoCluster) {
		r.fail("cluster", "%s", err)
		return nil
	}
	if err != nil {
		return err
	}
	if len(infos) > 1 {
		r.warn("cluster", "%d servers bear the name %s; restore will ask which is meant", len(infos), conf.Cluster)
	}
	for _, info := range infos {
		if err := checkCluster(c, repo, info, server, r); err != nil {
			return err
		}
	}
	return nil
}

func encryptionText(repo *catalog.Repository) string {
	if !repo.Encrypted {
		return "not encrypted"
	}
	return fmt.Sprintf("encrypted to %s, key generation %d", strings.Join(repo.Fingerprints(), ", "), repo.Generation)
}

func checkProbe(ctx context.Context, repo *catalog.Repository, r *checkReport) {
	found, err := probeStore(ctx, repo.Store, "repo/probe")
	if err != nil {
		r.fail("store", "probe: %s", err)
		return
	}
	for _, p := range []struct {
		ok   bool
		name string
	}{
		{found.ConditionalPut, "conditional PUT"}, {found.CompareAndSwap, "compare-and-swap"}, {found.ReadAfterWrite, "read after write"},
		{found.ListAfterWrite, "list after write"},
	} {
		if p.ok {
			r.ok("store", "%s", p.name)
		} else {
			r.fail("store", "no %s", p.name)
		}
	}
	if d := found.ClockDifference.Abs(); d > 5*time.Minute {
		r.fail("clock", "the store's clock and this host's differ by %s", d)
	} else {
		r.ok("clock", "within %s of the store's", max(d.Round(time.Second), time.Second))
	}
	if repo.ProbeStale() {
		r.warn("store", "the address differs from the one that init probed (%s)", repo.Probe.Store)
	}
}

// checkIdentity proves, where an identity is at hand, that it opens what is encrypted now.
func checkIdentity(repo *catalog.Repository, r *checkReport) {
	if !repo.Encrypted {
		return
	}
	if len(repo.Identities()) == 0 {
		r.ok("identity", "none on this host: it can push and back up, not restore")
		return
	}
	const secret = "pgstow check"
	stored, err := object.EncodeAll(repo.WriterOptions(), object.Header{Kind: object.KindHistory, Name: "check", Time: time.Now()}, []byte(secret))
	if err != nil {
		r.fail("identity", "encrypt: %s", err)
		return
	}
	opened, err := object.Open(stored, repo.Identities())
	if err != nil {
		r.fail("identity", "the identity at hand does not open what is encrypted to the repository's recipients: %s", err)
		return
	}
	if plain, err := opened.Plain(); err != nil || string(plain) != secret {
		r.fail("identity", "decrypt: %v", err)
		return
	}
	r.ok("identity", "opens what is encrypted now")
}

func checkCluster(c *cli.Context, repo *catalog.Repository, info catalog.ClusterInfo, server *serverFacts, r *checkReport) error {
	ref, now := info.Ref(), time.Now()
	index, err := repo.ListWAL(c.Context, ref, info.SegmentSize)
	if err != nil {
		return err
	}
	if server != nil && server.systemID != strconv.FormatUint(ref.SystemID, 10) {
		server = nil // of another one of that name
	}
	list, err := repo.Backups(c.Context, ref)
	if err != nil {
		return err
	}
	facts := catalog.Facts{WAL: index, Backups: list}
	if facts.Histories, facts.Unread, err = repo.Histories(c.Context, index); err != nil {
		r.fail("wal", "%s", err)
	}
	checkWAL(facts, server, now, r)
	if len(list) == 0 {
		r.fail("backup", "%s has none: nothing can be restored", ref)
		return nil
	}
	newest := list[len(list)-1]
	age, limit := now.Sub(newest.StoppedAt), c.Duration("max-backup-age")
	text := fmt.Sprintf("%s, %s", newest.ID, humanize.RelTime(newest.StoppedAt, now, "ago", "from now"))
	if limit > 0 && age > limit {
		r.fail("backup", "%s: older than %s", text, limit)
	} else {
		r.ok("backup", "%s", text)
	}
	if newest.Damaged > 0 {
		r.warn("backup", "%s holds %d damaged pages", newest.ID, newest.Damaged)
	}
	return nil
}
