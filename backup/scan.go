package backup

import (
	"cmp"
	"context"
	"slices"

	"pgstow/backup/changes"
	"pgstow/backup/pagemap"
	"pgstow/backup/source"
	"pgstow/catalog"
	"pgstow/wal/page"
)

// changed reads the pages of the part that may have changed and stores those that
// did; the others stay where the earlier map says.
func (w *worker) changed(ctx context.Context, p *part, f source.File, size int64) error {
	at, end, runs := p.first, p.first+p.pages, p.wanted
	now := max(uint32(size/int64(w.pageSize)), p.first)
	switch {
	case p.do == doRefresh:
	case p.do == doCompare && p.last:
		end = now
	case p.last && now > end:
		runs = changes.Join(runs, changes.Run{First: end, Pages: now - end})
		end = now
	case now < end: // cut since it was listed: recovery knows the rest
		end, p.short = now, true
	}
	if p.do == doCompare {
		runs = []changes.Run{{First: at, Pages: end - at}}
	}
	for _, r := range runs {
		if r.First >= end {
			break
		}
		w.keep(p, at, r.First-at)
		stop := min(r.First+r.Pages, end)
		reached, err := w.readRun(ctx, p, f, r.First, stop)
		if err != nil {
			return err
		}
		at = reached
		if reached == stop {
			continue
		}
		if p.do != doRefresh {
			p.short = true
			return w.endRelation(p, f, size)
		}
		break
	}
	w.keep(p, at, end-at)
	return w.endRelation(p, f, size)
}

// readRun reads the pages from one number to another and returns how far it came
// before the end of the file.
func (w *worker) readRun(ctx context.Context, p *part, f source.File, at, stop uint32) (uint32, error) {
	for at < stop {
		n := min(uint32(len(w.scan)/w.pageSize), stop-at)
		buf := w.scan[:int(n)*w.pageSize]
		got, err := w.readAt(ctx, f, buf, int64(at)*int64(w.pageSize))
		if err != nil {
			return at, err
		}
		whole := got / w.pageSize
		taken, err := w.comparePages(ctx, p, f, buf[:whole*w.pageSize], at)
		if err != nil {
			return at, err
		}
		at += uint32(taken)
		if taken < int(n) {
			break
		}
	}
	return at, nil
}

// comparePages stores the pages in the buffer that changed. It returns how many of
// them the file still has.
func (w *worker) comparePages(ctx context.Context, p *part, f source.File, buf []byte, first uint32) (int, error) {
	n := len(buf) / w.pageSize
	base := p.entry.Relation.Segment * w.relSeg
	for i := range n {
		b := buf[i*w.pageSize : (i+1)*w.pageSize]
		number := first + uint32(i)
		hash := pagemap.Hash(b)
		if p.do == doCompare && p.old.same(b, hash, number, base+number) {
			if !within(p.old.again, number) {
				w.keep(p, number, 1)
				continue
			}
			p.again++
		}
		gone, err := w.takePage(ctx, p, f, b, hash, number, base)
		if err != nil || gone {
			return i, err
		}
	}
	return n, nil
}

// within says whether a page is in one of the runs, which ascend.
func within(runs []changes.Run, page uint32) bool {
	i, found := slices.BinarySearchFunc(runs, page, func(r changes.Run, page uint32) int { return cmp.Compare(r.First, page) })
	return found || i > 0 && page-runs[i-1].First < runs[i-1].Pages
}

// same says whether the page is what the earlier backup has: equal content, and no
// LSN that came later (RULES-physical A2). A damaged page is never taken for the same.
func (p *prior) same(b []byte, hash uint64, number, block uint32) bool {
	if int(number) >= len(p.m.Hashes) || p.m.Hashes[number] != hash || page.ParseHeader(b).LSN >= p.start {
		return false
	}
	_, damaged := slices.BinarySearch(p.line.Damaged, block)
	return !damaged
}

// takePage checks a page and stores it. gone: the file ends before it by now.
func (w *worker) takePage(ctx context.Context, p *part, f source.File, b []byte, hash uint64, number, base uint32) (gone bool, err error) {
	verdict := w.check.Check(b, base+number)
	if !verdict.OK() {
		if gone, err := w.recheck(ctx, p, f, b, number, base); err != nil || gone {
			return gone, err
		}
		verdict, hash = w.check.Check(b, base+number), pagemap.Hash(b)
	}
	w.job.hashes = append(w.job.hashes, hash)
	if verdict == page.New {
		w.addRun(p, noFrame, 0)
		return false, nil
	}
	frame, err := w.place(ctx, &w.pages)
	if err != nil {
		return false, err
	}
	w.addRun(p, frame, uint32(w.pages.fill/w.pageSize))
	copy(w.room(&w.pages), b)
	w.pages.fill += w.pageSize
	if w.pages.fill > len(w.pages.buf)-w.pageSize {
		return false, w.flush(&w.pages)
	}
	return false, nil
}

// keep adds pages that stay where they are.
func (w *worker) keep(p *part, first, pages uint32) {
	if pages == 0 {
		return
	}
	if n := len(w.job.runs); n > p.runs.from {
		r := &w.job.runs[n-1]
		if r.frame == oldPages && r.first+r.pages == first {
			r.pages += pages
			return
		}
	}
	w.job.runs = append(w.job.runs, run{pages: pages, frame: oldPages, first: first})
}

// sameBlob says whether a file has the bytes that the earlier backup has, by their
// SHA-256 (RULES-physical C3).
func (w *worker) sameBlob(ctx context.Context, p *part, f source.File, size int64) (bool, error) {
	w.sha.Reset()
	for at := int64(0); at < size; {
		buf := w.scan[:min(int64(len(w.scan)), size-at)]
		n, err := w.readAt(ctx, f, buf, at)
		if err != nil {
			return false, err
		}
		w.sha.Write(buf[:n])
		at += int64(n)
		if n < len(buf) {
			return false, nil // it shrank
		}
	}
	var sum catalog.Digest
	w.sha.Sum(sum[:0])
	if sum != p.old.line.SHA256 {
		return false, nil
	}
	p.same, p.size, p.digest = true, size, sum
	w.onRead(0, 1)
	return true, nil
}
