package scaffold

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"reflect"
	"strings"

	"github.com/bmatcuk/doublestar/v4"
	"go.yaml.in/yaml/v3"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/stages/config"
)

// fromWerf converts a werf.yaml, as far as it can be read.
func fromWerf(ctx context.Context, dir fs.FS, file string, data []byte) (Result, error) {
	out := Result{Found: []Found{{Kind: KindWerf, Path: file}}}
	p, err := config.Load(ctx, config.Input{Path: file, Data: data, Files: onDisk{dir}})
	var wrong *config.Errors
	if errors.As(err, &wrong) {
		for _, e := range wrong.List {
			out.Unconverted = append(out.Unconverted, Unconverted{e.File, e.Line, e.Message, e.Hint})
		}
		return out, nil
	}
	if err != nil {
		return Result{}, err
	}
	for i := range p.Images {
		out.Found = append(out.Found, Found{Kind: KindWerf, Path: file, Image: p.Images[i].Name})
	}
	text, err := write(p)
	if err != nil {
		return Result{}, err
	}
	again, err := Check(ctx, text)
	if err != nil {
		return Result{}, fmt.Errorf("convert %s: %w", file, err)
	}
	for i := range p.Images {
		if !same(p.Images[i], again.Images[i]) {
			out.Unconverted = append(out.Unconverted, Unconverted{
				File: file, Line: p.Images[i].Line, Message: fmt.Sprintf("the image %q would not be the same", p.Images[i].Name),
				Hint: "write it in cairn.yaml by hand",
			})
		}
	}
	if len(out.Unconverted) == 0 {
		out.Text = text
	}
	return out, nil
}

// same compares two images but for where they stand.
func same(a, b config.Image) bool {
	for _, i := range []*config.Image{&a, &b} {
		i.Line, i.GitLines = 0, nil
		imports := append([]config.Import(nil), i.Imports...)
		for j := range imports {
			imports[j].Line = 0
		}
		i.Imports = imports
		if i.Dockerfile != nil {
			d := *i.Dockerfile
			d.Line = 0
			i.Dockerfile = &d
		}
		if len(i.Shell) == 0 {
			i.Shell, i.Interpreter = nil, ""
		}
	}
	return reflect.DeepEqual(a, b)
}

// onDisk gives template files.
type onDisk struct{ dir fs.FS }

// Read implements [config.Files].
func (d onDisk) Read(_ context.Context, name string) ([]byte, error) { return readFile(d.dir, name) }

// Glob implements [config.Files].
func (d onDisk) Glob(_ context.Context, pattern string) ([]string, error) {
	return doublestar.Glob(d.dir, pattern, doublestar.WithFilesOnly())
}

// The documents of the file that is written, in the order of their keys.
type (
	imageDoc struct {
		Image            *string           `yaml:"image"`
		Platform         []stages.Platform `yaml:"platform,omitempty"`
		From             string            `yaml:"from,omitempty"`
		FromImage        string            `yaml:"fromImage,omitempty"`
		FromCacheVersion string            `yaml:"fromCacheVersion,omitempty"`
		Dockerfile       string            `yaml:"dockerfile,omitempty"`
		Context          string            `yaml:"context,omitempty"`
		Target           string            `yaml:"target,omitempty"`
		Args             map[string]string `yaml:"args,omitempty"`
		AddHost          []string          `yaml:"addHost,omitempty"`
		Network          string            `yaml:"network,omitempty"`
		Secrets          []string          `yaml:"secrets,omitempty"`
		SSH              []string          `yaml:"ssh,omitempty"`
		Git              []gitDoc          `yaml:"git,omitempty"`
		Mount            []mountDoc        `yaml:"mount,omitempty"`
		Shell            map[string]any    `yaml:"shell,omitempty"`
		Import           []importDoc       `yaml:"import,omitempty"`
		Docker           map[string]any    `yaml:"docker,omitempty"`
	}
	gitDoc struct {
		URL               string                   `yaml:"url,omitempty"`
		Branch            string                   `yaml:"branch,omitempty"`
		Tag               string                   `yaml:"tag,omitempty"`
		Commit            string                   `yaml:"commit,omitempty"`
		Add               string                   `yaml:"add"`
		To                string                   `yaml:"to"`
		Owner             string                   `yaml:"owner,omitempty"`
		Group             string                   `yaml:"group,omitempty"`
		IncludePaths      []string                 `yaml:"includePaths,omitempty"`
		ExcludePaths      []string                 `yaml:"excludePaths,omitempty"`
		StageDependencies map[stages.Kind][]string `yaml:"stageDependencies,omitempty"`
	}
	mountDoc struct {
		Type    stages.MountType `yaml:"type"`
		To      string           `yaml:"to"`
		ID      string           `yaml:"id,omitempty"`
		Sharing stages.Sharing   `yaml:"sharing,omitempty"`
	}
	importDoc struct {
		Image        string   `yaml:"image"`
		Add          string   `yaml:"add"`
		To           string   `yaml:"to"`
		Before       string   `yaml:"before,omitempty"`
		After        string   `yaml:"after,omitempty"`
		Owner        string   `yaml:"owner,omitempty"`
		Group        string   `yaml:"group,omitempty"`
		IncludePaths []string `yaml:"includePaths,omitempty"`
		ExcludePaths []string `yaml:"excludePaths,omitempty"`
	}
)

// write writes a project as a cairn.yaml. Templates are gone: what they made is there.
func write(p *config.Project) (string, error) {
	var b bytes.Buffer
	b.WriteString("# Converted from werf.yaml. What its templates made is written out.\n")
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := e.Encode(map[string]string{"project": p.Name}); err != nil {
		return "", err
	}
	for i := range p.Images {
		if err := e.Encode(document(&p.Images[i])); err != nil {
			return "", err
		}
	}
	err := e.Close()
	return untemplated(b.String()), err
}

func document(i *config.Image) imageDoc {
	d := imageDoc{Platform: i.Platforms, From: i.From, FromImage: i.FromImage, FromCacheVersion: i.CacheVersion, Docker: dockerDoc(&i.Docker)}
	if i.Name != "" {
		d.Image = &i.Name
	}
	if f := i.Dockerfile; f != nil {
		d.Dockerfile, d.Context, d.Target, d.Args = f.Path, f.Context, f.Target, f.Args
		d.AddHost, d.Network, d.Secrets, d.SSH = f.AddHosts, f.Network, f.Secrets, f.SSH
	}
	for _, m := range i.Git {
		d.Git = append(d.Git, mapping(m))
	}
	for kind, s := range i.Shell {
		if d.Shell == nil {
			d.Shell = map[string]any{"interpreter": i.Interpreter}
		}
		d.Shell[string(kind)] = s.Commands
		d.Mount = mounts(s.Mounts)
		if s.CacheVersion != "" {
			d.Shell[string(kind)+"CacheVersion"] = s.CacheVersion
		}
	}
	for _, im := range i.Imports {
		out := importDoc{Image: im.Image, Add: im.Add, To: im.To, Owner: im.Owner, Group: im.Group, IncludePaths: im.IncludePaths, ExcludePaths: im.ExcludePaths}
		switch im.Kind {
		case stages.KindImportBeforeInstall:
			out.Before = "install"
		case stages.KindImportAfterInstall:
			out.After = "install"
		case stages.KindImportBeforeSetup:
			out.Before = "setup"
		default:
			out.After = "setup"
		}
		d.Import = append(d.Import, out)
	}
	return d
}

func mapping(m stages.Mapping) gitDoc {
	d := gitDoc{
		URL: m.Remote.URL, Add: m.Add, To: m.To, Owner: m.Owner, Group: m.Group,
		IncludePaths: m.IncludePaths, ExcludePaths: m.ExcludePaths, StageDependencies: m.StageDependencies,
	}
	branch, isBranch := strings.CutPrefix(m.Remote.Ref, "refs/heads/")
	tag, isTag := strings.CutPrefix(m.Remote.Ref, "refs/tags/")
	switch {
	case isBranch:
		d.Branch = branch
	case isTag:
		d.Tag = tag
	case m.Remote.Ref != stages.RemoteHead:
		d.Commit = m.Remote.Ref
	}
	return d
}

// mounts writes those of a section: in a werf.yaml all sections have the same.
func mounts(list []stages.Mount) []mountDoc {
	var out []mountDoc
	for _, m := range list {
		d := mountDoc{m.Type, m.To, m.ID, m.Sharing}
		if d.ID == d.To { // which not every path may be, when it is written
			d.ID = ""
		}
		out = append(out, d)
	}
	return out
}

func dockerDoc(c *stages.Config) map[string]any {
	out := map[string]any{}
	put := func(key string, set bool, v any) {
		if set {
			out[key] = v
		}
	}
	put("WORKDIR", c.WorkDir != "", c.WorkDir)
	put("USER", c.User != "", c.User)
	put("EXPOSE", len(c.Expose) > 0, c.Expose)
	put("ENV", len(c.Env) > 0, c.Env)
	put("LABEL", len(c.Labels) > 0, c.Labels)
	put("ENTRYPOINT", len(c.Entrypoint) > 0, c.Entrypoint)
	put("CMD", len(c.Cmd) > 0, c.Cmd)
	put("VOLUME", len(c.Volumes) > 0, c.Volumes)
	put("STOPSIGNAL", c.StopSignal != "", c.StopSignal)
	if h := c.Healthcheck; h != nil {
		check := map[string]any{"test": h.Test}
		for key, n := range map[string]int64{"interval": h.Interval, "timeout": h.Timeout, "startPeriod": h.StartPeriod} {
			if n > 0 {
				check[key] = fmt.Sprintf("%dns", n)
			}
		}
		if h.Retries > 0 {
			check["retries"] = h.Retries
		}
		out["HEALTHCHECK"] = check
	}
	return out
}
