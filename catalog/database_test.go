package catalog_test

import (
	"encoding/json"
	"testing"

	"pgstow/catalog"
)

func TestDatabaseJSON(t *testing.T) {
	for want, d := range map[string]catalog.Database{
		`{"oid":5,"name":"postgres"}`:                    {OID: 5, Name: "postgres"},
		`{"oid":16384,"template":true,"name":"ä \"b\""}`: {OID: 16384, Name: `ä "b"`, Template: true},
		`{"oid":7,"name_hex":"e461"}`:                    {OID: 7, Name: "\xe4a"},
	} {
		b, err := json.Marshal(d)
		if err != nil || string(b) != want {
			t.Errorf("%s, want %s, %v", b, want, err)
		}
		var back catalog.Database
		if err := json.Unmarshal(b, &back); err != nil || back != d {
			t.Errorf("%s: %+v, %v", b, back, err)
		}
	}
	if err := json.Unmarshal([]byte(`{"oid":1,"name":"a","name_hex":"61"}`), new(catalog.Database)); err == nil {
		t.Error("both forms of a name were accepted")
	}
}
