package main

import (
	"strings"
	"sync"

	"github.com/coreos/go-systemd/v22/daemon"
)

// notifier tells a service manager how a daemon is (sd_notify(3)). Without one it does nothing. Its methods may be called from several
// goroutines.
type notifier struct {
	mu    sync.Mutex
	ready bool
}

// started says that the daemon is at work; once is enough.
func (n *notifier) started() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.ready {
		n.ready = true
		n.send(daemon.SdNotifyReady)
	}
}

// alive shows what the daemon does, and that it is not stuck.
func (n *notifier) alive(status string) {
	n.send("STATUS=" + strings.ReplaceAll(status, "\n", " ") + "\n" + daemon.SdNotifyWatchdog)
}

func (n *notifier) stopping() { n.send(daemon.SdNotifyStopping) }

// send ignores errors: who is not heard is restarted by the watchdog, and there is nobody else to tell.
func (n *notifier) send(state string) { _, _ = daemon.SdNotify(false, state) }
