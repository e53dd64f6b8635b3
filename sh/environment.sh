# shellcheck shell=bash
# Sourced by the other scripts. Goes to the repository root: relative paths count from there wherever a script is
# started. Sets $python: that of the environment VENV, else of .venv (sh/setup.sh makes it), else the active one.
# Modules of the user's own (--teacher module:function) are looked for where the command was given, GENDD_FOLDER.
export GENDD_FOLDER=${GENDD_FOLDER:-$PWD}
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
if [ -n "${VENV:-}" ]; then
  python=$VENV/bin/python
elif [ -x .venv/bin/python ]; then
  python=$PWD/.venv/bin/python
else
  python=$(command -v python || command -v python3 || true)
fi
needed='import importlib.util as u, sys; sys.exit(not all(map(u.find_spec, ("torch", "timm", "tyro"))))'
if ! "${python:-false}" -c "$needed" 2>/dev/null; then
  echo "error: ${python:-python} lacks what the project needs; run once: bash sh/setup.sh" >&2
  exit 2
fi
