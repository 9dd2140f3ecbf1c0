package hotpath

import (
	"os"
	"path/filepath"
	"strings"

	"pgstow/wal/spool"
)

// DefaultConfig is the configuration file when neither --config nor PGSTOW_CONFIG names one.
const DefaultConfig = "/etc/pgstow/pgstow.toml"

// DefaultSpool is the folder of spools if it exists (a package makes it for the server's user); else it is the user's cache folder.
const DefaultSpool = "/var/spool/pgstow"

// Place is where the spool of a call lies: the name of its folder and the roots where it may be, in order. Open and create it with
// spool.Open and spool.Create.
type Place struct {
	Name  string
	Roots []string
	// Data is the data directory that the call is about, see [Call.DataDirectory].
	Data string
}

// Spool finds out where the spool of this call lies. Both programs must come to the same answer from the same call, so everything
// comes from the call itself, the environment and the configuration file's bytes. version is the program's.
func (c Call) Spool(version string, environ []string) (Place, error) {
	data, id, err := c.identify(environ)
	if err != nil {
		return Place{}, err
	}
	config, err := c.config(environ)
	if err != nil {
		return Place{}, err
	}
	identity := spool.Identity{
		Program: version, Config: config, AWS: awsFiles(environ), Environ: environ, Flags: c.deciding(), Data: id,
	}
	return Place{Name: identity.Name(), Roots: c.roots(config, environ), Data: data}, nil
}

// config reads the configuration file. A missing default file is an empty one; a missing named one is an error, of which the full
// program will speak.
func (c Call) config(environ []string) ([]byte, error) {
	path := c.value("config", environ)
	if path != "" {
		return os.ReadFile(path)
	}
	b, err := os.ReadFile(DefaultConfig)
	if os.IsNotExist(err) {
		return nil, nil
	}
	return b, err
}

// awsFiles returns the bytes of the files where the SDK finds endpoints, regions and accounts. A key may decide about the tenant in
// which a bucket's name is looked up, so the credentials count too; after a rotation the spool is simply a new one.
func awsFiles(environ []string) [][]byte {
	home := lookup(environ, "HOME")
	var files [][]byte
	for _, f := range []struct{ variable, standard string }{
		{"AWS_CONFIG_FILE", "config"}, {"AWS_SHARED_CREDENTIALS_FILE", "credentials"},
	} {
		path := lookup(environ, f.variable)
		if path == "" && home != "" {
			path = filepath.Join(home, ".aws", f.standard)
		}
		if path == "" {
			files = append(files, nil)
			continue
		}
		b, err := os.ReadFile(path)
		if err != nil {
			b = nil
		}
		files = append(files, b)
	}
	return files
}

// deciding returns the flags that decide where bytes go. The data directory is identified by itself, the configuration file by its
// bytes, and what to do at the end of the archive changes no byte of a whole file.
func (c Call) deciding() []string {
	var flags []string
	for _, f := range c.Flags {
		switch f.Name {
		case "pgdata", "config", "spool", "timeline", "incomplete", "stop-at-hole":
		default:
			flags = append(flags, f.Name+"="+f.Value)
		}
	}
	return flags
}

// Roots lists where the spools of calls with these flags and this environment may be, whatever their data directory.
func (c Call) Roots(environ []string) ([]string, error) {
	config, err := c.config(environ)
	if err != nil {
		return nil, err
	}
	return c.roots(config, environ), nil
}

func (c Call) roots(config []byte, environ []string) []string {
	root := c.value("spool", environ)
	if root == "" {
		root = configured(string(config), "spool")
	}
	if root != "" {
		return []string{root}
	}
	var roots []string
	if _, err := os.Lstat(DefaultSpool); err == nil {
		roots = append(roots, DefaultSpool)
	}
	if cache := lookup(environ, "XDG_CACHE_HOME"); filepath.IsAbs(cache) {
		return append(roots, filepath.Join(cache, "pgstow"))
	}
	if home := lookup(environ, "HOME"); filepath.IsAbs(home) {
		return append(roots, filepath.Join(home, ".cache", "pgstow"))
	}
	return roots
}

// configured finds a top-level key with a plain string in TOML text. It need not understand everything: what it cannot read with
// certainty is "", both programs ask it, and so both look for the spool in the same place.
func configured(text, key string) string {
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "[") || strings.Contains(line, `"""`) || strings.Contains(line, "'''") {
			return ""
		}
		name, value, ok := strings.Cut(line, "=")
		if !ok || strings.TrimSpace(name) != key {
			continue
		}
		value, ok = strings.CutPrefix(strings.TrimSpace(value), `"`)
		if !ok {
			return ""
		}
		value, rest, ok := strings.Cut(value, `"`)
		rest = strings.TrimSpace(rest)
		if !ok || strings.Contains(value, `\`) || rest != "" && !strings.HasPrefix(rest, "#") {
			return ""
		}
		return value
	}
	return ""
}
