package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"strings"

	"github.com/cairnbuild/cairn/hack/runner"
)

const treeBytes = 100 << 20

// tree changes one file of a large tree and looks at what is uploaded.
func tree(ctx context.Context, b *bench) ([]figure, error) {
	base, err := b.registry.PushBase(ctx, "busybox")
	if err != nil {
		return nil, err
	}
	var names []string
	r, err := b.repository(ctx, "tree", true, treeFiles(&names),
		text("cairn.yaml", "project: tree\nconfigVersion: 1\n---\nimage: data\nfrom: "+base+"\ngit:\n- {add: /data, to: /data}\n"))
	if err != nil {
		return nil, err
	}
	whole, err := b.cairn(ctx, r.Dir, "tree/stages")
	if err != nil {
		return nil, err
	}
	var worst int64
	for i := range b.rounds {
		name := names[len(names)*i/b.rounds]
		if err := r.Append(name, "more\n"); err != nil {
			return nil, err
		}
		if err := r.Commit(ctx, "Change "+name); err != nil {
			return nil, err
		}
		run, err := b.cairn(ctx, r.Dir, "tree/stages")
		if err != nil {
			return nil, err
		}
		b.say("round %d: %.2f MB of %.0f MB uploaded in %.2f s", i+1, mb(run.uploaded), mb(whole.uploaded), run.Wall.Seconds())
		worst = max(worst, run.uploaded)
	}
	layers, err := b.layers(ctx, "tree/stages", whole)
	if err != nil {
		return nil, err
	}
	share := 100 * float64(worst) / treeBytes
	return []figure{
		{what: "files in the tree", got: fmt.Sprint(len(names))},
		seconds("first build", whole.Wall, 0),
		{what: "uploaded after a change of one file, worst round", got: fmt.Sprintf("%.2f %%", share), target: "≤ 5 %", missed: share > 5},
		count("source layers", int64(layers-1), 32),
	}, nil
}

// treeFiles writes files of 10 KB to 1 MB, small ones oftener, that do not compress.
func treeFiles(names *[]string) writer {
	return func(r runner.Repository) error {
		random := rand.New(rand.NewChaCha8([32]byte{'t', 'r', 'e', 'e'}))
		bytes := rand.NewChaCha8([32]byte{'d', 'a', 't', 'a'})
		for total := 0; total < treeBytes; {
			content := make([]byte, int(10e3*math.Pow(100, random.Float64())))
			_, _ = bytes.Read(content) // never fails
			name := fmt.Sprintf("data/%02d/%d.bin", len(*names)%20, len(*names))
			if err := r.Write(name, content); err != nil {
				return err
			}
			*names = append(*names, name)
			total += len(content)
		}
		return nil
	}
}

// layers returns how many layers the only image of a build has.
func (b *bench) layers(ctx context.Context, storage string, run cairnRun) (int, error) {
	final := run.report.Images[0].Stages
	tag := strings.TrimPrefix(final[len(final)-1].Digest, "sha256:")
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.registry.URL()+"/v2/"+storage+"/manifests/"+tag, nil)
	if err != nil {
		return 0, err
	}
	req.Header.Set("Accept", "application/vnd.oci.image.manifest.v1+json")
	resp, err := b.registry.Client().Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err
	}
	var m struct{ Layers []struct{ Digest string } }
	if err := json.Unmarshal(body, &m); err != nil || len(m.Layers) == 0 {
		return 0, fmt.Errorf("the manifest of stage %s cannot be read: %w: %s", tag, err, body)
	}
	return len(m.Layers), nil
}

func mb(n int64) float64 { return float64(n) / (1 << 20) }
