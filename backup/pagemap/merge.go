package pagemap

// Cursor reads a map from its beginning to its end, to make a new map of it: an
// incremental backup keeps the runs of pages that did not change.
type Cursor struct {
	m      *Map
	extent int
	first  int // page with which the extent begins
}

// NewCursor makes a cursor at the beginning of a map, which must not change as
// long as the cursor is used.
func NewCursor(m *Map) Cursor { return Cursor{m: m} }

// Append adds n pages of the cursor's map, from page on, to dst: extents and
// hashes. The pages must be there. Calls with ascending pages cost no more than
// the extents that they pass.
func (c *Cursor) Append(dst *Map, page, n int) {
	if page < c.first {
		c.extent, c.first = 0, 0
	}
	hashes := c.m.Hashes[page : page+n]
	for n > 0 {
		e := c.m.Extents[c.extent]
		skip := page - c.first
		if skip >= int(e.Pages) {
			c.first += int(e.Pages)
			c.extent++
			continue
		}
		take := min(n, int(e.Pages)-skip)
		if e.Zero {
			dst.AppendZero(hashes[:take])
		} else {
			dst.Append(c.m.Pack(e), e.Frame, e.First+uint32(skip), hashes[:take])
		}
		hashes, page, n = hashes[take:], page+take, n-take
	}
}

// Uses calls each with every extent's pack and number of pages; a pack comes as
// often as extents point into it, zero extents do not come.
func (m *Map) Uses(each func(p PackRef, pages uint32)) {
	for _, e := range m.Extents {
		if !e.Zero {
			each(m.Pack(e), e.Pages)
		}
	}
}

// Select calls each with the runs of pages, ascending, that lie in packs for which
// want is true. Neighbouring runs come as one.
func (m *Map) Select(want func(p PackRef) bool, each func(first, pages uint32)) {
	var first, run, at uint32
	for _, e := range m.Extents {
		if !e.Zero && want(m.Pack(e)) {
			if run == 0 {
				first = at
			}
			run += e.Pages
		} else if run > 0 {
			each(first, run)
			run = 0
		}
		at += e.Pages
	}
	if run > 0 {
		each(first, run)
	}
}
