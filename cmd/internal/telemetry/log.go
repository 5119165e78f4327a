package telemetry

import (
	"fmt"
	"io"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// Formats of logs.
const (
	FormatText = "text"
	FormatJSON = "json"
)

// LogOptions are the flags --log-format and --log-level.
type LogOptions struct {
	// Format is [FormatText] or [FormatJSON].
	Format string
	// Level is debug, info, warn or error.
	Level string
}

// Logger returns a logger that writes a line for each entry to w. An error names
// the flag that is wrong.
func (o LogOptions) Logger(w io.Writer) (*zap.Logger, error) {
	level, err := zapcore.ParseLevel(o.Level)
	if err != nil || level > zapcore.ErrorLevel {
		return nil, fmt.Errorf("--log-level %s: want debug, info, warn or error", o.Level)
	}
	var enc zapcore.Encoder
	switch o.Format {
	case FormatJSON:
		c := zap.NewProductionEncoderConfig()
		c.TimeKey, c.EncodeTime = "time", zapcore.RFC3339NanoTimeEncoder
		c.EncodeDuration = zapcore.SecondsDurationEncoder
		enc = zapcore.NewJSONEncoder(c)
	case FormatText:
		enc = zapcore.NewConsoleEncoder(zap.NewDevelopmentEncoderConfig())
	default:
		return nil, fmt.Errorf("--log-format %s: want text or json", o.Format)
	}
	return zap.New(zapcore.NewCore(enc, zapcore.Lock(zapcore.AddSync(w)), level)), nil
}
