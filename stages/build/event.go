package build

import (
	"time"

	"github.com/cairnbuild/cairn/stages"
)

// Result says how a stage came to be there.
type Result string

// Results of a stage. The empty result, in a report, is that of a stage which a
// failed run did not come to the end of.
const (
	// ResultCached: it was published before this run, or what stands on it was.
	ResultCached Result = "cached"
	// ResultAdopted: another runner published it while this run wanted to, or it
	// came from the secondary storage.
	ResultAdopted Result = "adopted"
	// ResultAssembled: made here without the engine.
	ResultAssembled Result = "assembled"
	// ResultBuilt: made here on the engine.
	ResultBuilt Result = "built"
)

// Phase is what is going on with a stage.
type Phase string

// Phases of a stage, in their usual order.
const (
	PhaseLooking    Phase = "looking"    // the storage is asked whether it is there
	PhaseWaiting    Phase = "waiting"    // another runner holds it
	PhaseQueued     Phase = "queued"     // waits for a free slot or for what it is built upon
	PhaseRunning    Phase = "running"    // commands run or layers are made
	PhasePushing    Phase = "pushing"    // layers travel to the storage
	PhasePublishing Phase = "publishing" // decided, the name is being given
	PhaseDone       Phase = "done"
	PhaseFailed     Phase = "failed"
)

// Event tells an [Observer] what happens to a stage.
type Event struct {
	Time time.Time
	// Image is the first image of the plan that adds the stage itself, with its
	// platform where the image has several.
	Image string
	Stage *stages.Stage
	// Phase is empty for a line of output.
	Phase Phase
	// Result is set with [PhaseDone].
	Result Result
	// Line is one line of a command's output, without its end.
	Line []byte
	// Detail says more for people: whom the stage waits for.
	Detail string
	// Waited is for how long the stage has waited, with [PhaseWaiting].
	Waited time.Duration
	// Err is set with [PhaseFailed].
	Err error
}

// Observer is told what happens. Its calls come from many goroutines.
type Observer interface {
	Observe(e Event)
}

type silent struct{}

func (silent) Observe(Event) {}
