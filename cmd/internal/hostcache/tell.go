package hostcache

import (
	"fmt"
	"strings"

	"go.uber.org/zap"

	"github.com/cairnbuild/cairn/cleanup/host"
)

// Fields describe a pass in a log. Sizes are bytes.
func Fields(p Place, r host.Result) []zap.Field {
	fields := []zap.Field{
		zap.String("volume", p.Name), zap.String("path", p.Path),
		zap.Int64("total", r.Volume.Total), zap.Int64("used", r.Volume.Used), zap.Int64("after", r.After.Used), zap.Int64("goal", r.Goal),
		zap.Int64("freed", r.Freed()), zap.Int("evicted", len(r.Evicted)),
		zap.Int64("ours", r.Ours), zap.Int64("foreign", r.Foreign),
	}
	if !r.Met() {
		fields = append(fields, zap.String("blocked", Blocked(r)))
	}
	return fields
}

// Blocked says in words what keeps a pass from freeing more.
func Blocked(r host.Result) string {
	words := make([]string, 0, len(r.Blocked)+1)
	for _, b := range r.Blocked {
		words = append(words, fmt.Sprintf("%d bytes are %s", b.Bytes, b.Reason))
	}
	words = append(words, fmt.Sprintf("%d bytes are not Cairn's", r.Foreign))
	return strings.Join(words, "; ")
}
