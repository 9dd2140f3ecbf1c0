package backup

import (
	"context"
	"fmt"
	"io/fs"
	"iter"
	"path"
	"slices"

	"pgstow/backup/changes"
	"pgstow/backup/pagemap"
	"pgstow/backup/source"
	"pgstow/catalog"
)

// readAll makes items of entries of which nothing is known.
func readAll(entries iter.Seq2[source.Entry, error]) iter.Seq2[item, error] {
	return func(yield func(item, error) bool) {
		for e, err := range entries {
			if !yield(item{entry: e}, err) {
				return
			}
		}
	}
}

// join compares the data directory with the reference's lines, which come in the same
// order, and says of each file what is to be done.
func (r *reference) join(ctx context.Context, entries iter.Seq2[source.Entry, error]) iter.Seq2[item, error] {
	return func(yield func(item, error) bool) {
		next, stop := iter.Pull2(r.manifest.Files())
		defer stop()
		line, err, more := next()
		// skip goes on to the line of that path, and past it if it is there.
		skip := func(to string, all bool) (*catalog.FileEntry, bool) {
			for more && err == nil {
				order := 1
				if !all {
					order = catalog.ComparePaths(line.Path, to)
				}
				if !all && order > 0 {
					return nil, true
				}
				this := line
				line, err, more = next()
				if !all && order == 0 {
					return &this, true
				}
				it, ok, ferr := r.forget(ctx, this)
				if ferr != nil {
					err = ferr
					break
				}
				if ok && !yield(it, nil) {
					return nil, false
				}
			}
			if err != nil {
				yield(item{}, fmt.Errorf("files of backup %s: %w", r.header.ID, err))
				return nil, false
			}
			return nil, true
		}
		for e, werr := range entries {
			if werr != nil {
				yield(item{}, werr)
				return
			}
			old, ok := skip(e.Path, false)
			if !ok {
				return
			}
			if old != nil && old.Map != nil && e.Class != source.Relation { // the name was one of pages
				it, _, ferr := r.forget(ctx, *old)
				if !yield(it, ferr) || ferr != nil {
					return
				}
				old = nil
			}
			it, ierr := r.item(ctx, e, old)
			if !yield(it, ierr) || ierr != nil {
				return
			}
		}
		skip("", true)
	}
}

// forget is the item for a file that is not there any more, if it had pages.
func (r *reference) forget(ctx context.Context, line catalog.FileEntry) (item, bool, error) {
	if line.Map == nil {
		return item{}, false, nil
	}
	m, err := r.load(ctx, line)
	return item{entry: source.Entry{Path: line.Path}, do: doForget, old: &prior{line: line, m: m}}, true, err
}

// reuseBlob is the size from which on a file that is no relation may stay in the pack
// where it is. Smaller ones would only keep old packs alive.
const reuseBlob = 128 << 10

// item decides what to do with a file; old is its line in the reference, or nil. Only a
// relation's has a map.
func (r *reference) item(ctx context.Context, e source.Entry, old *catalog.FileEntry) (item, error) {
	it := item{entry: e}
	if old == nil || old.Type != catalog.TypeFile {
		return it, nil
	}
	if old.Map == nil {
		if e.Class == source.Blob && r.blobStays(*old, e.Size) {
			it.do, it.old = doCompare, &prior{line: *old}
		}
		return it, nil
	}
	it.old, it.do = &prior{line: *old, lent: true, start: r.header.Start}, doCompare
	if r.changed != nil {
		it.do, it.wanted = r.wanted(e, old)
	}
	if it.do == doKeep {
		return it, nil
	}
	m, err := r.load(ctx, *old)
	it.old.m = m
	return it, err
}

// blobStays says whether a file that is no relation may stay where the reference has it,
// if it has that size and the same bytes.
func (r *reference) blobStays(old catalog.FileEntry, size int64) bool {
	return old.Type == catalog.TypeFile && old.Size >= reuseBlob && old.Size == size && !old.SHA256.IsZero() &&
		!slices.ContainsFunc(old.Blob, func(s catalog.Slice) bool {
			p := r.packs[s.Pack]
			return r.worn(p, p.LivePages, p.Pages)
		})
}

// wanted asks the WAL summaries what of a relation's file is to be read.
func (r *reference) wanted(e source.Entry, old *catalog.FileEntry) (doing, []changes.Run) {
	rel, ok := changes.RelationOf(e.Path, e.Relation)
	if !ok {
		return doCompare, nil // free space and visibility maps change unseen (RULES-physical A1)
	}
	size := int64(r.header.BlockSize)
	pages, had := uint32(e.Size/size), uint32(old.Size/size)
	base := e.Relation.Segment * r.header.RelSegSize
	runs, all := r.changed.Of(rel, base, pages)
	if all {
		return doRead, nil
	}
	if pages > had { // extension leaves no trace in the WAL (A8)
		runs = changes.Merge(runs, []changes.Run{{First: had, Pages: pages - had}})
	}
	var damaged []changes.Run // read again in each backup (C2)
	for _, block := range old.Damaged {
		if block >= base && block-base < pages {
			damaged = changes.Join(damaged, changes.Run{First: block - base, Pages: 1})
		}
	}
	runs = changes.Merge(runs, damaged)
	if len(runs) == 0 && pages == had {
		return doKeep, nil
	}
	return doWanted, runs
}

// again gives the items of the second pass: the lines of the first one, in which
// pages of packs that are not worth being kept are read again. r may be nil if all maps
// are new.
func (r *reference) again(ctx context.Context, lines iter.Seq2[record, error], refresh map[pagemap.PackRef]bool) iter.Seq2[item, error] {
	return func(yield func(item, error) bool) {
		for rec, err := range lines {
			if err != nil {
				yield(item{}, err)
				return
			}
			it, err := r.second(ctx, rec, refresh)
			if !yield(it, err) || err != nil {
				return
			}
		}
	}
}

func (r *reference) second(ctx context.Context, rec record, refresh map[pagemap.PackRef]bool) (item, error) {
	it := item{entry: source.Entry{Path: rec.Line.Path}, do: doKeep, old: &prior{line: rec.Line, lent: rec.Lent}}
	switch {
	case rec.Line.Map == nil && len(rec.Map) == 0:
		return it, nil
	case len(rec.Map) > 0:
		m, err := pagemap.Decode(rec.Map)
		if err != nil {
			return it, err
		}
		it.old.m = m
	case len(refresh) == 0 && !r.dropsMap(rec.Line.Map.Pack):
		return it, nil
	default:
		m, err := r.load(ctx, rec.Line)
		if err != nil {
			return it, err
		}
		it.old.m = m
	}
	if len(refresh) == 0 {
		return it, nil
	}
	it.old.m.Select(func(p pagemap.PackRef) bool { return refresh[p] }, func(first, pages uint32) {
		it.wanted = append(it.wanted, changes.Run{First: first, Pages: pages})
	})
	if len(it.wanted) == 0 {
		return it, nil
	}
	relation, ok := source.ParseRelationFile(path.Base(rec.Line.Path))
	if !ok {
		return it, fmt.Errorf("%s has a page map and not the name of a relation", rec.Line.Path)
	}
	it.do = doRefresh
	it.entry = source.Entry{
		Path: rec.Line.Path, File: rec.File, Class: source.Relation, Mode: fs.FileMode(rec.Line.Mode), Size: rec.Line.Size,
		ModTime: rec.Line.ModTime, Relation: relation,
	}
	return it, nil
}

// notWorth lists the data packs that are worn as the new maps use them. Map packs alike
// are noted in r.dropped.
func (c *collector) notWorth() map[pagemap.PackRef]bool {
	out := make(map[pagemap.PackRef]bool)
	for i, p := range c.ref.packs {
		if p.Map {
			if used := c.mapBytes[i]; used > 0 && c.ref.worn(p, used, p.PlainSize) {
				c.ref.dropped[i] = true
			}
			continue
		}
		at := pagemap.PackRef{Backup: p.Backup, Pack: uint32(p.N)}
		if live := c.live[at]; live > 0 && c.ref.worn(p, live, p.Pages) {
			out[at] = true
		}
	}
	return out
}
