package synchronization

// Objects returns the names of all objects that the ledger of a project is made of,
// its record last: who removes them in this order leaves, when interrupted, a record
// that says that the ledger is closed.
func Objects(project string) []string { return append(allShards(project), recordName(project)) }

// Group returns the name under which a project's sessions are recorded.
func Group(project string) string { return recordName(project) }
