#!/usr/bin/env bash
# Installs the project, then runs the tests in one process more than cores, since some tests wait, and in 8 at most.
#   bash sh/test.sh [pytest's flags]
# Relative paths count from the repository root.
# worksteal: idle processes take tests from the longest queue, so slow files do not run last.
set -euo pipefail
bash "$(dirname "$0")/setup.sh"
source "$(dirname "$0")/environment.sh"
cd "$root"
workers=$(($(nproc) + 1))
exec "$python" -m pytest --numprocesses=$((workers < 8 ? workers : 8)) --dist=worksteal "$@"
