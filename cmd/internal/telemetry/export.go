package telemetry

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.uber.org/zap"
)

// wanted reports whether the environment asks for traces: an exporter is named,
// or an endpoint. What the specification knows and this program cannot do is an error.
//
// https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
func wanted(getenv func(string) string) (bool, error) {
	if strings.EqualFold(getenv("OTEL_SDK_DISABLED"), "true") {
		return false, nil
	}
	switch v := getenv("OTEL_TRACES_EXPORTER"); v {
	case "none":
		return false, nil
	case "otlp":
		return true, nil
	case "":
		return getenv("OTEL_EXPORTER_OTLP_ENDPOINT") != "" || getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") != "", nil
	default:
		return false, fmt.Errorf("OTEL_TRACES_EXPORTER=%s: want otlp or none", v)
	}
}

// exporter returns one for the protocol that the environment names. It sends
// nothing yet; all else, such as endpoint, headers and certificates, the exporter
// reads from the environment itself.
func exporter(ctx context.Context, getenv func(string) string) (*otlptrace.Exporter, error) {
	protocol := getenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL")
	if protocol == "" {
		protocol = getenv("OTEL_EXPORTER_OTLP_PROTOCOL")
	}
	switch protocol {
	case "", "http/protobuf":
		return otlptracehttp.New(ctx)
	case "grpc":
		return otlptracegrpc.New(ctx)
	default:
		return nil, fmt.Errorf("OTEL_EXPORTER_OTLP_PROTOCOL=%s: want http/protobuf or grpc", protocol)
	}
}

// provider returns what makes spans and sends them in the background.
func provider(ctx context.Context, o TraceOptions) (*sdk.TracerProvider, error) {
	var once sync.Once
	// The library has one handler for the whole process, and writes to standard
	// error where none is set.
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(error) {
		// Its text may hold what a receiver answered, and the address with a login.
		once.Do(func() {
			o.Log.Warn("traces cannot be delivered to the OpenTelemetry endpoint; the build goes on without")
		})
	}))
	out, err := exporter(ctx, o.Getenv)
	if err != nil {
		return nil, err
	}
	res, err := resource.New(ctx, resource.WithAttributes(
		attribute.String("service.name", "cairn"), attribute.String("service.version", o.Version),
	), resource.WithTelemetrySDK(), resource.WithFromEnv())
	if err != nil {
		o.Log.Warn("the resource attributes of traces cannot be read", zap.String("variable", "OTEL_RESOURCE_ATTRIBUTES"))
	}
	return sdk.NewTracerProvider(sdk.WithBatcher(out), sdk.WithResource(res)), nil
}
