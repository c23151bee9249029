"""Through HTTP: batches of 1,000, and one job a request over 64 connections."""

from __future__ import annotations

import secrets
import statistics
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from unittest.mock import patch

import msgspec

from taskforge.app import open_core
from taskforge.bench.ceiling import copy_rate
from taskforge.bench.cluster import Cluster
from taskforge.bench.figures import Figure, against_ceiling, percentile
from taskforge.bench.jobs import CALL, QUEUE
from taskforge.bench.load import load, post
from taskforge.bench.processes import child
from taskforge.clock import SystemClock
from taskforge.domain.tenants import DEFAULT_TENANT, Context
from taskforge.tokens import Tokens

_BATCH = 1_000
_BATCH_CONNECTIONS = 4
_CONNECTIONS = 64


@asynccontextmanager
async def _server(cluster: Cluster) -> AsyncIterator[tuple[int, str]]:
    """Port and token of a running server whose queue exists."""
    async with open_core(cluster.dsn) as core:
        await core.directory.ensure(Context().tenant_id, [QUEUE])
    secret = secrets.token_urlsafe(48)
    with patch.dict("os.environ", JWT_SECRET=secret):
        async with child("taskforge.bench.server") as server:
            port = int(await server.line())
            tokens = Tokens(secret, is_development=True, clock=SystemClock())
            yield port, tokens.make(tenant_id=DEFAULT_TENANT, subject="bench", lifetime_seconds=3600)


async def batches(cluster: Cluster, *, count: int, runs: int) -> Figure:
    job = {"queue_name": QUEUE, "job_type": "noop", "payload": CALL, "priority": 5}
    body = msgspec.json.encode([job] * _BATCH)
    rates, ceilings = [], []
    async with _server(cluster) as (port, token):
        request = post("/api/v1/jobs/batch", body, token)
        await load(port, request, requests=8, connections=_BATCH_CONNECTIONS)
        for _ in range(runs):
            ceilings.append(await copy_rate(cluster, count))
            done = await load(port, request, requests=count // _BATCH, connections=_BATCH_CONNECTIONS)
            rates.append(done.rate * _BATCH)
    return against_ceiling("POST /jobs/batch, 1,000 a request", rates, ceilings, least=0.35)


async def singles(cluster: Cluster, *, requests: int, runs: int) -> list[Figure]:
    body = msgspec.json.encode({"queue_name": QUEUE, "job_type": "noop", "payload": CALL, "priority": 5})
    rates, p50s, p99s = [], [], []
    async with _server(cluster) as (port, token):
        request = post("/api/v1/jobs", body, token)
        await load(port, request, requests=500, connections=_CONNECTIONS)
        for _ in range(runs):
            done = await load(port, request, requests=requests, connections=_CONNECTIONS)
            rates.append(done.rate)
            p50s.append(percentile(done.latencies, 0.5) * 1e3)
            p99s.append(percentile(done.latencies, 0.99) * 1e3)
    rate, p99 = statistics.median(rates), statistics.median(p99s)
    name = f"POST /jobs, one job a request, {_CONNECTIONS} connections"
    return [
        Figure(name, rate, "requests/s", ">= 5,000/s", rate >= 5_000, rates),
        Figure(
            f"{name}: p99", p99, "ms", "< 50 ms", p99 < 50, p99s, note=f"p50 {statistics.median(p50s):.1f} ms"
        ),
    ]
