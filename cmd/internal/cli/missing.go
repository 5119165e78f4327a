package cli

import (
	"fmt"

	"github.com/cairnbuild/cairn/cmd/internal/wire"
	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/stages/engine"
)

// importError is an import of a path that its source lacks, told with the place
// in the configuration instead of the stage that failed.
type importError struct {
	place, image string
	missing      *engine.MissingPathError
	err          error
}

func (e *importError) Error() string {
	out := e.missing.Error()
	if e.image != "" {
		out = fmt.Sprintf("image %s: %s", e.image, out)
	}
	return e.place + out
}

func (e *importError) Unwrap() error { return e.err }

// explainImport finds the import that failed; err is the failure of the build.
func explainImport(p *wire.Project, planned *stages.Plan, missing *engine.MissingPathError, err error) error {
	out := &importError{missing: missing, err: err}
	for _, img := range planned.All() {
		for _, s := range img.Stages[len(img.Stages)-img.Own:] {
			if s.Digest.String() == missing.Job.Key {
				out.image, out.place = img.Name, importPlace(p, img.Name, s.Recipe.Kind, missing.Path)
				return out
			}
		}
	}
	return out
}

// importPlace returns "file:line: " of an import, "" where it is not found.
func importPlace(p *wire.Project, image string, kind stages.Kind, add string) string {
	img, ok := p.Config.Image(image)
	if !ok {
		return ""
	}
	for _, i := range img.Imports {
		if i.Kind == kind && i.Add == add {
			return fmt.Sprintf("%s:%d: ", p.File, i.Line)
		}
	}
	return ""
}
