package spool_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"pgstow/wal/spool"
)

func TestOpenCreatesNothing(t *testing.T) {
	root := filepath.Join(t.TempDir(), "root")
	if _, err := spool.Open(name, root); !errors.Is(err, spool.ErrNone) {
		t.Fatalf("got %v", err)
	}
	if _, err := os.Lstat(root); !os.IsNotExist(err) {
		t.Fatal("Open made the root")
	}
	s, err := spool.Create(name, root)
	if err != nil {
		t.Fatal(err)
	}
	again, err := spool.Open(name, root)
	if err != nil || again.Dir() != s.Dir() {
		t.Fatalf("got %v, %v", again.Dir(), err)
	}
	info, err := os.Stat(s.Dir())
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Fatalf("mode %v, error %v", info.Mode(), err)
	}
}

func TestRootsInOrder(t *testing.T) {
	dir := t.TempDir()
	blocked := filepath.Join(dir, "file")
	write(t, blocked, nil)
	second := filepath.Join(dir, "second")
	s, err := spool.Create(name, blocked, second)
	if err != nil || filepath.Dir(s.Dir()) != second {
		t.Fatalf("created %q, %v", s.Dir(), err)
	}
	s, err = spool.Open(name, blocked, second)
	if err != nil || filepath.Dir(s.Dir()) != second {
		t.Fatalf("opened %q, %v", s.Dir(), err)
	}
	if _, err := spool.Create(name, "relative/path"); err == nil {
		t.Fatal("a relative root is taken")
	}
	if _, err := spool.Create(name); err == nil {
		t.Fatal("no root is enough")
	}
}

func TestUnsafeFoldersAreRefused(t *testing.T) {
	must := func(err error) {
		if err != nil {
			t.Helper()
			t.Fatal(err)
		}
	}
	cases := []struct {
		name string
		do   func(root, dir string)
		root bool // only root can set this up
	}{
		{"readable by others", func(_, dir string) { must(os.Chmod(dir, 0o750)) }, false},
		{"setgid", func(_, dir string) { must(os.Chmod(dir, 0o700|os.ModeSetgid)) }, false},
		{"a link", func(root, dir string) {
			must(os.Rename(dir, filepath.Join(root, "real")))
			must(os.Symlink("real", dir))
		}, false},
		{"a file", func(_, dir string) {
			must(os.Remove(dir))
			must(os.WriteFile(dir, nil, 0o700))
		}, false},
		{"of another user", func(_, dir string) { must(os.Chown(dir, 12345, -1)) }, true},
		{"below a root of another user", func(root, _ string) { must(os.Chown(root, 12345, -1)) }, true},
		{"below a root that others write", func(root, _ string) { must(os.Chmod(root, 0o777)) }, false},
		{"below a link", func(root, _ string) {
			must(os.Rename(root, root+"-real"))
			must(os.Symlink(root+"-real", root))
		}, false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if c.root && os.Geteuid() != 0 {
				t.Skip("only root can give files away")
			}
			s, root := create(t)
			if err := s.MarkStored(segmentName, spool.FileID{Size: 1}); err != nil {
				t.Fatal(err)
			}
			if c.name == "a file" {
				must(os.Remove(filepath.Join(s.Dir(), "marks")))
			}
			c.do(root, s.Dir())
			var refused *spool.UnsafeError
			if _, err := spool.Open(name, root); !errors.As(err, &refused) {
				t.Errorf("Open: %v", err)
			}
			if _, err := spool.Create(name, root); !errors.As(err, &refused) {
				t.Errorf("Create: %v", err)
			}
		})
	}
	t.Run("below a sticky root", func(t *testing.T) {
		_, root := create(t)
		must(os.Chmod(root, 0o777|os.ModeSticky))
		if _, err := spool.Open(name, root); err != nil {
			t.Errorf("refused: %v", err)
		}
	})
}

func TestCreateSweepsWhatNobodyUses(t *testing.T) {
	_, root := create(t)
	old := time.Now().Add(-48 * time.Hour)
	make := func(folder string, mode os.FileMode, mark bool) string {
		dir := filepath.Join(root, folder)
		if err := os.Mkdir(dir, mode); err != nil {
			t.Fatal(err)
		}
		if mark {
			write(t, filepath.Join(dir, "marks"), nil)
		}
		if err := os.Chtimes(dir, old, old); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	gone := make("00000000000000000000000000000001", 0o700, false)
	used := make("00000000000000000000000000000002", 0o700, true)
	foreign := make("not-a-spool", 0o700, false)
	open := make("00000000000000000000000000000003", 0o755, false)
	if _, err := spool.Create("00000000000000000000000000000004", root); err != nil {
		t.Fatal(err)
	}
	for dir, want := range map[string]bool{gone: false, used: true, foreign: true, open: true, filepath.Join(root, name): true} {
		if _, err := os.Lstat(dir); (err == nil) != want {
			t.Errorf("%s: %v, want it kept: %v", filepath.Base(dir), err, want)
		}
	}
}

func TestCreateSweepsTemporaryFiles(t *testing.T) {
	s, root := create(t)
	old := time.Now().Add(-2 * time.Hour)
	left, young := filepath.Join(s.Dir(), ".new-1"), filepath.Join(s.Dir(), ".new-2")
	write(t, left, []byte("left by a killed writer"))
	write(t, young, []byte("being written"))
	if err := os.Chtimes(left, old, old); err != nil {
		t.Fatal(err)
	}
	if _, err := spool.Create(name, root); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(left); !os.IsNotExist(err) {
		t.Errorf("the old one is still there: %v", err)
	}
	if _, err := os.Lstat(young); err != nil {
		t.Errorf("the young one is gone: %v", err)
	}
}

func TestIdentity(t *testing.T) {
	base := func() spool.Identity {
		return spool.Identity{
			Program: "1.0", Config: []byte("repo = 'a'"), AWS: [][]byte{[]byte("x"), nil},
			Environ: []string{"PGSTOW_REPO=a", "AWS_PROFILE=p", "HOME=/root"}, Flags: []string{"repo=a"},
			Data: spool.DataDirectory{Device: 1, Inode: 2, SystemID: [8]byte{3}},
		}
	}
	want := base().Name()
	if len(want) != 32 {
		t.Fatalf("name %q", want)
	}
	same := base()
	same.Environ = []string{"AWS_PROFILE=p", "HOME=/elsewhere", "PATH=/bin", "PGSTOW_REPO=a"}
	if same.Name() != want {
		t.Error("order or unrelated variables change the name")
	}
	seen := map[string]string{want: "nothing"}
	for what, change := range map[string]func(*spool.Identity){
		"program":           func(i *spool.Identity) { i.Program = "1.1" },
		"config":            func(i *spool.Identity) { i.Config = append(i.Config, ' ') },
		"aws":               func(i *spool.Identity) { i.AWS[1] = []byte("y") },
		"aws files swapped": func(i *spool.Identity) { i.AWS = [][]byte{nil, []byte("x")} },
		"environment":       func(i *spool.Identity) { i.Environ[0] = "PGSTOW_REPO=b" },
		"aws environment":   func(i *spool.Identity) { i.Environ = append(i.Environ, "AWS_ENDPOINT_URL=http://x") },
		"flag":              func(i *spool.Identity) { i.Flags = []string{"repo=b"} },
		"flag cut":          func(i *spool.Identity) { i.Flags = []string{"repo=", "a"} },
		"no flag":           func(i *spool.Identity) { i.Flags = nil },
		"device":            func(i *spool.Identity) { i.Data.Device++ },
		"inode":             func(i *spool.Identity) { i.Data.Inode++ },
		"system id":         func(i *spool.Identity) { i.Data.SystemID[7]++ },
	} {
		i := base()
		change(&i)
		if other, clash := seen[i.Name()]; clash {
			t.Errorf("%s and %s give the same name", what, other)
		}
		seen[i.Name()] = what
	}
}

func TestIdentifyData(t *testing.T) {
	dir := t.TempDir()
	if _, err := spool.IdentifyData(dir); !errors.Is(err, spool.ErrNoDataDirectory) {
		t.Fatalf("an empty folder: %v", err)
	}
	if err := os.Mkdir(filepath.Join(dir, "global"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := spool.IdentifyData(dir); !errors.Is(err, spool.ErrNoDataDirectory) {
		t.Fatalf("without pg_control: %v", err)
	}
	control := filepath.Join(dir, "global", "pg_control")
	write(t, control, []byte("1234"))
	if _, err := spool.IdentifyData(dir); err == nil {
		t.Fatal("a short pg_control is taken")
	}
	write(t, control, []byte("12345678 and more"))
	id, err := spool.IdentifyData(dir)
	if err != nil || string(id.SystemID[:]) != "12345678" || id.Inode == 0 {
		t.Fatalf("got %+v, %v", id, err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	if other, err := spool.IdentifyData(link); err != nil || other != id {
		t.Fatalf("through a link: %+v, %v", other, err)
	}
}
