#!/usr/bin/env bash
# Benchmarks each part against its reference, and how cost grows, on this machine. Results go to docs/bench/.
#   bash sh/bench.sh
# It takes 15 minutes on two cores; OMP_NUM_THREADS sets the threads. Run nothing else meanwhile.
set -euo pipefail
source "$(dirname "$0")/environment.sh"
cd "$root"
"$python" bench/suite.py
"$python" bench/growth.py
