#!/usr/bin/env bash
# Set up, then run the tests with one process per core, up to 8. Paths count from the repository root.
# worksteal: an idle process takes tests from the longest queue, so that no file of slow tests ends last.
#   bash sh/test.sh [pytest's flags]
set -euo pipefail
bash "$(dirname "$0")/setup.sh"
source "$(dirname "$0")/environment.sh"
cd "$root"
exec "$python" -m pytest --numprocesses=auto --maxprocesses=8 --dist=worksteal "$@"
