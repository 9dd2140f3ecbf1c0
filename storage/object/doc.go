// Package object is the codec of everything pgstow stores: frames, header,
// footer and encryption. It turns bytes into bytes; it knows neither stores nor
// PostgreSQL. docs/format.md is its specification.
//
//	object, not encrypted:
//	┌──────────────┬────────────┬─────┬────────────┬──────────────┐
//	│ header  512  │ zstd frame │  …  │ zstd frame │ footer       │
//	└──────────────┴────────────┴─────┴────────────┴──────────────┘
//	 skippable frame                                skippable frame
//
//	object, encrypted: what follows the header is one age file
//	┌──────────────┬──────────────────────────────────────────────┐
//	│ header  512  │ age( zstd frame … zstd frame · footer )      │
//	└──────────────┴──────────────────────────────────────────────┘
//
// So "zstd -dc" alone recovers the plain bytes of the first form and
// "tail -c +513 | age -d | zstd -d" those of the second. The zstd decoder does
// not see a cut between two frames nor a flipped bit in a skippable one:
// therefore header and footer carry checksums of their own, the header says how
// long the object is, and the footer names every frame.
//
// Only verified bytes are handed out. Whatever is not exactly what a writer
// wrote is a [*CorruptError]; there is one valid encoding of each header and
// footer.
package object
