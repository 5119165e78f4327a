package kube

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// maxRelease bounds an unpacked release of Helm, in bytes. A packed one has at most
// 1 MiB.
const maxRelease = 128 << 20

var errRelease = errors.New("the release that Helm keeps here cannot be read")

// releaseOf returns the release that Helm keeps in an object, unpacked; nil where
// the object is none of Helm's.
func releaseOf(kind string, raw []byte) ([]byte, error) {
	var object struct {
		Type     string `json:"type"`
		Metadata struct {
			Labels map[string]string `json:"labels"`
		} `json:"metadata"`
		Data map[string]string `json:"data"`
	}
	if err := json.Unmarshal(raw, &object); err != nil {
		return nil, err
	}
	packed, ok := object.Data["release"]
	isSecret := kind == "Secret" && object.Type == "helm.sh/release.v1"
	isConfigMap := kind == "ConfigMap" && object.Metadata.Labels["owner"] == "helm"
	if !ok || !isSecret && !isConfigMap {
		return nil, nil
	}
	if isSecret { // a Secret's data is encoded once more than a ConfigMap's
		b, err := base64.StdEncoding.DecodeString(packed)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errRelease, err)
		}
		packed = string(b)
	}
	return unpack(packed)
}

// unpack decodes base64 of JSON, which is compressed since Helm 2.
func unpack(packed string) ([]byte, error) {
	b, err := base64.StdEncoding.DecodeString(packed)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errRelease, err)
	}
	if !bytes.HasPrefix(b, []byte{0x1f, 0x8b, 0x08}) {
		return b, nil
	}
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errRelease, err)
	}
	out, err := io.ReadAll(io.LimitReader(z, maxRelease+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: %w", errRelease, err)
	case len(out) > maxRelease:
		return nil, fmt.Errorf("%w: it has more than %d MiB", errRelease, maxRelease>>20)
	}
	return out, nil
}
