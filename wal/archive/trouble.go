package archive

import (
	"encoding/json"
	"strings"
	"time"
	"unicode"

	"pgstow/wal/spool"
)

// troubleRecord is the spool's record of the last thing that went wrong with storing ahead.
const (
	troubleRecord = "push-trouble"
	// TroubleAge is how long it is kept in mind.
	TroubleAge = 24 * time.Hour
)

// Trouble is the last thing that went wrong while files were stored ahead of the server's asking. The server's own call for the file says more,
// in the server's log.
type Trouble struct {
	Name    string    `json:"name"`
	Text    string    `json:"text"`
	Time    time.Time `json:"time"`
	PGData  string    `json:"pgdata"`
	Cluster string    `json:"cluster"`
}

// maxTrouble bounds the text.
const maxTrouble = 4 << 10

// keepTrouble remembers it. Where the spool cannot be written there is nothing to remember it in.
func (o *PushOptions) keepTrouble(name string, err error) {
	text := err.Error()
	t := Trouble{Name: name, Text: text[:min(len(text), maxTrouble)], Time: o.Now().UTC(), PGData: absolute(o.PGData), Cluster: o.Cluster}
	b, err := json.Marshal(t)
	if err == nil {
		_ = o.Spool.PutRecord(troubleRecord, b, o.Now())
	}
}

// clearTrouble forgets it when it was about the file that is now stored.
func (o *PushOptions) clearTrouble(name string) {
	b, ok := o.Spool.Record(troubleRecord, TroubleAge, o.Now())
	if !ok {
		return
	}
	if t, err := parseTrouble(b); err == nil && t.Name == name {
		o.Spool.Forget(troubleRecord)
	}
}

func parseTrouble(b []byte) (t Trouble, err error) {
	err = json.Unmarshal(b, &t)
	return t, err
}

// Troubles are those of all spools below roots, for `pgstow check`. Anybody may have written them, so they are cleared of what is not text.
func Troubles(now time.Time, roots ...string) (all []Trouble) {
	for _, b := range spool.Records(troubleRecord, TroubleAge, now, roots...) {
		t, err := parseTrouble(b)
		if err != nil {
			continue
		}
		t.Name, t.Text, t.PGData, t.Cluster = printable(t.Name), printable(t.Text), printable(t.PGData), printable(t.Cluster)
		all = append(all, t)
	}
	return all
}

func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, s)
}
