package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// eventBody is a core/v1 Event.
type eventBody struct {
	Kind           string    `json:"kind"`
	APIVersion     string    `json:"apiVersion"`
	Metadata       metadata  `json:"metadata"`
	InvolvedObject reference `json:"involvedObject"`
	Reason         string    `json:"reason"`
	Message        string    `json:"message"`
	Type           string    `json:"type"`
	Source         component `json:"source"`
	FirstTimestamp string    `json:"firstTimestamp"`
	LastTimestamp  string    `json:"lastTimestamp"`
	Count          int       `json:"count"`
}

type reference struct {
	Kind       string `json:"kind"`
	APIVersion string `json:"apiVersion"`
	Namespace  string `json:"namespace"`
	Name       string `json:"name"`
	UID        string `json:"uid,omitempty"`
}

type component struct {
	Component string `json:"component"`
}

// maxMessage is the most bytes that the message of an event can have.
const maxMessage = 1024

// Warn notes something that a person did to a shard as a Kubernetes event about
// it, where "kubectl events" shows it for an hour. Reason is one word in camel case.
func (b *Backend) Warn(ctx context.Context, shard, reason, message string) error {
	s, err := b.get(ctx, shard)
	if err != nil && !errors.Is(err, errNotFound) {
		return err
	}
	now := b.now().UTC().Format(time.RFC3339)
	if len(message) > maxMessage {
		message = message[:maxMessage]
	}
	body, err := encode(eventBody{
		Kind: "Event", APIVersion: "v1",
		Metadata:       metadata{GenerateName: shard + ".", Namespace: b.namespace, Labels: map[string]string{labelManager: manager}},
		InvolvedObject: reference{Kind: "ConfigMap", APIVersion: "v1", Namespace: b.namespace, Name: shard, UID: s.UID},
		Reason:         reason, Message: message, Type: "Warning",
		Source:         component{manager},
		FirstTimestamp: now, LastTimestamp: now, Count: 1,
	})
	if err != nil {
		return err
	}
	c := call{verb: "create", group: groupCore, resource: "events", typ: typeJSON, body: body}
	if err := b.do(ctx, c, nil); err != nil {
		return fmt.Errorf("note %q: %w", reason, err)
	}
	return nil
}
