package object

// CopyFrame adds frame i of o as it is stored, without compressing it again, and
// returns its plain bytes, which replace what is in dst. So an object can be put
// together of frames whose final place was not known when they were compressed: a
// manifest's header line comes first and is known last.
func (w *Writer) CopyFrame(o *Object, i int, dst []byte) (plain []byte, err error) {
	if w.err != nil {
		return nil, w.err
	}
	if plain, w.err = o.Frame(i, dst); w.err != nil {
		return nil, w.err
	}
	at := o.offs[i] - HeaderSize
	stored := o.clear[at:][:o.table[i].Stored]
	if w.sha != nil {
		w.sha.Write(plain)
	}
	if !w.encrypted() {
		w.buf = append(w.buf, stored...)
	}
	w.err = w.add(stored, plain, false) // o.Frame has decoded it just now
	return plain, w.err
}

// Grow makes room for n more stored bytes, so that an object whose size is known
// is not moved while it grows.
func (w *Writer) Grow(n int) {
	if free := cap(w.buf) - len(w.buf); free < n {
		w.buf = append(make([]byte, 0, len(w.buf)+n), w.buf...)
	}
}
