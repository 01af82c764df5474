#!/usr/bin/env bash
# Makes the toolkit's Python environment when there is none, repairs one whose installation was interrupted,
# and updates it when requirements.txt has changed. Says nothing when there is nothing to do.
#
#   source scripts/env.sh     in a bash script: afterwards $PYTHON is the interpreter and its tools are on PATH
#   bash scripts/env.sh       only makes the environment
#
# TOOLKIT_PYTHON=/path/to/python  uses an environment of yours that has everything, and installs nothing.
# pip's own settings (PIP_INDEX_URL, pip.conf, …) apply as usual, for example to choose a build of torch.

toolkit_fail() {
    echo "error: $*" >&2
    return 1
}

toolkit_say() {
    echo "environment: $*" >&2
}

# Whether $1 runs and is Python 3.11 or newer. Running it matters: a version manager may leave a stub on PATH.
toolkit_recent_python() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

# Prints the first Python that is recent enough and can make a virtual environment.
toolkit_find_python() {
    local name incomplete=""
    for name in python3.11 python3.12 python3.13 python3 python; do
        toolkit_recent_python "$name" || continue
        if "$name" -c 'import ensurepip, venv' >/dev/null 2>&1; then
            command -v "$name"
            return 0
        fi
        incomplete="${incomplete:-$(command -v "$name")}"
    done
    if [[ -n "$incomplete" ]]; then
        toolkit_fail "$incomplete cannot make a virtual environment because its venv module is incomplete" \
            "(on Debian and Ubuntu: sudo apt install python3-venv), and there is no other Python 3.11 or newer on PATH"
        return 1
    fi
    toolkit_fail "found no Python 3.11 or newer on PATH (looked for python3.11, python3.12, python3.13, python3" \
        "and python); install one, or name it: TOOLKIT_PYTHON=/path/to/python"
}

# $1: an interpreter of the user's. Every distribution of requirements.txt has to be there; other versions are said.
toolkit_check_own_python() {
    if ! toolkit_recent_python "$1"; then
        toolkit_fail "TOOLKIT_PYTHON=$1 does not run, or is older than Python 3.11"
        return 1
    fi
    "$1" - "$2/requirements.txt" <<'PY'
import sys
from importlib.metadata import PackageNotFoundError, version

missing, differing = [], []
with open(sys.argv[1], encoding="utf-8") as lines:
    pins = [line.strip().split("==") for line in lines if "==" in line and not line.startswith("#")]
for name, pinned in pins:
    try:
        found = version(name).split("+")[0]
    except PackageNotFoundError:
        missing.append(f"{name}=={pinned}")
        continue
    if found != pinned:
        differing.append(f"{name} {found} (tested: {pinned})")
if differing:
    print(f"environment: other versions than the tested ones: {', '.join(differing)}", file=sys.stderr)
if missing:
    print(f"error: {sys.executable} (TOOLKIT_PYTHON) lacks {', '.join(missing)}", file=sys.stderr)
    sys.exit(1)
PY
}

toolkit_usable_venv() {
    toolkit_recent_python "$1/bin/python" && "$1/bin/python" -m pip --version >/dev/null 2>&1
}

# $1: the environment, $2…: what to install. The whole output goes to a log, its end is shown if pip fails.
toolkit_pip() {
    local venv="$1" log="$1/install.log"
    shift
    if ! "$venv/bin/python" -m pip install --disable-pip-version-check --no-input "$@" >>"$log" 2>&1; then
        grep -v '^Requirement already satisfied' "$log" | tail -n 15 >&2
        # Packages are whole or not there, unless the disk was full: then the next call starts from nothing.
        grep -qE 'No space left on device|Disk quota exceeded' "$log" || rm -f "$venv/installing"
        toolkit_fail "installing the environment failed (the whole log: $log); run the same command again to go on"
    fi
}

# $1: an environment. Whether every installed file has the length that its package lists, and the packages that all
# else builds on can be imported. On a full disk pip leaves files that are cut off, and takes them for installed later.
toolkit_check_packages() {
    "$1/bin/python" - <<'PY'
import sys
from importlib import import_module
from importlib.metadata import distributions

for package in distributions():
    for file in package.files or ():
        path = file.locate()
        if file.size is not None and not (path.is_file() and path.stat().st_size == file.size):
            sys.exit(f"{path} of {package.name} is not whole")
for name in ("numpy", "torch", "safetensors", "tokenizers", "transformers", "accelerate", "datasets"):
    try:
        import_module(name)
    except Exception as error:
        sys.exit(f"{name} cannot be imported: {type(error).__name__}: {error}".splitlines()[0])
PY
}

# $1: repository root. Runs under a lock; each step is skipped when it is already done.
toolkit_make_venv() {
    local root="$1" venv="$1/.venv" stamp="$1/.venv/requirements.sha256" busy="$1/.venv/installing"
    local wanted base torch_pin broken
    wanted="$(sha256sum "$root/requirements.txt" | cut -d' ' -f1)" || return 1
    if [[ -x "$venv/bin/python" && -f "$stamp" && "$(cat "$stamp")" == "$wanted" ]] &&
        toolkit_recent_python "$venv/bin/python"; then
        return 0
    fi
    # A half-copied package can look installed to pip, so an interrupted installation starts from nothing.
    if [[ -e "$busy" ]]; then
        toolkit_say "an earlier installation was interrupted; starting it again"
        rm -rf "$venv"
    elif [[ -e "$venv" ]] && ! toolkit_usable_venv "$venv"; then
        if [[ ! -e "$venv/install.log" ]]; then
            toolkit_fail "$venv was made by something else and has no working pip with Python 3.11 or newer;" \
                "remove it, or use it as it is: TOOLKIT_PYTHON=$venv/bin/python"
            return 1
        fi
        toolkit_say ".venv does not work any more; making it again"
        rm -rf "$venv"
    fi
    if [[ ! -e "$venv" ]]; then
        base="$(toolkit_find_python)" || return 1
        toolkit_say "making .venv with $("$base" --version) ($base)"
        mkdir -p "$venv" && : >"$busy" || return 1
        "$base" -m venv "$venv" || return 1
    fi
    : >"$busy" && : >"$venv/install.log" && rm -f "$stamp" || return 1
    torch_pin="$(grep -E '^torch==' "$root/requirements.txt")" || return 1
    toolkit_say "installing $torch_pin (a few minutes the first time)"
    toolkit_pip "$venv" "$torch_pin" || return 1
    toolkit_say "installing the rest of requirements.txt"
    toolkit_pip "$venv" -r "$root/requirements.txt" || return 1
    if ! broken="$(toolkit_check_packages "$venv" 2>&1)"; then
        toolkit_fail "the environment was installed but does not work: ${broken##*$'\n'};" \
            "run the same command again to make it anew (is the disk full?)"
        return 1
    fi
    echo "$wanted" >"$stamp" && rm -f "$busy" || return 1
    toolkit_say "ready: $venv"
}

toolkit_environment() {
    local root
    root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)" || return 1
    if [[ -n "${TOOLKIT_PYTHON:-}" ]]; then
        toolkit_check_own_python "$TOOLKIT_PYTHON" "$root" || return 1
        PYTHON="$(command -v "$TOOLKIT_PYTHON")"
    else
        # Two scripts started together must not build the same folder.
        (
            if command -v flock >/dev/null; then flock 9 || exit 1; fi
            toolkit_make_venv "$root" 9>&-
        ) 9>"$root/.venv.lock" || return 1
        PYTHON="$root/.venv/bin/python"
    fi
    case ":$PATH:" in
        *":$(dirname "$PYTHON"):"*) ;;
        *) PATH="$(dirname "$PYTHON"):$PATH" ;;
    esac
    export PYTHON PATH
}

toolkit_environment
