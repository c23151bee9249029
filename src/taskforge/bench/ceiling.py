"""COPY: one connection, the same rows, a thousand a commit, a plain table with the columns and the key of `jobs`."""

from __future__ import annotations

import time

import asyncpg

from taskforge.bench.cluster import Cluster
from taskforge.bench.jobs import CALL, noop
from taskforge.domain.tenants import DEFAULT_TENANT

_ROWS_PER_COMMIT = 1_000
_COLUMNS = ["id", "tenant_id", "queue_id", "priority", "job_type", "payload"]


async def copy_rate(cluster: Cluster, count: int) -> float:
    """Rows a second."""
    connection = await asyncpg.connect(cluster.admin_dsn)
    try:
        await connection.execute("drop table if exists public.ceiling")
        await connection.execute("create table public.ceiling (like taskforge.jobs including all)")
        payload = noop.binding.write((), CALL)
        started = time.perf_counter()
        for first in range(0, count, _ROWS_PER_COMMIT):
            rows = [
                (job_id, DEFAULT_TENANT, 1, 5, "noop", payload)
                for job_id in range(first, first + _ROWS_PER_COMMIT)
            ]
            await connection.copy_records_to_table(
                "ceiling", schema_name="public", columns=_COLUMNS, records=rows
            )
        rate = count / (time.perf_counter() - started)
        await connection.execute("drop table public.ceiling")
        return rate
    finally:
        await connection.close()
