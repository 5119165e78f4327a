package engine

import (
	"context"
	"fmt"
	"strings"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/solver/pb"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cairnbuild/cairn/stages"
)

const (
	// storeID names the content store of published images in the engine's session.
	storeID = "cairn"
	// imageName is the repository under which the engine files published images.
	// One for all of them: a blob that it got for one image is found for another.
	imageName = "cairn.invalid/stage"
	// sourceDateEpoch is 2010-01-01, which tools that honour it write into their products.
	sourceDateEpoch = "1262304000"
	// maxArgument leaves room below the kernel's limit of 128 KiB for one argument.
	maxArgument = 100 << 10
	// scriptPath is where a script lies that is too long for an argument. Below /dev
	// a mount leaves no trace in the layer, because /dev is a mount itself.
	scriptPath = "/dev/cairn-script"
)

// builder turns jobs into the engine's build graph. The same job gives the same
// graph each time, so that the engine knows a result that it has again.
type builder struct {
	ctx     context.Context // of the run
	own     *Job            // that the run is for
	session string
	proxy   llb.ProxyEnv
	images  *imageStore
	trees   *treeSource
	// steps are the names of the steps of Dockerfiles, configs what those give, and
	// unchanged are the ones that leave the files of their bases as they are.
	steps     map[string]*Job
	configs   map[*Job][]byte
	unchanged map[*Job]bool
}

func (b *builder) job(j *Job) (llb.State, error) {
	if j.Dockerfile != nil {
		return b.dockerfile(j)
	}
	st, err := b.below(j)
	if err != nil {
		return st, fmt.Errorf("%s: %w", j.Name, err)
	}
	if j.Files != nil {
		if st, err = b.place(st, j); err != nil {
			return st, err
		}
	}
	if j.Commands != nil {
		return b.run(st, j), nil
	}
	return b.copies(st, j)
}

func (b *builder) below(j *Job) (llb.State, error) {
	switch {
	case j.After != nil:
		return b.job(j.After)
	case j.Parent != nil:
		return b.image(j.Parent, j.Platform)
	default:
		return llb.Scratch(), nil
	}
}

func (b *builder) image(i *Image, p stages.Platform) (llb.State, error) {
	layers, err := b.images.add(i)
	if err != nil {
		return llb.State{}, err
	}
	if layers == 0 {
		return llb.Scratch(), nil
	}
	return llb.OCILayout(imageName+"@"+i.Manifest.Digest.String(), llb.OCIStore(b.session, storeID), platform(p)), nil
}

// place puts the job's files into st. Where the image has something else in the
// place of a file, the file wins, as it does in a layer.
func (b *builder) place(st llb.State, j *Job) (llb.State, error) {
	l, err := b.trees.add(b.ctx, j)
	if err != nil {
		return st, fmt.Errorf("%s: %w", j.Name, err)
	}
	files := llb.Local(treeName(j),
		llb.SessionID(b.session), llb.SharedKeyHint(j.Key), llb.Differ(llb.DiffNone, true),
		llb.WithCustomName("send the files of "+j.Name), platform(j.Platform))
	actions := l.place(files)
	if actions == nil {
		return st, nil
	}
	return st.File(actions, llb.WithCustomName("place the files of "+j.Name), platform(j.Platform)), nil
}

func (b *builder) run(st llb.State, j *Job) llb.State {
	script := scriptOf(j)
	opts := []llb.RunOption{
		llb.Dir("/"), llb.Network(network(j.Commands.Network)), llb.WithProxy(b.proxy),
		llb.WithCustomName(vertexName(j)), platform(j.Platform),
	}
	if len(script) <= maxArgument {
		opts = append(opts, llb.Args([]string{j.Commands.Interpreter, "-e", "-c", script}))
	} else {
		file := llb.Scratch().File(llb.Mkfile("/script", 0o444, []byte(script)), platform(j.Platform))
		opts = append(opts,
			llb.Args([]string{j.Commands.Interpreter, "-e", scriptPath}),
			llb.AddMount(scriptPath, file, llb.SourcePath("/script"), llb.Readonly))
	}
	opts = append(opts, mounts(j)...)
	for _, kv := range j.Env {
		k, v, _ := strings.Cut(kv, "=")
		opts = append(opts, llb.AddEnv(k, v))
	}
	opts = append(opts, llb.AddEnv("SOURCE_DATE_EPOCH", sourceDateEpoch))
	// A fresh state: this environment is not that of the next job.
	return llb.NewState(st.Run(opts...).Root().Output())
}

// scriptOf begins with the stage digest, which so becomes part of the engine's key.
func scriptOf(j *Job) string {
	return "# " + j.Key + "\n" + strings.Join(j.Commands.Script, "\n") + "\n"
}

func (b *builder) copies(st llb.State, j *Job) (llb.State, error) {
	var action *llb.FileAction
	for _, c := range j.Copies {
		from, err := b.source(c, j.Platform)
		if err != nil {
			return from, fmt.Errorf("%s: %w", j.Name, err)
		}
		info := &llb.CopyInfo{
			CopyDirContentsOnly: true, CreateDestPath: true, AlwaysReplaceExistingDestPaths: true,
			IncludePatterns: c.Include, ExcludePatterns: c.Exclude,
		}
		if c.Chown {
			info.ChownOpt = &llb.ChownOpt{User: &llb.UserOpt{UID: c.UID}, Group: &llb.UserOpt{UID: c.GID}}
		}
		if action == nil {
			action = llb.Copy(from, c.Add, c.To, info)
		} else {
			action = action.Copy(from, c.Add, c.To, info)
		}
	}
	return st.File(action, llb.WithCustomName(vertexName(j)), platform(j.Platform)), nil
}

func (b *builder) source(c Copy, p stages.Platform) (llb.State, error) {
	if c.FromJob != nil {
		return b.job(c.FromJob)
	}
	return b.image(c.From, p)
}

// vertexName is how the job's own step is told from others in the engine's reports.
func vertexName(j *Job) string { return "job " + j.Key }

func network(name string) pb.NetMode {
	switch name {
	case "none":
		return llb.NetModeNone
	case "host":
		return llb.NetModeHost
	default:
		return llb.NetModeSandbox
	}
}

func platform(p stages.Platform) llb.ConstraintsOpt {
	return llb.Platform(ocispec.Platform{OS: p.OS(), Architecture: p.Architecture(), Variant: p.Variant()})
}
