package backupmanifest_test

import (
	"hash/crc32"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/quick"

	"pgstow/backup/backupmanifest"
)

func TestKnownChecksum(t *testing.T) {
	// The check value of CRC-32C (RFC 3720's polynomial).
	if got := backupmanifest.Checksum([]byte("123456789")); got != 0xE3069283 {
		t.Errorf("got %08X", got)
	}
}

func TestCombine(t *testing.T) {
	table := crc32.MakeTable(crc32.Castagnoli)
	same := func(a, b []byte) bool {
		whole := crc32.Checksum(append(append([]byte(nil), a...), b...), table)
		return backupmanifest.Combine(crc32.Checksum(a, table), crc32.Checksum(b, table), int64(len(b))) == whole
	}
	if err := quick.Check(same, &quick.Config{MaxCount: 2000}); err != nil {
		t.Error(err)
	}
	if !same(nil, nil) || !same([]byte("a"), nil) || !same(nil, []byte("a")) {
		t.Error("empty parts")
	}
}

// TestSumInAnyOrder cuts random files into random parts, leaves out those that are zero and adds the rest shuffled and in parallel.
func TestSumInAnyOrder(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		size := random.IntN(200_000)
		data := make([]byte, size)
		type part struct{ from, to int }
		var parts []part
		for at := 0; at < size; {
			to := min(size, at+1+random.IntN(20_000))
			if random.IntN(3) > 0 {
				for i := at; i < to; i++ {
					data[i] = byte(random.Uint32())
				}
				parts = append(parts, part{at, to})
			}
			at = to
		}
		random.Shuffle(len(parts), func(i, j int) { parts[i], parts[j] = parts[j], parts[i] })
		var sum backupmanifest.Sum
		var group sync.WaitGroup
		for _, p := range parts {
			group.Go(func() { sum.Add(int64(size), int64(p.from), data[p.from:p.to]) })
		}
		group.Wait()
		if got, want := sum.Checksum(int64(size)), backupmanifest.Checksum(data); got != want {
			t.Fatalf("%d bytes in %d parts: got %08X, want %08X", size, len(parts), got, want)
		}
	}
}

func TestSumOfHugeZeros(t *testing.T) {
	// 1 GiB of zeros without touching them: doubled by Combine from one byte.
	crc, length := backupmanifest.Checksum([]byte{0}), int64(1)
	for length < 1<<30 {
		crc = backupmanifest.Combine(crc, crc, length)
		length *= 2
	}
	var sum backupmanifest.Sum
	if got := sum.Checksum(1 << 30); got != crc {
		t.Errorf("got %08X, want %08X", got, crc)
	}
}
