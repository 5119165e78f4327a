package storage

import "context"

// DeletionProber finds out whether it deletes anything, before who relies on that has
// begun. Storages that always delete do not implement it; what wraps one and passes
// its deletions on passes this on as well.
type DeletionProber interface {
	// ProbeDeletion fails as DeleteTag would where no tag can be deleted.
	ProbeDeletion(ctx context.Context) error
}

// ProbeDeletion asks s, where it is a [DeletionProber], whether tags can be deleted.
func ProbeDeletion(ctx context.Context, s Deleter) error {
	if p, ok := s.(DeletionProber); ok {
		return p.ProbeDeletion(ctx)
	}
	return nil
}
