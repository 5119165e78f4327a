package config

// Keys of werf.yaml that are outside the subset that is read, each with what to
// write instead.

// baseRefusals are the keys of an image that say, instead of from, what it is
// made of.
func baseRefusals() []refusal {
	return []refusal{
		{key: "artifact", message: "artifact is not supported", hint: "write it as an image; what imports from it names the image"},
		{key: "fromArtifact", message: "fromArtifact is not supported", hint: "write the artifact as an image and use fromImage"},
	}
}

func (f refusal) insteadOfBase() bool {
	for _, b := range baseRefusals() {
		if b.key == f.key {
			return true
		}
	}
	return false
}

// imageRefusals are refused in both dialects: people move from one to the other.
func imageRefusals() []refusal {
	return append(baseRefusals(),
		refusal{key: "contextAddFiles", message: "contextAddFiles is not supported", hint: "commit the files: nothing outside the commit may change a build"},
		refusal{key: "contextAddFile", message: "contextAddFile is not supported", hint: "commit the file: nothing outside the commit may change a build"},
		refusal{key: "ansible", message: "ansible is not supported", hint: "write the tasks as commands in shell"},
		refusal{key: "fromLatest", message: "fromLatest is not supported", hint: `bases are pinned in cairn.lock; "cairn lock" updates them`},
		refusal{key: "asLayers", message: "asLayers is not supported", hint: "remove the key: each section is one stage; use several images with fromImage for more"},
		refusal{key: "herebyIAdmitThatFromLatestMightBreakReproducibility", message: "fromLatest is not supported", hint: `bases are pinned in cairn.lock; "cairn lock" updates them`},
		refusal{key: "final", message: "final is not supported", hint: `remove the key; "cairn build IMAGE…" names what is wanted`},
		refusal{key: "dependencies", message: "dependencies is not supported", hint: "use fromImage or import"},
		refusal{key: "imageSpec", message: "imageSpec is not supported", hint: "use docker"},
		refusal{key: "disableGitAfterPatch", message: "disableGitAfterPatch is not supported", hint: "list what commands need in stageDependencies and leave the rest out with excludePaths"},
	)
}

func projectRefusals() []refusal {
	werf := func(key, hint string) refusal {
		return refusal{key: key, message: key + " is not supported in werf.yaml", hint: hint, werfOnly: true}
	}
	return []refusal{
		werf("deploy", "remove the key; deployment is not part of this version"),
		werf("gitWorktree", "remove the key; a shallow clone is enough, history is never read"),
		werf("build", "remove the key; write platform in each image"),
		werf("platform", "remove the key; write platform in each image, or name the file cairn.yaml"),
		werf("staged", "remove the key; builds are always staged"),
		werf("includes", "remove the key; use templates in .werf"),
	}
}

func gitRefusals() []refusal {
	return []refusal{
		{key: "basicAuth", message: "git.basicAuth is not supported", hint: "leave the login out and have git find it: a credential helper, url.….insteadOf, an ssh key"},
		{key: "herebyIAdmitThatBranchMightBreakReproducibility", message: "git.herebyIAdmitThatBranchMightBreakReproducibility is not supported", hint: `remove the key; cairn.lock pins the commit of a branch, "cairn lock --update" moves it`},
	}
}

func importRefusals() []refusal {
	return []refusal{
		{key: "artifact", message: "import.artifact is not supported", hint: "write the artifact as an image, and image instead of artifact"},
		{key: "stage", message: "import.stage is not supported", hint: "write an image that ends with that stage and import from it"},
		{key: "from", message: "import.from is not supported in werf.yaml", hint: "write an image with from and import from it", werfOnly: true},
	}
}

func mountRefusals() []refusal {
	return []refusal{
		{key: "fromPath", message: "mount.fromPath is not supported: a directory of one host makes builds differ", hint: `keep what commands download with "from: build_dir" (in a cairn.yaml "type: cache"), commit what they need, and give credentials with "type: secret" of cairn.yaml`},
		{key: "from", message: "mount.from is a word of werf.yaml", hint: `write "type: tmpfs" for tmp_dir and "type: cache" for build_dir`},
	}
}
