package restore

import (
	"cmp"
	"fmt"
	"slices"

	"pgstow/backup/pagemap"
	"pgstow/catalog"
)

// maxRuns is the default of RunOptions.Pieces.
const maxRuns = 1 << 20

// run is a piece of one frame that belongs at one place of one file.
type run struct {
	offset int64 // in the file
	file   fileID
	pack   uint32 // index in the manifest's pack table
	frame  uint32
	start  uint32 // in the frame's plain bytes
	length uint32
}

func compareRuns(a, b run) int {
	return cmp.Or(cmp.Compare(a.pack, b.pack), cmp.Compare(a.frame, b.frame), cmp.Compare(a.file, b.file), cmp.Compare(a.offset, b.offset))
}

// packRuns are the runs of one pack, in order of frames.
type packRuns struct {
	pack uint32
	runs []run
}

// byPack sorts runs in place and cuts them at pack boundaries.
func byPack(runs []run) []packRuns {
	slices.SortFunc(runs, compareRuns)
	var out []packRuns
	for len(runs) > 0 {
		n := 1
		for n < len(runs) && runs[n].pack == runs[0].pack {
			n++
		}
		out = append(out, packRuns{pack: runs[0].pack, runs: runs[:n]})
		runs = runs[n:]
	}
	return out
}

// frames lists the frames that the runs need, ascending.
func (p packRuns) frames() []uint32 {
	var out []uint32
	for _, r := range p.runs {
		if len(out) == 0 || out[len(out)-1] != r.frame {
			out = append(out, r.frame)
		}
	}
	return out
}

// takeFrame cuts the runs of one frame off the front.
func (p *packRuns) takeFrame(frame uint32) []run {
	n := 0
	for n < len(p.runs) && p.runs[n].frame == frame {
		n++
	}
	taken := p.runs[:n]
	p.runs = p.runs[n:]
	return taken
}

// blobRuns are the runs of a file without page map. The slices must fill it exactly.
func blobRuns(id fileID, e catalog.FileEntry, dst []run) ([]run, error) {
	var at int64
	for _, s := range e.Blob {
		if s.Pack < 0 || s.Frame < 0 || s.Offset < 0 || s.Length <= 0 || int64(max(s.Pack, s.Frame, s.Offset, s.Length)) > 1<<32-1 {
			return nil, fmt.Errorf("%s: a part of it is at an impossible place: %+v", e.Path, s)
		}
		dst = append(dst, run{offset: at, file: id, pack: uint32(s.Pack), frame: uint32(s.Frame), start: uint32(s.Offset), length: uint32(s.Length)})
		at += int64(s.Length)
	}
	if at != e.Size {
		return nil, fmt.Errorf("%s: its parts have %d bytes, not %d", e.Path, at, e.Size)
	}
	return dst, nil
}

// mapRuns are the runs of the pages of a relation's file; kept says which pages need not be written again (nil: none).
// lookup gives the place of a pack in the manifest's table.
func mapRuns(id fileID, m *pagemap.Map, pageSize uint32, kept []bool, lookup func(pagemap.PackRef) (uint32, bool), dst []run) ([]run, error) {
	page := uint32(0)
	for _, e := range m.Extents {
		first := page
		page += e.Pages
		if e.Zero {
			continue
		}
		ref := m.Pack(e)
		pack, ok := lookup(ref)
		if !ok {
			return nil, fmt.Errorf("its page map names pack %s/%d, which the manifest does not list", ref.Backup, ref.Pack)
		}
		for from := uint32(0); from < e.Pages; {
			if kept != nil && kept[first+from] {
				from++
				continue
			}
			to := from + 1
			for to < e.Pages && (kept == nil || !kept[first+to]) {
				to++
			}
			start, length := uint64(e.First+from)*uint64(pageSize), uint64(to-from)*uint64(pageSize)
			if start+length > 1<<32-1 {
				return nil, fmt.Errorf("its page map points beyond any frame: %+v", e)
			}
			dst = append(dst, run{offset: int64(first+from) * int64(pageSize), file: id, pack: pack, frame: e.Frame, start: uint32(start), length: uint32(length)})
			from = to
		}
	}
	return dst, nil
}
