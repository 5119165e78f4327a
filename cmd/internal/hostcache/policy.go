package hostcache

import (
	"fmt"
	"time"

	"github.com/spf13/pflag"

	"github.com/cairnbuild/cairn/cleanup/host"
)

// Defaults of a [Policy].
const (
	defaultHigh   = "80%"
	defaultLow    = "75%"
	defaultMinAge = time.Hour
)

// Policy says when a volume is too full, as flags and variables give it.
type Policy struct {
	// High and Low are marks as [host.ParseMark] reads them.
	High, Low string
	// MinAge protects what was used more recently.
	MinAge time.Duration
}

// Flags defines the flags of a policy, and gives it their defaults.
func (p *Policy) Flags(f *pflag.FlagSet) {
	f.StringVar(&p.High, "high", defaultHigh, "`MARK` above which the volume is too full")
	f.StringVar(&p.Low, "low", defaultLow, "`MARK` down to which is evicted")
	f.DurationVar(&p.MinAge, "min-age", defaultMinAge, "`DURATION` for which what was used stays")
}

// PolicyOf is the policy of one that has no flags for it: that of the variables
// of the flags, or the default.
func PolicyOf(getenv func(string) string) (Policy, error) {
	p := Policy{High: defaultHigh, Low: defaultLow, MinAge: defaultMinAge}
	if v := getenv(VariableHigh); v != "" {
		p.High = v
	}
	if v := getenv(VariableLow); v != "" {
		p.Low = v
	}
	if v := getenv(VariableMinAge); v != "" {
		d, err := time.ParseDuration(v)
		if err != nil {
			return p, fmt.Errorf("variable %s=%q: want a duration", VariableMinAge, v)
		}
		p.MinAge = d
	}
	_, err := p.Rules()
	return p, err
}

// The variables of a policy's flags, which programs that have no such flags read
// as well.
const (
	VariableHigh   = "CAIRN_HIGH"
	VariableLow    = "CAIRN_LOW"
	VariableMinAge = "CAIRN_MIN_AGE"
)

// Rules returns the rules of the policy, the time apart. The error names the flag.
func (p Policy) Rules() (host.Rules, error) {
	r := host.Rules{MinAge: p.MinAge}
	var err error
	if r.Marks.High, err = host.ParseMark(p.High); err != nil {
		return r, fmt.Errorf("--high %w", err)
	}
	if r.Marks.Low, err = host.ParseMark(p.Low); err != nil {
		return r, fmt.Errorf("--low %w", err)
	}
	if p.MinAge < 0 {
		return r, fmt.Errorf("--min-age %v: want a duration that is not negative", p.MinAge)
	}
	return r, nil
}
