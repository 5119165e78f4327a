package e2e

import (
	"slices"
	"strings"
	"testing"
)

// What mounts leave in the layers is what RUN --mount leaves: the directories on
// the way to a mount are no work of the commands.
func TestMountsLeaveWhatThoseOfADockerfileLeave(t *testing.T) {
	t.Parallel()
	p := newProject(t, `
-- cairn.yaml --
project: mounts
---
image: app
from: @REGISTRY@/base/busybox:latest
mount:
- {type: cache, to: /root/.npm}
- {type: cache, to: /var/deep/er/cache, id: deep}
- {type: tmpfs, to: /tmp/work}
- {type: secret, id: token, to: /etc/secrets/token}
- {type: secret, id: token, to: /etc/passwd, sections: setup}
shell:
  install:
  - echo a > /root/.npm/a; echo b > /var/deep/er/cache/b; echo c > /tmp/work/c
  - mkdir -p /opt/made && cat /etc/secrets/token > /dev/null
  beforeSetup: 'true'
  setup: echo d > /var/d && rm -r /opt/made
docker:
  CMD: [/bin/sh]
-- Dockerfile --
FROM @REGISTRY@/base/busybox:latest AS app
RUN --mount=type=cache,target=/root/.npm --mount=type=cache,target=/var/deep/er/cache,id=deep \
    --mount=type=tmpfs,target=/tmp/work --mount=type=secret,id=token,target=/etc/secrets/token \
    echo a > /root/.npm/a; echo b > /var/deep/er/cache/b; echo c > /tmp/work/c; \
    mkdir -p /opt/made && cat /etc/secrets/token > /dev/null
RUN --mount=type=cache,target=/root/.npm --mount=type=cache,target=/var/deep/er/cache,id=deep \
    --mount=type=tmpfs,target=/tmp/work --mount=type=secret,id=token,target=/etc/secrets/token \
    --mount=type=secret,id=token,target=/etc/passwd \
    echo d > /var/d && rm -r /opt/made
CMD [/bin/sh]
-- token --
a-token
`, shared.registry)
	h := newHost(t, 0)
	h.env = []string{"TOKEN=a-token"}
	storage := storageOf(t, shared.registry, "")
	r := h.build(t, p, storage, "--secret", "id=token,env=TOKEN")
	got := pull(t, r.ref(t, "app"))
	want := dockerfile(t, p.dir, "app", "--secret", "id=token,src="+p.dir+"/token")
	for _, d := range diffTrees(readTree(t, got), readTree(t, want)) {
		t.Error(d)
	}
	// The same on another engine, with empty caches.
	again := newHost(t, 1)
	again.env = h.env
	compareStages(t, r, again.build(t, p, storageOf(t, shared.registry, "-again"), "--secret", "id=token,env=TOKEN"))
	// Who has no secret can use what is there.
	without := newHost(t, 1).build(t, p, storage)
	if without.EngineStarted || without.Root != r.Root {
		t.Errorf("without the secret: engine %v, root %s", without.EngineStarted, without.Root)
	}
}

// An import that is made of whole layers gives the files that the engine's copy gives.
func TestWholeLayersHoldWhatTheEngineCopies(t *testing.T) {
	t.Parallel()
	const all = "{image: lib, add: /, before: install}"
	const copied = "{image: lib, add: /, before: install, excludePaths: [no-such-path]}"
	p := newProject(t, strings.NewReplacer("ALL", all, "COPIED", copied, "FILES", strings.ReplaceAll(all, "lib", "files"),
		"FILED", strings.ReplaceAll(copied, "lib", "files")).Replace(`
-- cairn.yaml --
project: whole
---
image: lib
from: @REGISTRY@/base/busybox:latest
git:
- {add: /lib, to: /opt/lib, owner: 7, stageDependencies: {setup: a}}
shell:
  install:
  - mkdir -p /dev/shm /opt/gone /opt/replaced && echo x > /opt/gone/x && echo y > /opt/replaced/y
  - echo one > /opt/one && ln /opt/one /opt/two && ln -s one /opt/three && mkfifo /opt/pipe && mknod /opt/null c 1 3
  setup:
  - rm -r /opt/gone /opt/replaced /opt/three /tmp && echo file > /opt/replaced && chmod 4755 /opt/one
  - mkdir /opt/empty && chmod 1777 /opt/empty && chown 12:34 /opt/lib/a
---
image: files
from: @REGISTRY@/base/busybox:latest
git: [{add: /lib, to: /lib64/x, owner: 9}]
---
image: whole
from: scratch
import: [ALL]
---
image: copied
from: scratch
import: [COPIED]
---
image: above
from: @REGISTRY@/base/busybox:latest
import: [FILES]
---
image: above-copied
from: @REGISTRY@/base/busybox:latest
import: [FILED]
-- lib/a --
a
-- lib/b --
#!/bin/sh
`), shared.registry)
	r := newHost(t, 0).build(t, p, storageOf(t, shared.registry, ""))
	for image, engine := range map[string]string{"whole": "copied", "above": "above-copied"} {
		if res := r.results(); res[image+"/importsBeforeInstall"] != "assembled" || res[engine+"/importsBeforeInstall"] != "built" {
			t.Errorf("%s is %s, %s is %s", image, res[image+"/importsBeforeInstall"], engine, res[engine+"/importsBeforeInstall"])
		}
		got, want := readTree(t, pull(t, r.ref(t, image))), readTree(t, pull(t, r.ref(t, engine)))
		for _, d := range diffTrees(got, want) {
			t.Errorf("%s: %s", image, d)
		}
	}
	plan := succeededText(t, newHost(t, 0).run(t, p, "plan", "--offline"))
	for _, want := range []string{"whole assembled", "copied engine", "above assembled", "above-copied engine"} {
		if image, how, _ := strings.Cut(want, " "); !planned(plan, image, "importsBeforeInstall", how) {
			t.Errorf("plan does not say that %s is made by: %s\n%s", image, how, plan)
		}
	}
}

func succeededText(t *testing.T, r result) string {
	t.Helper()
	succeeded(t, r)
	return r.stdout
}

// planned reports whether a plan says of an image's stage how it is made.
func planned(plan, image, stage, how string) bool {
	for line := range strings.Lines(plan) {
		f := strings.Fields(line)
		if len(f) > 2 && f[0] == image && slices.Contains(f, stage) && f[len(f)-1] == how {
			return true
		}
	}
	return false
}
