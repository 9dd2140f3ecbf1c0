package restore

import (
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// Owner is who gets the restored files. Set is false where they stay with the process's own user.
type Owner struct {
	UID  int    `json:"uid"`
	GID  int    `json:"gid"`
	Name string `json:"name"`
	Set  bool   `json:"change"` // chown is needed
}

// resolveOwner applies RULES-physical E6: the server refuses a data directory that is not its user's, so root gives the
// files to the user that was named, or else to the owner of the directory or of its parent; anyone else keeps them.
func resolveOwner(want, dir string) (Owner, error) {
	self := os.Geteuid()
	if want == "" {
		if self != 0 {
			return Owner{UID: self, GID: os.Getegid()}, nil
		}
		uid, gid, path, err := ownerOf(dir)
		if err != nil {
			return Owner{}, err
		}
		if uid == 0 {
			return Owner{}, refuse(dir, "name the server's user with --owner, or run the restore as that user",
				"PostgreSQL refuses to run as root, and %s belongs to root", path)
		}
		return named(Owner{UID: uid, GID: gid, Set: true}), nil
	}
	o, err := lookupOwner(want)
	if err != nil {
		return Owner{}, err
	}
	if self != 0 && o.UID != self {
		return Owner{}, fmt.Errorf("%w: owner %s: only root can give files to another user", ErrOptions, want)
	}
	o.Set = self == 0
	return o, nil
}

// ownerOf returns the owner of dir or, if it does not exist, of its parent.
func ownerOf(dir string) (uid, gid int, path string, err error) {
	info, err := os.Stat(dir)
	if os.IsNotExist(err) {
		dir = filepath.Dir(dir)
		info, err = os.Stat(dir)
	}
	if err != nil {
		return 0, 0, dir, err
	}
	uid, gid = ids(info)
	return uid, gid, dir, nil
}

func ids(info fs.FileInfo) (uid, gid int) {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(st.Uid), int(st.Gid)
	}
	return os.Geteuid(), os.Getegid()
}

// lookupOwner reads user, user:group, uid or uid:gid.
func lookupOwner(want string) (Owner, error) {
	userName, groupName, hasGroup := strings.Cut(want, ":")
	var o Owner
	u, err := user.Lookup(userName)
	if err != nil {
		uid, numErr := strconv.Atoi(userName)
		if numErr != nil || uid < 0 {
			return Owner{}, fmt.Errorf("%w: owner %s: %w", ErrOptions, want, err)
		}
		o.UID, o.GID = uid, uid
		if u, err = user.LookupId(userName); err == nil {
			o.GID, _ = strconv.Atoi(u.Gid)
		}
	} else {
		o.UID, _ = strconv.Atoi(u.Uid)
		o.GID, _ = strconv.Atoi(u.Gid)
	}
	if hasGroup {
		if g, err := user.LookupGroup(groupName); err == nil {
			o.GID, _ = strconv.Atoi(g.Gid)
		} else if gid, numErr := strconv.Atoi(groupName); numErr == nil && gid >= 0 {
			o.GID = gid
		} else {
			return Owner{}, fmt.Errorf("%w: owner %s: %w", ErrOptions, want, err)
		}
	}
	if o.UID == 0 {
		return Owner{}, fmt.Errorf("%w: owner %s: PostgreSQL refuses to run as root", ErrOptions, want)
	}
	return named(o), nil
}

func named(o Owner) Owner {
	o.Name = strconv.Itoa(o.UID)
	if u, err := user.LookupId(o.Name); err == nil {
		o.Name = u.Username
	}
	return o
}

// modes are the permission bits of a data directory: group access or none, decided by the directory's own mode when the
// backup was taken (PostgreSQL: pg_dir_create_mode, pg_file_create_mode).
type modes struct{ dir, file, mask fs.FileMode }

func modesFor(dataDirectory fs.FileMode) modes {
	if dataDirectory&0o050 == 0o050 {
		return modes{dir: 0o750, file: 0o640, mask: 0o750}
	}
	return modes{dir: 0o700, file: 0o600, mask: 0o700}
}

// fileMode keeps what a file had of what the directory's mode allows: a private key stays 0600 under group access. A
// file whose mode was not recorded gets the default.
func (m modes) fileMode(recorded fs.FileMode) fs.FileMode {
	if recorded.Perm() == 0 {
		return m.file
	}
	return recorded.Perm()&m.mask | 0o600
}
