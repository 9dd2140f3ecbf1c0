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

// AllMajors are the versions that a test runs on which no version may be left out of: 13 to 18, but for those that PGSTOW_TEST_MAJORS or a short run
// leave out.
func AllMajors(t TB) []int {
	t.Helper()
	if testing.Short() {
		return Majors(t)
	}
	return Majors(t, 13, 14, 15, 16, 17, 18)
}
