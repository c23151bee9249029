"""What `migrate` does on an empty database, as one SQL script for people who run it themselves."""

from __future__ import annotations

from taskforge.postgres.migrate import _LEDGER, _LOCK, _checksum, _read, _steps

_READERS = "taskforge_app, taskforge_dispatch, taskforge_ingest"


def script(*, login: str | None = None) -> str:
    """The whole script, in one transaction under the lock. A database that is not empty is refused by it."""
    parts = [
        "-- TaskForge: the schema of this version, for an empty database. Run by a superuser.",
        f"begin;\nselect pg_advisory_xact_lock({_LOCK});",
        _read("roles.sql"),
        "create schema taskforge;\nset local search_path = taskforge, pg_temp;",
        _LEDGER.strip() + ";",
    ]
    for step in _steps():
        parts.append(f"-- {step.name}\n{step.sql.strip()}")
        parts.append(
            "insert into taskforge.schema_migrations (name, checksum)"
            f" values ('{step.name}', '{_checksum(step)}');"
        )
    parts.append(_read("functions/grants.sql"))
    parts.append(f"grant select on taskforge.schema_migrations to {_READERS};")
    parts.append("select taskforge.ensure_partitions(1);")
    if login is not None:
        quoted = '"' + login.replace('"', '""') + '"'
        parts.append(
            f"create role {quoted} login nosuperuser nocreatedb nocreaterole nobypassrls;\n"
            f"grant taskforge_ingest, taskforge_dispatch, taskforge_app, taskforge_client to {quoted};"
        )
    return "\n\n".join([*parts, "commit;"])
