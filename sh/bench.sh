#!/usr/bin/env bash
# Measures every work beside its reference path, and how cost grows, on this machine; figures go to docs/bench/.
#   bash sh/bench.sh
# Takes a quarter of an hour on two cores; OMP_NUM_THREADS sets the threads. Nothing else should run meanwhile.
set -euo pipefail
source "$(dirname "$0")/environment.sh"
cd "$root"
"$python" bench/suite.py
"$python" bench/growth.py
