package receive

import (
	"context"

	"pgstow/catalog"
	"pgstow/wal"
)

// What the tests see of the parts.

type (
	Sink     = sink
	Plan     = plan
	Position = position
)

const MergeAfter = mergeAfter

var (
	WaitsFor = waitsFor
	IsFinal  = isFinal
	Sweep    = sweep
)

// NewSink makes a sink that goes on where a plan says.
func NewSink(ctx context.Context, o *Options, repo *catalog.Repository, ref catalog.ClusterRef, size wal.SegmentSize, at Plan) (*Sink, error) {
	o.setDefaults()
	found, err := headers(ctx, repo, ref, at.pieces, o.Events)
	if err != nil {
		return nil, err
	}
	s, err := newSink(o, repo, ref, size, at, found)
	if err != nil {
		return nil, err
	}
	s.joint, err = at.joint(ctx, repo, ref)
	return s, err
}

// PlanFrom plans with the given history.
func PlanFrom(ctx context.Context, repo *catalog.Repository, ref catalog.ClusterRef, size wal.SegmentSize, h wal.History, base, floor wal.SegmentNumber) (Plan, error) {
	p := &planner{repo: repo, ref: ref, size: size, history: h}
	return p.plan(ctx, base, floor)
}

func (p plan) Timeline() wal.TimelineID   { return p.timeline }
func (p plan) Segment() wal.SegmentNumber { return p.segment }
func (p plan) Leftover() []string         { return p.leftover }
func (p plan) Pieces() int                { return len(p.pieces) }

func (s *sink) Position() Position                           { return s.position() }
func (s *sink) Drain(ctx context.Context, idle func()) error { return s.drain(ctx, idle) }
func (s *sink) Stop()                                        { s.stop() }
func (s *sink) Close()                                       { s.close() }
func (s *sink) Changed() <-chan struct{}                     { return s.changed }
func (p position) Received() wal.LSN                         { return p.received }
func (p position) Stored() wal.LSN                           { return p.stored }
func (p position) Err() error                                { return p.err }
func (p position) Waiting() bool                             { return !p.oldest.IsZero() }
func (p position) Counts() (pieces, segments int64)          { return p.counts[parts], p.counts[wholes] }
