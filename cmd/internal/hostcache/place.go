package hostcache

import "github.com/cairnbuild/cairn/cleanup/host"

// Place is a directory with the stores in it.
type Place struct {
	Path   string
	Stores []host.Store
}

// Volumes merges places that are on the same volume: its fill level is theirs
// together. The path is that of the first.
func Volumes(places []Place) ([]Place, error) {
	var out []Place
	at := map[string]int{}
	for _, p := range places {
		volume, err := volumeOf(p.Path)
		if err != nil {
			return nil, err
		}
		if i, ok := at[volume]; ok {
			out[i].Stores = append(out[i].Stores, p.Stores...)
			continue
		}
		at[volume] = len(out)
		out = append(out, p)
	}
	return out, nil
}

// Passer returns what makes passes over the place's volume.
func (p Place) Passer() host.Passer {
	return host.Passer{Stores: p.Stores, Measure: func() (host.Volume, error) { return Measure(p.Path) }}
}
