package catalog

import (
	"fmt"
	"slices"
	"strings"

	"pgstow/storage/object"
)

// Fingerprints are those of the repository's recipients: what a host may pin instead of the long strings.
func (r *Repository) Fingerprints() []string {
	f := make([]string, len(r.Recipients))
	for i, s := range r.Recipients {
		f[i] = object.Fingerprint(s)
	}
	return f
}

// checkPins compares what the bucket says with what the host says (RULES-archive C2).
func checkPins(r *Repository, pins Pins) error {
	have := r.Fingerprints()
	switch {
	case len(pins.Recipients) > 0 && pins.EncryptionNone:
		return hint(fmt.Errorf("recipients and encryption = \"none\" are both set: %w", ErrRecipients), "remove one of the two")
	case r.Encrypted && len(have) == 0:
		return hint(fmt.Errorf("repository is encrypted but generation %d has no recipients: %w", r.Generation, ErrRecipients),
			"somebody wrote %s without pgstow: find out who", generationKey(r.Generation))
	case !r.Encrypted && len(have) > 0:
		return hint(fmt.Errorf("repository is not encrypted but generation %d has recipients: %w", r.Generation, ErrRecipients),
			"somebody wrote %s without pgstow: find out who", generationKey(r.Generation))
	case pins.EncryptionNone && r.Encrypted:
		return hint(fmt.Errorf("encryption = \"none\" is set but the repository is encrypted: %w", ErrRecipients),
			"set recipients = [%s], if these are yours", quoteAll(have))
	case pins.EncryptionNone:
		return nil
	case len(pins.Recipients) == 0 && r.Encrypted:
		return hint(fmt.Errorf("repository is encrypted but this host pins no recipients: %w", ErrRecipients),
			"set recipients = [%s], if these are yours", quoteAll(have))
	case len(pins.Recipients) == 0:
		return hint(fmt.Errorf("repository is not encrypted, which this host does not allow: %w", ErrRecipients),
			"set encryption = \"none\", if plain backups are what you want")
	case !r.Encrypted:
		return hint(fmt.Errorf("recipients are set but the repository is not encrypted: %w", ErrRecipients),
			"a repository is encrypted from pgstow init on or never: make a new one, or set encryption = \"none\"")
	}
	return compareRecipients(have, pins.Recipients, r.Generation)
}

func compareRecipients(have, pinned []string, generation int) error {
	want := make([]string, len(pinned))
	for i, p := range pinned {
		want[i] = strings.TrimSpace(p)
		if strings.HasPrefix(want[i], "age1") {
			want[i] = object.Fingerprint(want[i])
		}
	}
	unknown := without(have, want)
	missing := without(want, have)
	if len(unknown) == 0 && len(missing) == 0 {
		return nil
	}
	what := fmt.Sprintf("generation %d", generation)
	if len(unknown) > 0 {
		what += " has recipients that this host does not pin: " + strings.Join(unknown, ", ")
	}
	if len(missing) > 0 {
		if len(unknown) > 0 {
			what += ", and"
		}
		what += " lacks pinned recipients: " + strings.Join(missing, ", ")
	}
	return hint(fmt.Errorf("%s: %w", what, ErrRecipients),
		"if the change is yours set recipients = [%s]; if not, somebody else can read what is written from now on", quoteAll(have))
}

// without returns what is in a and not in b.
func without(a, b []string) []string {
	var out []string
	for _, s := range a {
		if !slices.Contains(b, s) && !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

func quoteAll(list []string) string {
	q := make([]string, len(list))
	for i, s := range list {
		q[i] = fmt.Sprintf("%q", s)
	}
	return strings.Join(q, ", ")
}
