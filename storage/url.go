package storage

import (
	"errors"
	"fmt"
	"net/url"
	"path"
	"slices"
	"strings"
)

// URL is a repository address taken apart: "s3://bucket/prefix?endpoint=http://host:9000" or "file:///var/lib/pgstow".
type URL struct {
	Scheme string     // "s3" or "file"
	Bucket string     // s3 only
	Prefix string     // s3 only: below the bucket, without slashes at its ends; may be empty
	Path   string     // file only: absolute, clean
	Query  url.Values // only keys that are known for the scheme, each once
}

// knownQuery lists the query keys of each scheme.
func knownQuery(scheme string) []string {
	if scheme == "s3" {
		return []string{"ca_file", "endpoint", "path_style", "profile", "region"}
	}
	return nil
}

// ParseURL takes a repository address apart. It refuses what it does not know, and credentials, which belong to the
// SDK's own places; its errors do not repeat an address that holds some.
func ParseURL(s string) (URL, error) {
	u, err := url.Parse(s)
	if err != nil {
		var ue *url.Error // its text repeats the address
		if errors.As(err, &ue) {
			err = ue.Err
		}
		return URL{}, fmt.Errorf("repository address: %w", err)
	}
	if u.User != nil {
		return URL{}, errors.New("repository address: holds credentials; give them by environment, profile or role instead")
	}
	if u.Fragment != "" {
		return URL{}, fmt.Errorf("repository address %q: unexpected %q", s, "#"+u.Fragment)
	}
	out := URL{Scheme: u.Scheme}
	switch u.Scheme {
	case "s3":
		err = out.parseS3(u)
	case "file":
		err = out.parseFile(u)
	default:
		err = errors.New("must begin with s3:// or file://")
	}
	if err == nil {
		out.Query, err = parseQuery(u.RawQuery, knownQuery(u.Scheme))
	}
	if err != nil {
		return URL{}, fmt.Errorf("repository address %q: %w", s, err)
	}
	return out, nil
}

func (u *URL) parseS3(in *url.URL) error {
	if in.Host == "" {
		return errors.New("no bucket")
	}
	if in.Port() != "" {
		return errors.New("a bucket has no port; an endpoint is given by ?endpoint=")
	}
	u.Bucket = in.Host
	u.Prefix = strings.Trim(in.Path, "/")
	if u.Prefix == "" {
		return nil
	}
	return CheckKey(u.Prefix)
}

func (u *URL) parseFile(in *url.URL) error {
	if in.Host != "" || in.Opaque != "" || !path.IsAbs(in.Path) {
		return errors.New("the folder must be absolute: file:///folder")
	}
	u.Path = path.Clean(in.Path)
	return nil
}

func parseQuery(raw string, known []string) (url.Values, error) {
	q, err := url.ParseQuery(raw)
	if err != nil {
		return nil, err
	}
	for k, v := range q {
		if !slices.Contains(known, k) {
			return nil, fmt.Errorf("unknown setting %q (known: %s)", k, strings.Join(known, ", "))
		}
		if len(v) != 1 {
			return nil, fmt.Errorf("setting %q is given %d times", k, len(v))
		}
	}
	return q, nil
}

// String is the address again, in its normal form.
func (u URL) String() string {
	out := url.URL{Scheme: u.Scheme, Host: u.Bucket, Path: u.Path, RawQuery: u.Query.Encode()}
	if u.Scheme == "s3" && u.Prefix != "" {
		out.Path = "/" + u.Prefix
	}
	return out.String()
}
