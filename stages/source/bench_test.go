package source

import (
	"fmt"
	"io"
	"runtime"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/cairnbuild/cairn/stages"
)

func benchTree(b *testing.B, files int) *Tree {
	paths := make([]string, files)
	for i := range paths {
		paths[i] = fmt.Sprintf("services/svc-%04d/internal/package%02d/file%d.%s", i%1000, i%17, i, []string{"go", "proto", "json"}[i%3])
	}
	return memoryTree(b, paths...)
}

// benchSelections are those of images of which every nth maps all of the tree
// and the others their own directory, each with globs of its own.
func benchSelections(images, nth int) []stages.Selection {
	kinds := []stages.Kind{stages.KindBeforeInstall, stages.KindInstall, stages.KindBeforeSetup, stages.KindSetup}
	var out []stages.Selection
	for i := range images {
		m := &stages.Mapping{Add: fmt.Sprintf("services/svc-%04d", i), To: "/app", ExcludePaths: []string{"**/*_test.go"}}
		prefix := ""
		if i%nth == 0 {
			m.Add, prefix = ".", m.Add+"/"
		}
		m.StageDependencies = map[stages.Kind][]string{
			stages.KindInstall:     {prefix + "**/go.mod", prefix + "*.json"},
			stages.KindBeforeSetup: {fmt.Sprintf("**/*%d.proto", i)},
			stages.KindSetup:       {prefix + "internal/**/*.go"},
		}
		for _, k := range append(kinds, stages.KindSource) {
			out = append(out, stages.Selection{Mapping: m, Kind: k, Stages: kinds})
		}
	}
	return out
}

func benchIdentities(b *testing.B, files int, sels []stages.Selection) {
	tree := benchTree(b, files)
	b.ReportAllocs()
	for b.Loop() {
		fresh := newTree(nil, "", tree.files)
		var group errgroup.Group
		group.SetLimit(runtime.GOMAXPROCS(0))
		for _, s := range sels {
			group.Go(func() error { _, _, err := fresh.Identity(s); return err })
		}
		if err := group.Wait(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkIdentitiesOf1000ImagesIn50000Files(b *testing.B) {
	benchIdentities(b, 50_000, benchSelections(1000, 10))
}

func BenchmarkIdentitiesOf100ImagesIn10000Files(b *testing.B) {
	benchIdentities(b, 10_000, benchSelections(100, 2))
}

// manyMappings are those of one image: all of the tree to one place, each with
// globs of its own, so that each hides something of those before it.
func manyMappings(n int) []stages.Mapping {
	out := make([]stages.Mapping, n)
	for i := range out {
		out[i] = stages.Mapping{
			Add: ".", To: "/app", IncludePaths: []string{fmt.Sprintf("**/*%d.go", i), fmt.Sprintf("services/svc-0%d*/**", i%10), "**/*.json"},
			ExcludePaths:      []string{fmt.Sprintf("**/package%02d/**", i), "**/*_test.go"},
			StageDependencies: map[stages.Kind][]string{stages.KindInstall: {"**/*.json"}, stages.KindSetup: {fmt.Sprintf("**/file*%d.go", i)}},
		}
		if i%4 == 3 { // some come from below, or go there
			out[i].Add, out[i].To = "services", "/app/services"
		}
	}
	return out
}

func BenchmarkAPlanOf20MappingsOf50000Files(b *testing.B) {
	tree := benchTree(b, 50_000)
	mappings := manyMappings(20)
	kinds := []stages.Kind{stages.KindInstall, stages.KindSetup}
	for b.Loop() {
		fresh := newTree(nil, "", tree.files)
		for i := range mappings {
			var later []*stages.Mapping
			for j := i + 1; j < len(mappings); j++ {
				later = append(later, &mappings[j])
			}
			for _, k := range append(kinds, stages.KindSource) {
				_, _, err := fresh.Identity(stages.Selection{Mapping: &mappings[i], Kind: k, Stages: kinds, Later: later})
				must(b, err)
			}
		}
	}
}

func BenchmarkCommit(b *testing.B) {
	for _, files := range []int{10_000, 50_000} {
		b.Run(fmt.Sprint(files), func(b *testing.B) {
			r := fastImport(b, files, func(i int) string { return fmt.Sprintf("services/svc-%04d/package%02d/file%d.go", i%1000, i%17, i) })
			b.ReportAllocs()
			for b.Loop() {
				repo, err := Open(b.Context(), r.dir)
				must(b, err)
				_, err = repo.Commit(b.Context(), "HEAD")
				must(b, err)
			}
		})
	}
}

func BenchmarkContents(b *testing.B) {
	r := fastImport(b, 10_000, func(i int) string { return fmt.Sprintf("d%02d/file%d", i%50, i) })
	tree := r.tree()
	files, err := tree.Files(everything())
	must(b, err)
	for b.Loop() {
		must(b, tree.Contents(b.Context(), files, func(_ File, _ int64, rd io.Reader) error {
			_, err := io.Copy(io.Discard, rd)
			return err
		}))
	}
}
