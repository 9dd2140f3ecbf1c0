// Command bench times whole runs of pgstow against a baseline beside them, on real servers: A, B, A, B, …, and prints the ratios of their
// medians. `make bench` runs it.
//
// The baselines are what a careful administrator would type: `tar | zstd -1 -T2` and back, both ended by a sync, since pgstow's own
// result is on stable storage when it ends.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"pgstow/test/pg"
)

type bench struct {
	*pg.Standalone
	bin    string // folder of pgstow and pgstow-wal that the server's user can run
	self   string // this program, that it can run too
	scale  int
	rounds int
	only   []string
	rows   []row

	repositories int // made so far
}

func main() {
	if len(os.Args) == 3 && (os.Args[1] == "sink" || os.Args[1] == "source") {
		if err := transfer(os.Args[1], os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	if len(os.Args) > 1 && slices.Contains([]string{"drain", "gather", "decode"}, os.Args[1]) {
		if err := walBaseline(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	b := &bench{Standalone: &pg.Standalone{Out: os.Stderr}}
	flag.IntVar(&b.scale, "scale", 160, "pgbench scale; 160 is about 2.4 GB")
	flag.IntVar(&b.rounds, "rounds", 5, "pairs of runs")
	only := flag.String("only", "push,file,minio", "what to time, comma separated: push, file, minio, wal-push, wal-fetch, recovery, receive")
	flag.Parse()
	b.only = strings.Split(*only, ",")
	if !b.Run(b.all) {
		os.Exit(1)
	}
	b.print()
}

func (b *bench) ctx() context.Context { return context.Background() }

func (b *bench) wanted(name string) bool {
	for _, o := range b.only {
		if o == name {
			return true
		}
	}
	return false
}

func (b *bench) all() {
	b.bin = filepath.Dir(pg.Binary(b, "pgstow"))
	b.self = b.publishSelf()
	if b.wanted("push") {
		b.push()
	}
	if b.walWanted() {
		b.wal()
	}
	if b.wanted("file") || b.wanted("minio") {
		b.physical()
	}
}

// publishSelf copies this program to where the server's user can run it.
func (b *bench) publishSelf() string {
	own, err := os.Executable()
	if err != nil {
		b.Fatalf("find this program: %v", err)
	}
	data, err := os.ReadFile(own)
	if err != nil {
		b.Fatalf("read this program: %v", err)
	}
	to := filepath.Join(pg.TempDir(b), "bench")
	if err := os.WriteFile(to, data, 0o755); err != nil {
		b.Fatalf("copy this program: %v", err)
	}
	return to
}
