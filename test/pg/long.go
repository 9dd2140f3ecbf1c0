package pg

import "testing"

// Long leaves a test out of a short run, as `make test-short` is, and says what the test takes: "writes 2 GiB", "half a minute". That is all it is for:
// where something is wanting that a test needs, [Missing] ends it.
func Long(t TB, takes string) {
	t.Helper()
	if testing.Short() {
		t.Skipf("left out of a short run: %s", takes)
	}
}
