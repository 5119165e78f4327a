package engine_test

import (
	"strings"
	"testing"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/entitlements"
)

// What a recipe cannot ask for is not to be had by asking the daemon either:
// privileges at all, and the host's network without saying so.
func TestNobodyGetsMoreThanARecipeCanAskFor(t *testing.T) {
	c, err := client.New(t.Context(), shared.address())
	check(t, err)
	defer c.Close()
	for name, tt := range map[string]struct {
		run     llb.RunOption
		allowed []string
		want    string
	}{
		"privileges":               {llb.Security(pb.SecurityMode_INSECURE), nil, "security.insecure is not allowed"},
		"privileges, asked for":    {llb.Security(pb.SecurityMode_INSECURE), []string{entitlements.EntitlementSecurityInsecure.String()}, "security.insecure is not allowed"},
		"the network of the host":  {llb.Network(pb.NetMode_HOST), nil, "network.host is not allowed"},
		"devices, asked for":       {llb.Network(pb.NetMode_UNSET), []string{entitlements.EntitlementDevice.String()}, "not allowed"},
		"a frontend of the engine": {nil, nil, "invalid frontend"},
	} {
		o := client.SolveOpt{AllowedEntitlements: tt.allowed}
		var def *llb.Definition
		if tt.run == nil {
			o.Frontend = "dockerfile.v0"
		} else {
			def, err = llb.Scratch().Run(llb.Args([]string{"/true"}), tt.run).Root().Marshal(t.Context())
			check(t, err)
		}
		if _, err := c.Solve(t.Context(), def, o, nil); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: error is %v", name, err)
		}
	}
}
