package archive

import (
	"errors"
	"strings"

	"pgstow/wal/spool"
)

// refusedRecord is the spool's record of a file of which the archive has another under the same name.
const refusedRecord = "push-refused"

// isConflict tells whether the archive has something else under a file's name: two servers went on from one point, or what is stored is damaged.
func isConflict(err error) bool {
	var refused *RefusedError
	return errors.As(err, &refused) && refused.Key != ""
}

// keepRefused remembers that a file was refused, for all who store ahead. What follows it may be WAL of a server that went another way, and stored
// ahead it would stand in the way of the one whose archive this is. The server asks for none of it before the matter is settled.
func (o *PushOptions) keepRefused(name string, err error) {
	if !isConflict(err) {
		return
	}
	if first, ok := o.firstRefused(); ok && archiveOrder(first, name) < 0 {
		return
	}
	_ = o.Spool.PutRecord(refusedRecord, []byte(name), o.Now())
}

// firstRefused is the refused file that the server asks for first, if it still does.
func (o *PushOptions) firstRefused() (name string, ok bool) {
	b, ok := o.Spool.Record(refusedRecord, TroubleAge, o.Now())
	if name = string(b); !ok || !archivable(name) {
		return "", false
	}
	return name, isReady(archiveStatus(o.PGData), name)
}

// readRefused is called at each reading of archive_status.
func (a *ahead) readRefused() {
	name, ok := a.push.firstRefused()
	a.mu.Lock()
	defer a.mu.Unlock()
	if ok || a.refused != "" && !isReady(a.status, a.refused) {
		a.refused = name
	}
}

// awaitFirst holds back what is to be stored, though not its encoding, until it is known what becomes of the first of the waiting files, if a call
// of the server has it in hand: it may be refused, and then nothing behind it is for this archive. One that hangs is not waited for.
func (a *ahead) awaitFirst(names []string) {
	if len(names) == 0 || a.inCall || !a.push.Spool.Claimed(pushClaim, names[0]) {
		close(a.first)
		return
	}
	a.held = names[0]
	go func() {
		defer close(a.first)
		if a.push.Spool.AwaitClaim(pushClaim, a.held, spool.ClaimStale) {
			a.readRefused()
		}
	}()
}

// inHand tells whether a call of the server has the file, as far as is known. To take it meanwhile would be to wait for ourselves.
func (a *ahead) inHand(name string) bool {
	if name != a.held {
		return false
	}
	select {
	case <-a.first:
		return false
	default:
		return true
	}
}

// behindRefused tells whether the server will ask for a file only after one that was refused. The refused one itself may be tried.
func (a *ahead) behindRefused(name string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.refused != "" && !strings.HasSuffix(name, ".history") && archiveOrder(name, a.refused) > 0
}
