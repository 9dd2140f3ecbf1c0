// Package receive is the streaming archiver: it takes WAL from a server over the replication protocol as it is written and stores it, so
// that a total disaster loses seconds of it, or, where the server waits for it, nothing.
//
// The segment that is being written is stored in pieces, objects of a byte range each; when it is full it is stored as a whole, the very
// object that a push of it makes, and its pieces are deleted. What is reported to the server as flushed is always the end of the WAL that
// the store has confirmed without a gap, and nothing else: the replication slot keeps the rest. There is no local state; a new receiver
// goes on where the archive ends.
//
// [Run] is the whole of it. A sink (sink.go) takes the stream of one timeline and stores it; a session (session.go) is one connection to
// the server; where a session begins is decided in plan.go.
package receive
