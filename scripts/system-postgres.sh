#!/bin/sh
# Run the given command with TASKFORGE_PG_BIN naming the system's PostgreSQL 15, installed first if root may.
set -eu

DEBIAN=/usr/lib/postgresql/15/bin

if [ -z "${TASKFORGE_PG_BIN:-}" ]; then
    if ! [ -x "$DEBIAN/postgres" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        echo "test-system: installing PostgreSQL 15" >&2
        # The package would make a cluster and start it; only its programs are wanted.
        config=/etc/postgresql-common/createcluster.d
        mkdir -p "$config"
        made=
        if ! [ -e "$config/taskforge.conf" ]; then
            made=$config/taskforge.conf
            echo "create_main_cluster = false" >"$made"
        fi
        { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
            postgresql-15; } >&2 || true
        [ -z "$made" ] || rm -f "$made"
    fi
    if ! [ -x "$DEBIAN/postgres" ]; then
        echo "test-system: PostgreSQL 15 is needed and was not found in $DEBIAN." >&2
        echo "    Run \`sudo apt-get install -y postgresql-15\`, or set TASKFORGE_PG_BIN to its folder." >&2
        exit 1
    fi
    TASKFORGE_PG_BIN=$DEBIAN
    export TASKFORGE_PG_BIN
fi
echo "test-system: $("$TASKFORGE_PG_BIN/postgres" --version)" >&2
unset TASKFORGE_TEST_DATABASE_URL
exec "$@"
