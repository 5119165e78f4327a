//go:build linux

package local_test

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

// roleVariable makes the test binary another process of a test.
const roleVariable = "CAIRN_TEST_LOCAL_ROLE"

func TestMain(m *testing.M) {
	if role := os.Getenv(roleVariable); role != "" {
		os.Exit(play(role))
	}
	goleak.VerifyTestMain(m)
}
