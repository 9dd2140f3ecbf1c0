package spool

import (
	"os"
	"path/filepath"
	"time"
)

// Records returns the payloads of the records of this kind in all spools below roots that this process may read, for a person to see: they may
// be another user's, so nothing must depend on what they say.
func Records(kind string, maxAge time.Duration, now time.Time, roots ...string) (payloads [][]byte) {
	for _, root := range roots {
		folder, err := os.Open(root)
		if err != nil {
			continue
		}
		names, _ := folder.Readdirnames(sweepLimit)
		_ = folder.Close()
		for _, name := range names {
			info, err := os.Lstat(filepath.Join(root, name))
			if err != nil || !info.IsDir() || !isName(name) {
				continue
			}
			if b, ok := (&Spool{dir: filepath.Join(root, name)}).Record(kind, maxAge, now); ok {
				payloads = append(payloads, b)
			}
		}
	}
	return payloads
}
