package archive

import (
	"os"

	"golang.org/x/sys/unix"
)

// watcher tells that something changed in some folders. Where the kernel gives none (its user has too many), it is nil, and tells nothing.
type watcher struct {
	f    *os.File
	what uint32
	wake chan struct{}
}

// newWatcher tells of the events in what (IN_* of inotify(7)).
func newWatcher(what uint32) *watcher {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil
	}
	w := &watcher{f: os.NewFile(uintptr(fd), "inotify"), what: what, wake: make(chan struct{}, 1)}
	go w.listen()
	return w
}

// listen ends when the file is closed. What the events say is not looked at: who is woken looks himself, so that a lost one costs nothing.
func (w *watcher) listen() {
	events := make([]byte, 16<<10)
	for {
		if _, err := w.f.Read(events); err != nil {
			return
		}
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}

// add watches folders. One that is watched already stays so; one that is not there is not.
func (w *watcher) add(folders ...string) {
	if w == nil {
		return
	}
	raw, err := w.f.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		for _, folder := range folders {
			_, _ = unix.InotifyAddWatch(int(fd), folder, w.what|unix.IN_ONLYDIR)
		}
	})
}

func (w *watcher) changed() <-chan struct{} {
	if w == nil {
		return nil
	}
	return w.wake
}

func (w *watcher) close() {
	if w != nil {
		_ = w.f.Close()
	}
}
