package main

import (
	"context"
	"fmt"
	"time"
)

// first builds four command stages that nobody has built before. One kind of
// command keeps a core busy, the other waits, as for a download; the second
// shows what is spent around the commands.
func first(ctx context.Context, b *bench) ([]figure, error) {
	base, err := b.registry.PushBase(ctx, "busybox")
	if err != nil {
		return nil, err
	}
	var figures []figure
	for _, kind := range []struct {
		name, command string
		most          float64
	}{
		{"busy", "head -c 400000000 /dev/zero | sha256sum > /result", 1.25},
		{"waiting", "sleep 3 && date > /result", 1.10},
	} {
		ours, theirs, stages, err := b.firstRounds(ctx, base, kind.name, kind.command)
		if err != nil {
			return nil, err
		}
		figures = append(figures,
			seconds("cairn build, "+kind.name, median(ours), 0),
			seconds("buildctl with cache export, "+kind.name, median(theirs), 0),
			slower("cairn over buildctl, "+kind.name, median(ours), median(theirs), kind.most),
			exactly("stages published, "+kind.name, stages, int64(5)))
	}
	return figures, nil
}

func (b *bench) firstRounds(ctx context.Context, base, name, command string) (ours, theirs []time.Duration, stages int64, err error) {
	r, err := b.repository(ctx, "first", true, text("cairn.yaml", firstConfig(base, name, command, 0)), text("Dockerfile", firstDockerfile(base, command, 0)))
	if err != nil {
		return nil, nil, 0, err
	}
	for i := range b.rounds {
		// Another text of the commands is what makes them new on both sides.
		if err := r.Write("cairn.yaml", []byte(firstConfig(base, name, command, i+1))); err != nil {
			return nil, nil, 0, err
		}
		if err := r.Write("Dockerfile", []byte(firstDockerfile(base, command, i+1))); err != nil {
			return nil, nil, 0, err
		}
		if err := r.Commit(ctx, "New commands"); err != nil {
			return nil, nil, 0, err
		}
		run, err := b.cairn(ctx, r.Dir, "first-"+name+"/stages")
		if err != nil {
			return nil, nil, 0, err
		}
		took, err := b.yardOnce(ctx, yardBuild{dir: r.Dir, file: "Dockerfile", image: "first-" + name + "/image", export: true})
		if err != nil {
			return nil, nil, 0, err
		}
		b.say("round %d, %s: cairn %.2f s, buildctl %.2f s", i+1, name, run.Wall.Seconds(), took.Seconds())
		ours, theirs = append(ours, run.Wall), append(theirs, took)
		stages = int64(len(run.report.Images[0].Stages))
	}
	return ours, theirs, stages, nil
}

func firstConfig(base, name, command string, round int) string {
	var d document
	d.line("project: first-%s\nconfigVersion: 1\n---\nimage: app\nfrom: %s\nshell:", name, base)
	for _, section := range []string{"beforeInstall", "install", "beforeSetup", "setup"} {
		d.line("  %s: [%q]", section, fmt.Sprintf("%s && echo %s %d", command, section, round))
	}
	return d.String()
}

func firstDockerfile(base, command string, round int) string {
	var d document
	d.line("FROM %s", base)
	for _, section := range []string{"beforeInstall", "install", "beforeSetup", "setup"} {
		d.line("RUN %s && echo %s %d", command, section, round)
	}
	return d.String()
}
