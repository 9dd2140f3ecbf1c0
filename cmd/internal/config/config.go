// Package config gathers pgstow's settings: flags over environment over one TOML file.
//
// Every key exists in the file under its own name and in the environment as PGSTOW_ and the name in capitals; the few that change per
// call are flags too. A value remembers where it came from, so that `pgstow check` can say why it is what it is.
package config

import (
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
	"github.com/dustin/go-humanize"
)

// DefaultFile is read when neither --config nor PGSTOW_CONFIG names a file; it may be missing.
const DefaultFile = "/etc/pgstow/pgstow.toml"

// EnvPrefix begins the name of every environment variable that is a setting.
const EnvPrefix = "PGSTOW_"

// Config is the effective configuration of one call.
type Config struct {
	File             string        // the TOML file that was read, "" for none
	Repo             string        // URL of the repository: s3://bucket/prefix?endpoint=… or file:///dir
	Cluster          string        // name of the cluster inside the repository
	PGData           string        // data directory, "" if to be found out
	Spool            string        // folder of the spool, "" for the default
	Recipients       []string      // age recipients or their fingerprints that this host accepts
	Encryption       string        // "" or "none": the host accepts a repository in plain text
	IdentityFile     string        // file with age identities, needed to read an encrypted repository
	AllowUnsafeStore bool          // accept a store without conditional PUT
	Compression      string        // "fastest" or "default"
	Workers          int           // parallel workers of backup and restore, 0: one per core
	RateLimit        int64         // bytes per second to and from the store, 0: no limit
	InFlight         int           // requests to the store at once
	PushDeadline     time.Duration // a push gives up after this
	PushAhead        int           // files that are stored at a time before the server asks for them, 0: none
	PushAheadIdle    time.Duration // the worker that does so ends when there was nothing to do for so long
	Prefetch         int           // segments that are fetched at most before recovery asks for them, 0: none
	FetchDeadline    time.Duration // a fetch outside standby mode gives up after this
	StoreDeadline    time.Duration // one store operation of the other commands gives up after this, retries included
	ArchiveTimeout   time.Duration // backup create waits so long for its WAL in the archive
	RefreshAfter     time.Duration // backup create refers to no pack of an earlier backup that is older
	WALProgram       string        // the pgstow-wal that restored servers and printed settings name, "" for the one beside this program

	sources map[string]string
}

// Defaults of the keys that have one.
const (
	DefaultCluster        = "main"
	DefaultInFlight       = 32
	DefaultPushDeadline   = 60 * time.Second
	DefaultPushAhead      = 8
	DefaultPushAheadIdle  = 10 * time.Second
	DefaultPrefetch       = 16
	DefaultFetchDeadline  = 15 * time.Minute
	DefaultStoreDeadline  = 2 * time.Minute
	DefaultArchiveTimeout = 30 * time.Minute
	DefaultRefreshAfter   = 30 * 24 * time.Hour
)

// Setting is one key with its effective value, for display.
type Setting struct {
	Key    string `json:"key"`
	Value  string `json:"value"`
	Source string `json:"source"` // "default", "environment", "flag" or the file's name
}

type key struct {
	name string
	set  func(*Config, string) error
	get  func(*Config) string
}

func stringKey(name string, field func(*Config) *string) key {
	return key{name, func(c *Config, v string) error { *field(c) = v; return nil }, func(c *Config) string { return *field(c) }}
}

func durationKey(name string, field func(*Config) *time.Duration) key {
	return key{name, func(c *Config, v string) error {
		d, err := parseDuration(v)
		if err != nil || d <= 0 {
			return fmt.Errorf("%q is not a duration such as 90s or 15m", v)
		}
		*field(c) = d
		return nil
	}, func(c *Config) string { return durationText(*field(c)) }}
}

const day = 24 * time.Hour

// parseDuration knows whole days, 30d, beside what Go does.
func parseDuration(v string) (time.Duration, error) {
	const most = 100 * 365
	if days, ok := strings.CutSuffix(v, "d"); ok {
		n, err := strconv.Atoi(days)
		if err == nil && n > most {
			err = strconv.ErrRange
		}
		return time.Duration(n) * day, err
	}
	return time.ParseDuration(v)
}

// durationText writes 15m, not 15m0s, and 30d, not 720h0m0s.
func durationText(d time.Duration) string {
	if d >= 2*day && d%day == 0 {
		return strconv.Itoa(int(d/day)) + "d"
	}
	text := d.String()
	if short, ok := strings.CutSuffix(text, "m0s"); ok {
		text = short + "m"
	}
	if short, ok := strings.CutSuffix(text, "h0m"); ok {
		text = short + "h"
	}
	return text
}

func oneOf(name string, field func(*Config) *string, allowed ...string) key {
	return key{name, func(c *Config, v string) error {
		if !slices.Contains(allowed, v) {
			return fmt.Errorf("%q is not one of %s", v, strings.Join(allowed, ", "))
		}
		*field(c) = v
		return nil
	}, func(c *Config) string { return *field(c) }}
}

func countKey(name string, least int, field func(*Config) *int) key {
	return key{name, func(c *Config, v string) error {
		n, err := strconv.Atoi(v)
		if err != nil || n < least {
			return fmt.Errorf("%q is not a number of %d or more", v, least)
		}
		*field(c) = n
		return nil
	}, func(c *Config) string { return strconv.Itoa(*field(c)) }}
}

func keys() []key {
	return []key{
		stringKey("repo", func(c *Config) *string { return &c.Repo }),
		stringKey("cluster", func(c *Config) *string { return &c.Cluster }),
		stringKey("pgdata", func(c *Config) *string { return &c.PGData }),
		stringKey("spool", func(c *Config) *string { return &c.Spool }),
		{"recipients", func(c *Config, v string) error {
			c.Recipients = nil
			for part := range strings.SplitSeq(v, ",") {
				if part = strings.TrimSpace(part); part != "" {
					c.Recipients = append(c.Recipients, part)
				}
			}
			return nil
		}, func(c *Config) string { return strings.Join(c.Recipients, ",") }},
		oneOf("encryption", func(c *Config) *string { return &c.Encryption }, "none", "age"),
		stringKey("identity_file", func(c *Config) *string { return &c.IdentityFile }),
		{"allow_unsafe_store", func(c *Config, v string) (err error) {
			c.AllowUnsafeStore, err = strconv.ParseBool(v)
			if err != nil {
				return fmt.Errorf("%q is neither true nor false", v)
			}
			return nil
		}, func(c *Config) string { return strconv.FormatBool(c.AllowUnsafeStore) }},
		oneOf("compression", func(c *Config) *string { return &c.Compression }, "fastest", "default"),
		countKey("workers", 0, func(c *Config) *int { return &c.Workers }),
		{"rate_limit", func(c *Config, v string) (err error) {
			c.RateLimit, err = ParseBytes(v)
			return err
		}, func(c *Config) string { return strconv.FormatInt(c.RateLimit, 10) }},
		countKey("in_flight", 1, func(c *Config) *int { return &c.InFlight }),
		durationKey("push_deadline", func(c *Config) *time.Duration { return &c.PushDeadline }),
		countKey("push_ahead", 0, func(c *Config) *int { return &c.PushAhead }),
		durationKey("push_ahead_idle", func(c *Config) *time.Duration { return &c.PushAheadIdle }),
		countKey("prefetch", 0, func(c *Config) *int { return &c.Prefetch }),
		durationKey("fetch_deadline", func(c *Config) *time.Duration { return &c.FetchDeadline }),
		durationKey("store_deadline", func(c *Config) *time.Duration { return &c.StoreDeadline }),
		durationKey("archive_timeout", func(c *Config) *time.Duration { return &c.ArchiveTimeout }),
		durationKey("refresh_after", func(c *Config) *time.Duration { return &c.RefreshAfter }),
		stringKey("wal_program", func(c *Config) *string { return &c.WALProgram }),
	}
}

// Sources are the places that Load reads, injected so that a test needs neither a process environment nor /etc.
type Sources struct {
	File    string            // --config; "" means PGSTOW_CONFIG, else DefaultFile if it exists
	Environ []string          // as os.Environ gives it
	Flags   map[string]string // key name to value, only flags that were given
}

// Load merges the sources and returns the configuration with a warning for each key that nobody knows. The caller decides whether a
// warning is fatal: for `wal push` and `wal fetch` it must not be (a stray variable must never stop archiving), elsewhere it is.
func Load(s Sources) (*Config, []string, error) {
	c := &Config{
		Cluster: DefaultCluster, Compression: "fastest", InFlight: DefaultInFlight, PushDeadline: DefaultPushDeadline,
		PushAhead: DefaultPushAhead, PushAheadIdle: DefaultPushAheadIdle, Prefetch: DefaultPrefetch, FetchDeadline: DefaultFetchDeadline,
		StoreDeadline: DefaultStoreDeadline, ArchiveTimeout: DefaultArchiveTimeout, RefreshAfter: DefaultRefreshAfter, sources: map[string]string{},
	}
	environ, path := settingsIn(s.Environ), s.File
	if path == "" {
		path = environ["config"]
	}
	delete(environ, "config")
	var warnings []string
	fromFile, file, err := readFile(path)
	if err != nil {
		return nil, nil, err
	}
	c.File = file
	for _, layer := range []struct {
		source string
		values map[string]string
	}{{file, fromFile}, {"environment", environ}, {"flag", s.Flags}} {
		unknown, err := c.apply(layer.source, layer.values)
		if err != nil {
			return nil, nil, err
		}
		warnings = append(warnings, unknown...)
	}
	return c, warnings, nil
}

func (c *Config) apply(source string, values map[string]string) (warnings []string, err error) {
	left := make(map[string]bool, len(values))
	for name := range values {
		left[name] = true
	}
	for _, k := range keys() {
		value, ok := values[k.name]
		if !ok {
			continue
		}
		delete(left, k.name)
		if err := k.set(c, value); err != nil {
			return nil, fmt.Errorf("%s in %s: %w", display(k.name, source), source, err)
		}
		c.sources[k.name] = source
	}
	for name := range left {
		warnings = append(warnings, fmt.Sprintf("%s in %s is not a setting of pgstow", display(name, source), source))
	}
	sort.Strings(warnings)
	return warnings, nil
}

func display(name, source string) string {
	switch source {
	case "environment":
		return EnvPrefix + strings.ToUpper(name)
	case "flag":
		return "--" + strings.ReplaceAll(name, "_", "-")
	default:
		return name
	}
}

func settingsIn(environ []string) map[string]string {
	values := map[string]string{}
	for _, entry := range environ {
		name, value, ok := strings.Cut(entry, "=")
		if rest, isOurs := strings.CutPrefix(name, EnvPrefix); ok && isOurs {
			values[strings.ToLower(rest)] = value
		}
	}
	return values
}

func readFile(path string) (map[string]string, string, error) {
	optional := path == ""
	if optional {
		path = DefaultFile
	}
	data, err := os.ReadFile(path)
	if optional && errors.Is(err, os.ErrNotExist) {
		return nil, "", nil
	}
	if err != nil {
		return nil, "", fmt.Errorf("read the configuration: %w", err)
	}
	var raw map[string]any
	if err := toml.Unmarshal(data, &raw); err != nil {
		return nil, "", fmt.Errorf("read the configuration %s: %w", path, err)
	}
	values := make(map[string]string, len(raw))
	for name, value := range raw {
		text, err := asText(value)
		if err != nil {
			return nil, "", fmt.Errorf("%s in %s: %w", name, path, err)
		}
		values[name] = text
	}
	return values, path, nil
}

func asText(value any) (string, error) {
	switch v := value.(type) {
	case string:
		return v, nil
	case bool:
		return strconv.FormatBool(v), nil
	case int64:
		return strconv.FormatInt(v, 10), nil
	case []any:
		parts := make([]string, len(v))
		for i, element := range v {
			text, ok := element.(string)
			if !ok {
				return "", fmt.Errorf("a list of strings is wanted, this has %v", element)
			}
			parts[i] = text
		}
		return strings.Join(parts, ","), nil
	default:
		return "", fmt.Errorf("a string, number, boolean or list of strings is wanted, not %T", value)
	}
}

// Settings returns every key with its value and its source, in the order of the documentation.
func (c *Config) Settings() []Setting {
	var all []Setting
	for _, k := range keys() {
		source := c.sources[k.name]
		if source == "" {
			source = "default"
		}
		all = append(all, Setting{Key: k.name, Value: k.get(c), Source: source})
	}
	return all
}

// Override sets a key as its flag would: for a command that has options of its own for what is also a setting.
func (c *Config) Override(name, value string) error {
	_, err := c.apply("flag", map[string]string{name: value})
	return err
}

// Source tells where a key's value came from: "default", "environment", "flag" or the file's name.
func (c *Config) Source(name string) string {
	if source := c.sources[name]; source != "" {
		return source
	}
	return "default"
}

// ParseBytes reads a size such as 50MiB, 1GB or 1048576; binary and decimal units are told apart as their names say.
func ParseBytes(s string) (int64, error) {
	n, err := humanize.ParseBytes(s)
	if err != nil || n > math.MaxInt64 {
		return 0, fmt.Errorf("%q is not a size such as 50MiB or 1GB", s)
	}
	return int64(n), nil
}
