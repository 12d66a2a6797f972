# Sourced by demo.sh and test.sh: makes VENV (default .venv) hold the given requirement files.
#   source tools/environment.sh FILE [FILE ...]
venv=${VENV:-.venv}
if [ ! -x "$venv/bin/python" ]; then
  for python in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
    if command -v "$python" >/dev/null && "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
      break
    fi
    python=
  done
  if [ -z "${python:-}" ]; then
    echo "error: kdjax needs Python 3.11 or newer; name one with PYTHON=..." >&2
    exit 1
  fi
  "$python" -m venv "$venv"
fi
for requirements in "$@"; do
  stamp=$venv/.installed-$(basename "$requirements")
  wanted=$(cat requirements*.txt | cksum)
  if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
    echo "installing $requirements into $venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$requirements"
    echo "$wanted" >"$stamp"
  fi
done
