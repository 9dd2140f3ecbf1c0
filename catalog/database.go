package catalog

import "encoding/json"

// Database is a database of the cluster that a backup is of, as pg_database had it at the backup's end.
type Database struct {
	OID      uint32 `json:"oid"`
	Name     string `json:"-"`                  // see MarshalJSON for names that are not UTF-8
	Template bool   `json:"template,omitempty"` // datistemplate: it cannot be dropped as it is
}

type databaseAlias Database

type databaseWire struct {
	databaseAlias
	Name    string `json:"name,omitempty"`
	NameHex string `json:"name_hex,omitempty"` // instead, if it is not valid UTF-8
}

// MarshalJSON writes name, or name_hex where the name is not valid UTF-8.
func (d Database) MarshalJSON() ([]byte, error) {
	w := databaseWire{databaseAlias: databaseAlias(d)}
	w.Name, w.NameHex = splitRaw(d.Name)
	return json.Marshal(w)
}

// UnmarshalJSON reads either form.
func (d *Database) UnmarshalJSON(b []byte) error {
	var w databaseWire
	if err := json.Unmarshal(b, &w); err != nil {
		return err
	}
	name, err := joinRaw(w.Name, w.NameHex)
	*d = Database(w.databaseAlias)
	d.Name = name
	return err
}
