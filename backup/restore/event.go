package restore

// Event is what Run tells its caller while it works: one of the types below. Events come from one goroutine at a time.
type Event interface{ event() }

// Phase names.
const (
	PhaseManifest = "manifest" // reading the list of files and the page maps
	PhaseData     = "data"     // reading packs, writing files
	PhaseSync     = "sync"     // waiting for stable storage
	PhaseFinish   = "finish"   // recovery settings, backup_manifest, pg_control
)

// PhaseEvent begins a phase.
type PhaseEvent struct{ Name string }

// TotalsEvent says how much there is to do; it comes before the first ProgressEvent.
type TotalsEvent struct {
	Files      int
	BytesWrite int64 // bytes of files that are not holes and not already there
	Packs      int
}

// ProgressEvent counts what is done so far.
type ProgressEvent struct {
	BytesWritten int64 // of TotalsEvent.BytesWrite
	BytesRead    int64 // bytes received from the store
	Packs        int   // packs finished
}

// CompareEvent counts what was compared so far: what an interrupted restore left, or a delta restore found.
type CompareEvent struct {
	Bytes int64 // of relations
}

// RemoveEvent says what a delta restore removes, before it does.
type RemoveEvent struct {
	Files int64
	Bytes int64
}

// ResumeEvent says how much was already there, once that is known of all files; in a backup with more pieces than
// RunOptions.Pieces of the first round.
type ResumeEvent struct {
	KeptBytes  int64 // bytes that were already right
	FetchBytes int64 // bytes that are to be written
}

// WarningEvent is something the operator should know.
type WarningEvent struct{ Text string }

func (PhaseEvent) event()    {}
func (TotalsEvent) event()   {}
func (ProgressEvent) event() {}
func (ResumeEvent) event()   {}
func (CompareEvent) event()  {}
func (RemoveEvent) event()   {}
func (WarningEvent) event()  {}
