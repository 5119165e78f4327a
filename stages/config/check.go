package config

import (
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/cairnbuild/cairn/stages"
)

// documents are what the file holds, each one read for itself.
type documents struct {
	r       *reader
	project projectDoc
	images  []imageDoc
	byName  map[string]int
}

// readDocuments reads the rendered file. allowed is what env said before the
// templates ran.
func readDocuments(text *rendered, d Dialect, allowed []string, problems *collector) *documents {
	docs := &documents{r: &reader{text: text, dialect: d, problems: problems}, byName: make(map[string]int)}
	nodes := readYAML(text, problems)
	if len(problems.errors) > 0 {
		return docs // what follows a syntax error is not known, so that nothing can be said about it
	}
	if len(nodes) == 0 {
		problems.addf(place{line: 1}, `begin it with "project: NAME"`, "the file holds no document")
		return docs
	}
	if has(nodes[0], "image") && !has(nodes[0], "project") {
		docs.r.failf(nodes[0], `begin the file with a document "project: NAME"`, "the first document must be the project's")
	} else {
		docs.project, _ = projectObject().read(docs.r, nodes[0])
		nodes = nodes[1:]
		docs.checkEnv(d, allowed)
	}
	schema := imageObject()
	for _, n := range nodes {
		if has(n, "project") && !has(n, "image") {
			docs.r.failf(n, "one file holds one project", "a second project document")
			continue
		}
		if image, ok := schema.read(docs.r, n); ok {
			docs.images = append(docs.images, image)
		}
	}
	return docs
}

// has reports whether a mapping has a key of its own, not looking behind aliases.
func has(n *yaml.Node, key string) bool {
	for i := 0; i+1 < len(n.Content) && n.Kind == yaml.MappingNode; i += 2 {
		if n.Content[i].Value == key {
			return true
		}
	}
	return false
}

// checkEnv has env say the same before and after the templates ran.
func (d *documents) checkEnv(dialect Dialect, allowed []string) {
	if dialect == DialectCairn && !slices.Equal(d.project.env, allowed) {
		at := place{line: 1}
		if d.project.envAt != nil {
			at = d.r.place(d.project.envAt)
		}
		d.r.problems.addf(at, `write "env:" at the beginning of a line of the first document, outside of template expressions`, "env: it does not stand literally in the file")
	}
}

// check looks at the images together and returns the project.
func (d *documents) check(problems *collector) *Project {
	if len(d.images) == 0 && len(problems.errors) == 0 {
		problems.addf(place{line: 1}, `add a document after a line "---" that begins with "image: NAME"`, "the project has no images")
	}
	d.checkNames()
	for i := range d.images {
		image := &d.images[i]
		if len(image.Platforms) == 0 {
			image.Platforms = slices.Clone(d.project.platforms)
		}
		if len(image.Platforms) == 0 {
			image.Platforms = []stages.Platform{stages.DefaultPlatform}
		}
	}
	for i := range d.images {
		for _, l := range d.links(i) {
			d.checkLink(&d.images[i], l)
		}
	}
	p := &Project{Name: d.project.name, Cleanup: DefaultCleanup()}
	if d.project.cleanup != nil {
		p.Cleanup = *d.project.cleanup
	}
	for _, i := range d.order() {
		p.Images = append(p.Images, d.images[i].Image)
	}
	return p
}

func (d *documents) checkNames() {
	for i, image := range d.images {
		if image.nameAt == nil {
			continue // reported already
		}
		switch first, taken := d.byName[image.Name]; {
		case taken && image.Name != "":
			d.r.failf(image.nameAt, "", "the image %q stands here a second time; the first is on line %d", image.Name, d.images[first].Line)
		case taken || (image.Name == "" && len(d.images) > 1):
			d.r.failf(image.nameAt, "give it a name", "a nameless image must be the only one")
		}
		if _, taken := d.byName[image.Name]; !taken {
			d.byName[image.Name] = i
		}
	}
}

// link is the need of an image for another one.
type link struct {
	key, name string
	at        *yaml.Node
}

// links returns what image i needs, in the order of the file.
func (d *documents) links(i int) []link {
	image := &d.images[i]
	var out []link
	if image.fromImageAt != nil {
		out = append(out, link{"fromImage", image.FromImage, image.fromImageAt})
	}
	for j, one := range image.Imports {
		if at := image.importAt[j]; at != nil {
			out = append(out, link{fmt.Sprintf("import[%d].image", j), one.Image, at})
		}
	}
	return out
}

func (d *documents) checkLink(image *imageDoc, l link) {
	target, ok := d.byName[l.name]
	if !ok || l.name == "" {
		d.unknownImage(l)
		return
	}
	for _, p := range image.Platforms {
		if have := d.images[target].Platforms; !slices.Contains(have, p) {
			d.r.failf(l.at, "", "%s: the image %q is not built for %s, which this image is built for (it has %s)", l.key, l.name, p, joinPlatforms(have))
		}
	}
}

func (d *documents) unknownImage(l link) {
	var names []string
	for _, i := range d.images {
		if i.Name != "" {
			names = append(names, i.Name)
		}
	}
	hint := "images of the project: " + shortenTo(strings.Join(names, ", "), 400)
	if near, ok := nearest(l.name, names); ok {
		d.r.failf(l.at, hint, "%s: there is no image %q; did you mean %q?", l.key, shorten(l.name), near)
		return
	}
	d.r.failf(l.at, hint, "%s: there is no image %q", l.key, shorten(l.name))
}

func joinPlatforms(list []stages.Platform) string {
	out := make([]string, len(list))
	for i, p := range list {
		out[i] = string(p)
	}
	return strings.Join(out, ", ")
}

// sorter puts images after those that they need.
type sorter struct {
	docs *documents
	// state is 1 for images on the path, 2 for those done.
	state []int
	path  []int
	out   []int
}

// order returns the images' numbers in the order of the file, except that each
// comes after those it needs. A cycle is reported.
func (d *documents) order() []int {
	s := &sorter{docs: d, state: make([]int, len(d.images))}
	for i := range d.images {
		s.visit(i)
	}
	return s.out
}

func (s *sorter) visit(i int) {
	if s.state[i] != 0 {
		return
	}
	s.state[i] = 1
	s.path = append(s.path, i)
	for _, l := range s.docs.links(i) {
		target, ok := s.docs.byName[l.name]
		switch {
		case !ok || l.name == "": // reported by checkLink
		case s.state[target] == 1:
			s.cycle(l, target)
		default:
			s.visit(target)
		}
	}
	s.path = s.path[:len(s.path)-1]
	s.state[i] = 2
	s.out = append(s.out, i)
}

// cycle reports the images from target to the end of the path, which needs target.
func (s *sorter) cycle(l link, target int) {
	var names []string
	for _, i := range s.path[slices.Index(s.path, target):] {
		names = append(names, s.docs.images[i].Name)
	}
	names = append(names, l.name)
	s.docs.r.failf(l.at, "", "%s: the images need each other: %s", l.key, shortenTo(strings.Join(names, " → "), 400))
}
