#!/bin/sh
# Make .venv hold exactly what requirements.lock says. Needs Python 3.11 or newer; called by `make setup`.
set -eu

cd "$(dirname "$0")/.."
VENV=.venv
TOOLS=scripts/bootstrap-requirements.txt

say() { printf 'setup: %s\n' "$*" >&2; }
die() { printf '\nsetup: %s\n' "$*" >&2; exit 1; }

recent() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
    for candidate in ${PYTHON:-} python3 python3.11 python3.12 python3.13 python3.14; do
        if recent "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    die "Python 3.11 or newer is needed and none was found. On Debian: apt-get install -y python3 python3-venv"
}

# Without these, uv and a vendored pip trust only their own list, not the certificates this machine was given.
if [ -z "${SSL_CERT_FILE:-}" ] && [ -r /etc/ssl/certs/ca-certificates.crt ]; then
    SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
    export SSL_CERT_FILE
fi
PIP_CERT=${PIP_CERT:-${SSL_CERT_FILE:-}}
[ -n "$PIP_CERT" ] && export PIP_CERT || unset PIP_CERT
unset VIRTUAL_ENV PYTHONHOME PYTHONPATH
export UV_PYTHON_DOWNLOADS=never PIP_DISABLE_PIP_VERSION_CHECK=1

UV=
if [ -x "$VENV/bin/python" ] && ! recent "$VENV/bin/python"; then
    say "$VENV belongs to an older Python; making it anew"
    rm -rf "$VENV"
elif [ -e "$VENV" ] && ! [ -x "$VENV/bin/python" ]; then
    say "$VENV is incomplete; making it anew"
    rm -rf "$VENV"
fi

pip_into_venv() {
    if [ -x "$VENV/bin/pip" ]; then
        "$VENV/bin/python" -m pip "$@"
    else
        "$python" -m pip --python "$VENV/bin/python" "$@"
    fi
}

has_ensurepip() { "$python" -m ensurepip --version >/dev/null 2>&1; }
has_pip() { "$python" -m pip --version >/dev/null 2>&1; }

if ! [ -x "$VENV/bin/python" ]; then
    python=$(find_python)
    say "creating $VENV with $("$python" --version) ($python)"
    if ! has_ensurepip && ! has_pip && ! command -v uv >/dev/null 2>&1 && [ "$(id -u)" = 0 ] \
        && command -v apt-get >/dev/null 2>&1; then
        say "this Python cannot make environments yet; installing the package python3-venv"
        { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
            python3-venv; } >&2 || die "apt-get could not install python3-venv; see its message above"
    fi
    if has_ensurepip; then
        "$python" -m venv "$VENV"
    elif has_pip; then
        "$python" -m venv --without-pip "$VENV"
    elif command -v uv >/dev/null 2>&1; then
        UV=$(command -v uv)
        "$UV" venv --quiet --python "$python" "$VENV"
    else
        die "this Python has neither pip nor ensurepip. Run this once, then \`make setup\` again:
    sudo apt-get install -y python3-venv"
    fi
fi
python=${python:-$(find_python)}

if [ -z "$UV" ]; then
    UV=$VENV/bin/uv
    wanted=$(sed -n 's/^uv==\([0-9.]*\).*/\1/p' "$TOOLS")
    if ! [ -x "$UV" ] || [ "$("$UV" --version | cut -d' ' -f2)" != "$wanted" ]; then
        say "installing uv $wanted"
        pip_into_venv install --quiet --require-hashes --no-deps -r "$TOOLS" || die "uv could not be installed.
    The package index must be reachable: check the network, HTTPS_PROXY, or PIP_INDEX_URL if you use a mirror."
    fi
fi

say "installing the locked dependencies"
mirror=${UV_DEFAULT_INDEX:-${UV_INDEX_URL:-${PIP_INDEX_URL:-}}}
if [ -n "$mirror" ]; then
    UV_DEFAULT_INDEX=$mirror
    export UV_DEFAULT_INDEX
fi
"$UV" pip sync --python "$VENV/bin/python" --require-hashes requirements.lock \
    && "$UV" pip install --quiet --python "$VENV/bin/python" --no-deps --no-build-isolation --editable . \
    || die "the dependencies could not be installed; see the message above.
    The package index must be reachable: check the network and HTTPS_PROXY, or set UV_DEFAULT_INDEX to a mirror."
say "ready"
