#!/usr/bin/env bash
# Installs the project, then runs the tests with one process per core, up to 8.
#   bash sh/test.sh [pytest's flags]
# Relative paths count from the repository root.
# worksteal: idle processes take tests from the longest queue, so slow files do not run last.
set -euo pipefail
bash "$(dirname "$0")/setup.sh"
source "$(dirname "$0")/environment.sh"
cd "$root"
exec "$python" -m pytest --numprocesses=auto --maxprocesses=8 --dist=worksteal "$@"
