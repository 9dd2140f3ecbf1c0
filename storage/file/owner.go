package file

import (
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"pgstow/storage"
)

// pattern is what every new file and folder takes from the root: its owner, group and mode. Otherwise a command that
// root runs once would leave folders into which the server's archive_command cannot write.
type pattern struct {
	uid, gid int
	dir      fs.FileMode // permissions and set-group-id
	file     fs.FileMode // the same without execution
}

func patternOf(r *os.Root) (pattern, error) {
	info, err := r.Stat(".")
	if err != nil {
		return pattern{}, err
	}
	p := pattern{dir: info.Mode() & (fs.ModePerm | fs.ModeSetgid), file: info.Mode() & 0o666}
	p.uid, p.gid = owner(info)
	return p, nil
}

func owner(info fs.FileInfo) (uid, gid int) {
	st := info.Sys().(*syscall.Stat_t)
	return int(st.Uid), int(st.Gid)
}

// applyTo gives f the owner and group of the pattern and the mode. It refuses to leave a file that is not as the others.
func (p pattern) applyTo(f *os.File, mode fs.FileMode) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if uid, gid := owner(info); uid != p.uid || gid != p.gid {
		if err := f.Chown(p.uid, p.gid); err != nil {
			return fmt.Errorf("%w: files in this store belong to user %d, group %d, and this process (user %d) may not create "+
				"such files; run it as that user: %w", storage.ErrPermission, p.uid, p.gid, os.Geteuid(), err)
		}
		if info, err = f.Stat(); err != nil { // chown may clear set-group-id
			return err
		}
	}
	if info.Mode()&(fs.ModePerm|fs.ModeSetgid) == mode {
		return nil
	}
	return f.Chmod(mode)
}

// mkdir makes one folder. It returns nil if the name exists, as whatever.
func (p pattern) mkdir(r *os.Root, name string) error {
	// A process of another user (root) must not show the folder under its final name before its owner can use it.
	made := name
	if os.Geteuid() != p.uid && name != tmpDir {
		if _, err := r.Lstat(name); err == nil {
			return nil
		}
		made = tmpName()
	}
	switch err := r.Mkdir(made, 0o700); {
	case os.IsExist(err):
		return nil
	case err != nil:
		return err
	}
	err := p.finish(r, made, name)
	if err != nil {
		_ = r.Remove(made)
	}
	return err
}

func (p pattern) finish(r *os.Root, made, name string) error {
	d, err := r.Open(made)
	if err != nil {
		return err
	}
	err = p.applyTo(d, p.dir)
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	if err != nil || made == name {
		return err
	}
	err = r.Rename(made, name)
	if os.IsExist(err) || isNotEmpty(err) || isNotDir(err) { // somebody else made it meanwhile
		return r.Remove(made)
	}
	return err
}
