#!/usr/bin/env bash
# Make .venv: the right torch first, then geomaestro and its tools. `make` calls this; a second run does nothing.
#
#   TORCH=cpu|cuda|skip   choose torch instead of looking for an NVIDIA driver (skip: use the base Python's torch)
#   PYTHON=python3.12     choose the base Python, 3.11 or newer
#   --print-torch         say what would be installed as torch, and stop
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

TORCH_VERSION=2.13.0
CPU_INDEX=https://download.pytorch.org/whl/cpu
READY=.venv/.ready        # newer than what it was made from: nothing to do
CHOICE=.venv/.torch-choice

fail() {
  printf 'setup: %s\n' "$*" >&2
  exit 1
}

# On Linux only a driver that answers makes CUDA worth its gigabytes.
choose_torch() {
  case "${TORCH:-}" in
    cpu | cuda | skip) echo "$TORCH" ;;
    "") if nvidia-smi -L >/dev/null 2>&1; then echo cuda; else echo cpu; fi ;;
    *) fail "TORCH=$TORCH is unknown; use TORCH=cpu, TORCH=cuda or TORCH=skip, or leave it unset" ;;
  esac
}

# The local version +cpu can only be met by a CPU wheel, so pip cannot take CUDA for it. Only Linux needs that:
# for macOS and Windows, plain torch is the CPU build.
torch_requirement() {
  case "$1-$(uname -s)" in
    skip-*) echo "the base Python's torch" ;;
    cpu-Linux) echo "torch==$TORCH_VERSION+cpu" ;;
    *) echo "torch==$TORCH_VERSION" ;;
  esac
}

is_ready() {
  [ -f "$READY" ] && [ ! pyproject.toml -nt "$READY" ] && [ ! constraints.txt -nt "$READY" ]
}

refuse_other_choice() {
  if [ -n "${TORCH:-}" ] && [ -f "$CHOICE" ] && [ "$(cat "$CHOICE")" != "$TORCH" ]; then
    fail ".venv was made with TORCH=$(cat "$CHOICE"); to change to TORCH=$TORCH, first run: rm -r .venv"
  fi
}

find_python() {
  for candidate in ${PYTHON:-python3 python python3.14 python3.13 python3.12 python3.11}; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  fail "no Python 3.11 or newer found (looked for: ${PYTHON:-python3}); install one, or name it with PYTHON=..."
}

make_venv() {
  local python options=""
  python=$(find_python)
  if [ "$1" = skip ]; then options=--system-site-packages; fi
  "$python" -m venv $options .venv || fail "$python cannot make .venv; on Debian and Ubuntu: apt install python3-venv"
  echo "$1" >"$CHOICE"
}

venv_python() {
  if [ -d .venv/Scripts ]; then echo .venv/Scripts/python; else echo .venv/bin/python; fi
}

pip_install() {
  "$(venv_python)" -m pip install -qq --no-input --disable-pip-version-check "$@"
}

torch_version() {
  "$(venv_python)" -c 'from importlib.metadata import version; print(version("torch"))' 2>/dev/null
}

install_torch() {
  if pip_install "$1" 2>.venv/torch.log; then return; fi
  cat .venv/torch.log >&2
  case "$1" in
    *+cpu) echo "setup: pip found no $1 where it looks; asking PyTorch's own index of CPU wheels" >&2 ;;
    *) fail "pip could not install $1; see above" ;;
  esac
  pip_install --retries 1 --index-url "$CPU_INDEX" "$1" ||
    fail "no $1 to be had, neither where pip looks nor at $CPU_INDEX. Plain torch is not tried, since it would" \
      "download CUDA. Point pip to the wheel (PIP_FIND_LINKS=folder), or use TORCH=skip or TORCH=cuda"
}

main() {
  local choice requirement
  choice=$(choose_torch)
  requirement=$(torch_requirement "$choice")
  if [ "${1:-}" = --print-torch ]; then
    echo "$requirement"
    return
  fi
  refuse_other_choice
  if is_ready; then return; fi
  echo "setup: preparing .venv with $requirement (minutes the first time)" >&2
  if ! "$(venv_python)" -c "" 2>/dev/null; then make_venv "$choice"; fi
  if ! torch_version >/dev/null; then
    if [ "$choice" = skip ]; then fail "TORCH=skip, but the base Python has no torch; rm -r .venv, then TORCH=cpu or cuda"; fi
    install_torch "$requirement"
  fi
  echo "torch==$(torch_version)" >.venv/constraints.txt
  pip_install -e ".[dev]" -c .venv/constraints.txt -c constraints.txt || fail "pip could not install geomaestro; see above"
  touch "$READY"
}

main "$@"
