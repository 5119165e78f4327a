package assemble

import (
	"encoding/json"
	"testing"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"

	"github.com/cairnbuild/cairn/stages"
)

func TestConfigMeansWhatItMeansInADockerfile(t *testing.T) {
	cases := map[string]struct {
		below string
		cfg   stages.Config
		want  string
		fails bool
	}{
		"nothing set changes nothing": {
			below: `{"User":"a","Env":["B=1","A=2"],"Cmd":["x"]}`, want: `{"User":"a","Env":["B=1","A=2"],"Cmd":["x"]}`,
		},
		"ENV replaces in place and appends by name": {
			below: `{"Env":["PATH=/bin","A=1","A=2","odd"]}`, cfg: stages.Config{Env: map[string]string{"Z": "z", "A": "3", "M": ""}},
			want: `{"Env":["PATH=/bin","A=3","odd","M=","Z=z"]}`,
		},
		"ENV is literal":                     {cfg: stages.Config{Env: map[string]string{"A": "$PATH:${B}"}}, want: `{"Env":["A=$PATH:${B}"]}`},
		"ENV without a name is an error":     {cfg: stages.Config{Env: map[string]string{"": "x"}}, fails: true},
		"ENV with = in its name is an error": {cfg: stages.Config{Env: map[string]string{"A=B": "x"}}, fails: true},
		"EXPOSE is tcp unless it says otherwise, and may be a range": {
			below: `{"ExposedPorts":{"1/tcp":{}}}`, cfg: stages.Config{Expose: []string{"80", "53/UDP", "8000-8002/sctp", "80/tcp"}},
			want: `{"ExposedPorts":{"1/tcp":{},"53/udp":{},"80/tcp":{},"8000/sctp":{},"8001/sctp":{},"8002/sctp":{}}}`,
		},
		"EXPOSE of a name is an error":             {cfg: stages.Config{Expose: []string{"http"}}, fails: true},
		"EXPOSE of an unknown protocol is one":     {cfg: stages.Config{Expose: []string{"80/icmp"}}, fails: true},
		"EXPOSE of a range backwards is one":       {cfg: stages.Config{Expose: []string{"90-80"}}, fails: true},
		"EXPOSE of a port that cannot be is one":   {cfg: stages.Config{Expose: []string{"65536"}}, fails: true},
		"EXPOSE with a port of the host is one":    {cfg: stages.Config{Expose: []string{"8080:80"}}, fails: true},
		"LABEL adds and replaces":                  {below: `{"Labels":{"a":"1","b":"2"}}`, cfg: stages.Config{Labels: map[string]string{"b": "3", "c": ""}}, want: `{"Labels":{"a":"1","b":"3","c":""}}`},
		"VOLUME adds":                              {below: `{"Volumes":{"/a":{}}}`, cfg: stages.Config{Volumes: []string{"/b", "/a"}}, want: `{"Volumes":{"/a":{},"/b":{}}}`},
		"WORKDIR is absolute":                      {below: `{"WorkingDir":"/a"}`, cfg: stages.Config{WorkDir: "/b/../c/"}, want: `{"WorkingDir":"/c"}`},
		"WORKDIR is joined with the one below":     {below: `{"WorkingDir":"/a"}`, cfg: stages.Config{WorkDir: "b/./c"}, want: `{"WorkingDir":"/a/b/c"}`},
		"WORKDIR is joined with the root":          {cfg: stages.Config{WorkDir: "b"}, want: `{"WorkingDir":"/b"}`},
		"WORKDIR does not leave the root":          {cfg: stages.Config{WorkDir: "../../b"}, want: `{"WorkingDir":"/b"}`},
		"ENTRYPOINT clears CMD":                    {below: `{"Cmd":["x"],"Entrypoint":["y"]}`, cfg: stages.Config{Entrypoint: []string{"z", "1"}}, want: `{"Entrypoint":["z","1"]}`},
		"CMD leaves ENTRYPOINT":                    {below: `{"Cmd":["x"],"Entrypoint":["y"]}`, cfg: stages.Config{Cmd: []string{"z"}}, want: `{"Entrypoint":["y"],"Cmd":["z"]}`},
		"ENTRYPOINT and CMD together":              {below: `{"Cmd":["x"]}`, cfg: stages.Config{Entrypoint: []string{"e"}, Cmd: []string{"c"}}, want: `{"Entrypoint":["e"],"Cmd":["c"]}`},
		"USER and STOPSIGNAL replace":              {below: `{"User":"a","StopSignal":"SIGTERM"}`, cfg: stages.Config{User: "b:c", StopSignal: "SIGINT"}, want: `{"User":"b:c","StopSignal":"SIGINT"}`},
		"HEALTHCHECK NONE is alone":                {below: `{"Healthcheck":{"Test":["CMD","x"],"Interval":5}}`, cfg: stages.Config{Healthcheck: &stages.Healthcheck{Test: []string{"NONE"}, Interval: 3}}, want: `{"Healthcheck":{"Test":["NONE"]}}`},
		"HEALTHCHECK inherits what it leaves open": {below: `{"Healthcheck":{"Test":["CMD","x"],"Interval":5,"Retries":2}}`, cfg: stages.Config{Healthcheck: &stages.Healthcheck{Test: []string{"CMD", "y"}, Interval: 3, Timeout: 4, StartPeriod: 1}}, want: `{"Healthcheck":{"Test":["CMD","y"],"Interval":3,"Timeout":4,"StartPeriod":1,"Retries":2}}`},
		"HEALTHCHECK inherits nothing from NONE":   {below: `{"Healthcheck":{"Test":["NONE"]}}`, cfg: stages.Config{Healthcheck: &stages.Healthcheck{Test: []string{"CMD", "y"}, Retries: 1}}, want: `{"Healthcheck":{"Test":["CMD","y"],"Retries":1}}`},
		"SHELL of a base stays":                    {below: `{"Shell":["/bin/bash","-c"]}`, cfg: stages.Config{User: "a"}, want: `{"User":"a","Shell":["/bin/bash","-c"]}`},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			var below dockerspec.DockerOCIImage
			if c.below != "" {
				if err := json.Unmarshal([]byte(c.below), &below.Config); err != nil {
					t.Fatal(err)
				}
			}
			before := encode(t, below.Config)
			got, err := fold(below, &c.cfg)
			if c.fails {
				if err == nil {
					t.Errorf("got %s", encode(t, got.Config))
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			equal(t, "config", encode(t, got.Config), c.want)
			equal(t, "config below, afterwards", encode(t, below.Config), before)
		})
	}
}

func encode(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
