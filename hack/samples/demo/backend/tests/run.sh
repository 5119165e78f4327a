set -e
test "$("$1" tests)" = "Hello, tests."
