# shellcheck shell=bash
# Sourced by the other scripts. Sets $root, the checkout, and $python: the one of VENV, else of .venv, which
# sh/setup.sh makes, else the active one. The working folder stays: relative paths count from where the command is given.
root=$(realpath "$(dirname "${BASH_SOURCE[0]}")/..")
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
if [ -n "${VENV:-}" ]; then
  python=$VENV/bin/python
elif [ -x "$root/.venv/bin/python" ]; then
  python=$root/.venv/bin/python
else
  python=$(command -v python || command -v python3 || true)
fi
needed='import importlib.util as u, sys; sys.exit(not all(map(u.find_spec, ("torch", "timm", "tyro"))))'
if ! "${python:-false}" -c "$needed" 2>/dev/null; then
  echo "error: ${python:-python} lacks what the project needs; run once: bash $root/sh/setup.sh" >&2
  exit 2
fi
