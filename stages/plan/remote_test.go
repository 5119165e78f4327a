package plan_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/stages/config"
	"github.com/cairnbuild/cairn/stages/plan"
)

// servers are other repositories; they note what they are asked.
type servers struct{ asked []string }

func (s *servers) ResolveRemote(_ context.Context, r stages.Remote) (string, error) {
	s.asked = append(s.asked, "resolve "+r.Words())
	return strings.Repeat("a", 40), nil
}

func (s *servers) OpenRemote(_ context.Context, r stages.Remote, commit string) error {
	s.asked = append(s.asked, fmt.Sprintf("open %s at %.4s", r.Words(), commit))
	return nil
}

func TestOtherRepositoriesAreReadOnceAndOnlyForImagesThatNeedThem(t *testing.T) {
	branch := stages.Remote{URL: "git@example.com:lib", Ref: "refs/heads/main"}
	fixed := stages.Remote{URL: "git@example.com:lib", Ref: strings.Repeat("c", 40)}
	image := func(name string, remotes ...stages.Remote) config.Image {
		img := config.Image{Name: name, Platforms: amd64, From: "scratch", Interpreter: "sh"}
		for _, r := range remotes {
			img.Git = append(img.Git, stages.Mapping{Remote: r, Add: "src", To: "/"})
		}
		return img
	}
	project := &config.Project{Name: "shop", Images: []config.Image{image("a", branch, branch, fixed), image("b", branch), image("c")}}
	if got := plan.RemotesOf(project); !slices.Equal(got, []stages.Remote{branch, fixed}) {
		t.Errorf("the project refers to %v", got)
	}
	pinned := &plan.Lock{}
	pinned.PinCommit(branch, strings.Repeat("b", 40))
	for _, tt := range []struct {
		name   string
		lock   *plan.Lock
		images []string
		want   string
		pinned []bool
	}{
		{"without an entry a branch is resolved once", nil, nil, "resolve branch main, open branch main at aaaa, open " + fixed.Ref + " at cccc", []bool{false, true}},
		{"with an entry nobody is asked what it is", pinned, nil, "open branch main at bbbb, open " + fixed.Ref + " at cccc", []bool{true, true}},
		{"an image that needs one alone", pinned, []string{"b"}, "open branch main at bbbb", []bool{true}},
		{"an image that needs none", nil, []string{"c"}, "", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := &servers{}
			p := mustPlan(t, plan.Input{Project: project, Files: files(), Lock: tt.lock, Remotes: s, Images: tt.images})
			if got := strings.Join(s.asked, ", "); got != tt.want {
				t.Errorf("asked %s\nwant  %s", got, tt.want)
			}
			var got []bool
			for _, r := range p.Remotes {
				got = append(got, r.Pinned)
			}
			if !slices.Equal(got, tt.pinned) {
				t.Errorf("pinned %v, want %v", got, tt.pinned)
			}
		})
	}
	moved := mustPlan(t, plan.Input{Project: project, Files: files(), Remotes: &servers{}})
	stays := mustPlan(t, plan.Input{Project: project, Files: files(), Lock: pinned, Remotes: &servers{}})
	if moved.Images[0].Final().Digest != stays.Images[0].Final().Digest {
		t.Error("the commit is part of a digest though the files are equal")
	}
}
