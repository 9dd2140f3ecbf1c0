package main

import (
	"fmt"
	"sync"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// lineInterval is how often progress is told where there is no terminal.
const lineInterval = 10 * time.Second

// progress shows how far a long command is: a bar with rate and time left on a terminal, a plain line now and then elsewhere. Its methods
// may be called from several goroutines.
type progress struct {
	e     *environment
	title string
	start time.Time

	mu    sync.Mutex
	pool  *mpb.Progress
	bar   *mpb.Bar
	done  int64
	total int64
	last  time.Time
}

func (e *environment) newProgress(title string) *progress {
	now := time.Now()
	return &progress{e: e, title: title, start: now, last: now}
}

// update tells the bytes done so far and how many there will be; a total may still grow.
func (p *progress) update(done, total int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if done < p.done {
		return // events of several workers may overtake each other
	}
	p.done, p.total = done, total
	if p.e.terminal {
		p.draw()
		return
	}
	if now := time.Now(); now.Sub(p.last) >= lineInterval {
		p.last = now
		p.e.message("%s: %s", p.title, p.line(now))
	}
}

func (p *progress) draw() {
	if p.bar == nil {
		p.e.showBar(p)
		p.pool = mpb.New(mpb.WithOutput(p.e.stderr), mpb.WithWidth(40))
		p.bar = p.pool.AddBar(p.total,
			mpb.PrependDecorators(decor.Name(p.title+" "), decor.CountersKibiByte("% .1f / % .1f")),
			mpb.AppendDecorators(decor.Percentage(), decor.Name(" "), decor.AverageSpeed(decor.SizeB1024(0), "% .1f"), decor.Name(", "), decor.AverageETA(decor.ET_STYLE_GO), decor.Name(" left")),
		)
	}
	p.bar.SetTotal(p.total, false)
	p.bar.SetCurrent(p.done)
}

func (p *progress) line(now time.Time) string {
	seconds := now.Sub(p.start).Seconds()
	rate := float64(p.done) / max(seconds, 0.001)
	text := bytesText(p.done)
	if p.total > 0 {
		text += " of " + bytesText(p.total)
	}
	text += ", " + humanize.IBytes(uint64(rate)) + "/s"
	if rate > 0 && p.total > p.done {
		text += ", " + time.Duration(float64(p.total-p.done)/rate*float64(time.Second)).Round(time.Second).String() + " left"
	}
	return text
}

// note writes a message of its own line without disturbing the bar.
func (p *progress) note(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pool != nil {
		_, _ = fmt.Fprintf(p.pool, "pgstow: "+format+"\n", args...)
		return
	}
	_, _ = fmt.Fprintf(p.e.stderr, "pgstow: "+format+"\n", args...)
}

// showBar makes messages appear above p, or, with nil, as plain lines again.
func (e *environment) showBar(p *progress) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.bar = p
}

// finish ends the bar. It must be called before the result is printed, on success and failure alike.
func (p *progress) finish() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bar == nil {
		return
	}
	p.e.showBar(nil)
	if p.done >= p.total {
		p.bar.SetTotal(p.total, true)
	} else {
		p.bar.Abort(false)
	}
	p.pool.Wait()
	p.pool, p.bar = nil, nil
}
