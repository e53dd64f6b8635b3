#!/usr/bin/env bash
# Sets up, then runs the tests, a process a core (up to 8); paths count from the repository root.
#   bash sh/test.sh [pytest's flags]
set -euo pipefail
bash "$(dirname "$0")/setup.sh"
source "$(dirname "$0")/environment.sh"
cd "$root"
exec "$python" -m pytest --numprocesses=auto --maxprocesses=8 --dist=loadfile "$@"
