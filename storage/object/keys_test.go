package object_test

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"

	"pgstow/storage/object"
)

func TestGenerateIdentity(t *testing.T) {
	identity, recipient, err := object.GenerateIdentity()
	must(t, err)
	if !strings.HasPrefix(identity, "AGE-SECRET-KEY-PQ-1") || !strings.HasPrefix(recipient, "age1pq1") {
		t.Errorf("%.20s and %.20s are not hybrid", identity, recipient)
	}
	to, err := object.ParseRecipients([]string{recipient})
	must(t, err)
	ids, err := object.ParseIdentities(strings.NewReader("# created: now\n\n" + identity + "\n"))
	must(t, err)
	if r, ok := object.RecipientOf(ids[0]); !ok || r != recipient {
		t.Errorf("recipient of the identity: %.20s, %v", r, ok)
	}
	stored, err := object.EncodeAll(object.WriterOptions{Recipients: to}, sample, []byte("secret"))
	must(t, err)
	if got, err := readers["open"](stored, ids); err != nil || string(got) != "secret" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestParseRecipients(t *testing.T) {
	classic, _ := object.RecipientOf(x25519ID.id)
	other, _ := object.RecipientOf(x25519Else.id)
	hybrid, _ := object.RecipientOf(hybridID.id)
	for _, tt := range []struct {
		name string
		in   []string
		ok   bool
	}{
		{"classic", []string{classic}, true},
		{"two", []string{classic, other}, true},
		{"hybrid", []string{hybrid}, true},
		{"space and capitals", []string{" " + strings.ToUpper(classic) + "\n"}, true},
		{"none", nil, false},
		{"empty", []string{""}, false},
		{"twice", []string{classic, strings.ToUpper(classic)}, false},
		{"mixed", []string{classic, hybrid}, false},
		{"cut", []string{classic[:len(classic)-1]}, false},
		{"cut hybrid", []string{hybrid[:len(hybrid)-1]}, false},
		{"secret", []string{x25519ID.text}, false},
		{"secret hybrid", []string{hybridID.text}, false},
		{"ssh", []string{"ssh-ed25519 AAAA"}, false},
	} {
		got, err := object.ParseRecipients(tt.in)
		if (err == nil) != tt.ok || tt.ok && len(got) != len(tt.in) {
			t.Errorf("%s: %d recipients, %v", tt.name, len(got), err)
		}
		for _, s := range tt.in {
			if s = strings.ToLower(s); err != nil && len(s) > 20 && strings.Contains(strings.ToLower(err.Error()), s[10:20]) {
				t.Errorf("%s: the error shows the key: %v", tt.name, err)
			}
		}
	}
}

func TestParseIdentities(t *testing.T) {
	ids, err := object.ParseIdentities(strings.NewReader(x25519ID.text + "\n# second\n" + hybridID.text))
	if err != nil || len(ids) != 2 {
		t.Errorf("%d identities, %v", len(ids), err)
	}
	classic, _ := object.RecipientOf(x25519ID.id)
	for _, bad := range []string{"", "# nothing\n", "AGE-SECRET-KEY-1QQ", classic, "x"} {
		if _, err := object.ParseIdentities(strings.NewReader(bad)); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}

func TestFingerprint(t *testing.T) {
	classic, _ := object.RecipientOf(x25519ID.id)
	other, _ := object.RecipientOf(x25519Else.id)
	want := fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(classic)))
	if got := object.Fingerprint(" " + strings.ToUpper(classic) + "\n"); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if object.Fingerprint(other) == want {
		t.Error("two recipients, one fingerprint")
	}
}

func TestLevel(t *testing.T) {
	for _, l := range []object.Level{object.LevelFastest, object.LevelDefault} {
		if got, err := object.ParseLevel(l.String()); err != nil || got != l {
			t.Errorf("%v: got %v, %v", l, got, err)
		}
	}
	if _, err := object.ParseLevel("best"); err == nil {
		t.Error("best: no error")
	}
}
