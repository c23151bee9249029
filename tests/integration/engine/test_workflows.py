"""Workflows: named jobs that wait for each other, made together, counted as one, retried in part."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec import Raw

from taskforge.domain.leases import Succeeded
from taskforge.domain.workflows import Edge, WorkflowDraft, WorkflowNode, WorkflowView
from taskforge.errors import Conflict, Invalid, NotFound
from taskforge.services import leases, workflows
from tests.support.engine import Engine, failed, report, succeeded


def node(name: str, *parents: str | Edge, **fields: Any) -> WorkflowNode:
    return WorkflowNode(name, "default", "noop", depends_on=parents, **fields)


async def make(engine: Engine, *nodes: WorkflowNode, **fields: Any) -> WorkflowView:
    return await workflows.create(engine.core, engine.ctx, WorkflowDraft(nodes, **fields))


async def states(engine: Engine, made: WorkflowView) -> dict[str, str]:
    page = await workflows.list_nodes(engine.core, engine.ctx, int(made.id), limit=1_000)
    return {node.name: node.state.value for node in page.data}


async def look(engine: Engine, made: WorkflowView) -> WorkflowView:
    return await workflows.get(engine.core, engine.ctx, int(made.id))


async def run_all(engine: Engine, outcome: Any = succeeded) -> list[int]:
    """Work off everything that becomes ready; the jobs in the order in which they ran."""
    worker = await engine.register()
    ran: list[int] = []
    while found := await engine.claim(worker, 10):
        for lease in found:
            ran += lease.ids
            await engine.finish(worker, report(lease, outcome))
    return ran


async def test_jobs_run_after_their_parents_and_the_workflow_ends_with_the_last(engine: Engine) -> None:
    made = await make(engine, node("c", "a", "b"), node("a"), node("b", "a"), name="diamond")
    assert (made.state, made.total) == ("running", 3)
    assert await states(engine, made) == {"c": "blocked", "a": "pending", "b": "blocked"}
    ran = await run_all(engine)
    page = await workflows.list_nodes(engine.core, engine.ctx, int(made.id), limit=10)
    names = {int(node.job_id): node.name for node in page.data}
    assert [names[job_id] for job_id in ran] == ["a", "b", "c"]
    ended = await look(engine, made)
    assert (ended.state, ended.progress, ended.succeeded) == ("succeeded", 1.0, 3)
    assert ended.ended_at is not None
    assert {node.name: node.depends_on for node in page.data} == {"c": ("a", "b"), "a": (), "b": ("a",)}


async def test_a_cycle_is_refused_with_its_path_and_nothing_is_stored(engine: Engine) -> None:
    with pytest.raises(Invalid) as caught:
        await make(engine, node("a", "c"), node("b", "a"), node("c", "b"), node("d"))
    assert caught.value.code == "workflow.cycle"
    assert caught.value.detail.endswith(("a -> b -> c -> a", "b -> c -> a -> b", "c -> a -> b -> c"))
    assert await engine.admin.fetchval("select count(*) from jobs") == 0


@pytest.mark.parametrize(
    ("nodes", "pointer", "code"),
    [
        ([node("a", "a")], "/nodes/0/depends_on", "workflow.cycle"),
        ([node("a", "b")], "/nodes/0/depends_on/0", "workflow.no_such_node"),
        ([node("a"), node("a")], "/nodes/1/name", "duplicate"),
        ([node("a b")], "/nodes/0/name", "pattern"),
        ([node("a", Edge())], "/nodes/0/depends_on/0", "exclusive"),
        ([node("a"), node("b", "a", "a")], "/nodes/1/depends_on/1", "duplicate"),
        ([node("a", Edge(job_id="4711000"))], "/depends_on", "job.parent_not_found"),
        ([node("a", priority=11)], "/nodes/0/priority", "out_of_range"),
    ],
)
async def test_what_is_wrong_is_pointed_at(
    engine: Engine, nodes: list[WorkflowNode], pointer: str, code: str
) -> None:
    with pytest.raises(Invalid) as caught:
        await make(engine, *nodes)
    assert [(field.pointer, field.code) for field in caught.value.fields] == [(pointer, code)]


async def test_a_parents_result_is_a_childs_argument_byte_for_byte(engine: Engine) -> None:
    await make(
        engine,
        node("a"),
        node("b", payload=Raw(b'{"n": 1.50 }'), inputs={"rows": "a"}),
        node("c", payload=Raw(b" {} "), inputs={"x": "a", "y": "b"}),
    )
    worker = await engine.register()
    results = [b'{"big": 12345678901234567890, "f": 1.10}', None]
    payloads = []
    while found := await engine.claim(worker, 1):
        [lease] = found
        [job_id] = lease.ids
        payload = lease.payloads[0]
        if payload is None:
            payload = (await leases.fetch_payloads(engine.core, worker[0], lease.fence, [job_id]))[job_id]
        payloads.append(payload)
        result = results.pop(0) if results else None
        await engine.finish(worker, report(lease, lambda i, r=result: Succeeded(i, 10, 20, r)))
    assert payloads == [
        b"{}",
        b'{"n": 1.50 ,"rows":{"big": 12345678901234567890, "f": 1.10}}',
        b'{"x":{"big": 12345678901234567890, "f": 1.10},"y":null}',
    ]
    assert all(json.loads(payload) is not None for payload in payloads)


async def test_only_the_failed_part_is_retried(engine: Engine) -> None:
    made = await make(
        engine, node("a"), node("b"), node("c", "b"), node("d", "c"), node("e", Edge("b", on_failure="only"))
    )
    worker = await engine.register()
    page = await workflows.list_nodes(engine.core, engine.ctx, int(made.id), limit=10)
    ids = {node.name: int(node.job_id) for node in page.data}
    for lease in await engine.claim(worker, 10):
        for job_id in lease.ids:
            outcome = failed if job_id == ids["b"] else succeeded
            await engine.finish(worker, report(lease, outcome, [job_id]))
    await run_all(engine)
    assert await states(engine, made) == {
        "a": "succeeded", "b": "failed", "c": "cancelled", "d": "cancelled", "e": "succeeded",
    }  # fmt: skip
    assert (await look(engine, made)).state == "failed"
    again = await workflows.retry(engine.core, engine.ctx, int(made.id))
    assert (again.state, again.succeeded, again.failed, again.cancelled) == ("running", 2, 0, 0)
    assert await states(engine, made) == {
        "a": "succeeded", "b": "pending", "c": "blocked", "d": "blocked", "e": "succeeded",
    }  # fmt: skip
    await engine.assert_one_place(list(ids.values()))
    await run_all(engine)
    assert (await look(engine, made)).state == "succeeded"
    with pytest.raises(Conflict, match="no job"):
        await workflows.retry(engine.core, engine.ctx, int(made.id))


async def test_a_workflow_that_only_waits_for_a_failed_parent_says_that_it_is_blocked(engine: Engine) -> None:
    made = await make(engine, node("a"), node("b", Edge("a", on_failure="block")))
    await run_all(engine, failed)
    assert (await look(engine, made)).state == "blocked"
    await workflows.retry(engine.core, engine.ctx, int(made.id))
    await run_all(engine)
    assert (await look(engine, made)).state == "succeeded"


async def test_cancel_says_before_what_it_will_hit_and_then_hits_it(engine: Engine) -> None:
    made = await make(engine, node("a"), node("b"), node("c", "a"), node("d", "c"))
    worker = await engine.register()
    [lease] = await engine.claim(worker, 1)
    await engine.finish(worker, report(lease, succeeded))
    hit = await workflows.preview_cancel(engine.core, engine.ctx, int(made.id))
    assert hit.would_cancel == 3
    assert {state.value: count for state, count in hit.states.items()} == {
        "succeeded": 1, "pending": 2, "blocked": 1,
    }  # fmt: skip
    await workflows.cancel(engine.core, engine.ctx, int(made.id))
    assert (await look(engine, made)).state == "cancelled"
    assert sorted((await states(engine, made)).values()) == ["cancelled"] * 3 + ["succeeded"]
    with pytest.raises(Conflict):
        await workflows.cancel(engine.core, engine.ctx, int(made.id))
    await workflows.retry(engine.core, engine.ctx, int(made.id))
    await run_all(engine)
    assert (await look(engine, made)).state == "succeeded"


async def test_an_open_workflow_grows_and_runs_when_it_is_started(engine: Engine) -> None:
    made = await make(engine, node("a"), open=True)
    assert made.state == "open"
    await workflows.grow(engine.core, engine.ctx, int(made.id), [node("b", "a"), node("c")])
    with pytest.raises(Invalid, match="two nodes"):
        await workflows.grow(engine.core, engine.ctx, int(made.id), [node("a")])
    assert await run_all(engine) == []
    await workflows.start(engine.core, engine.ctx, int(made.id))
    assert await states(engine, made) == {"a": "pending", "b": "blocked", "c": "pending"}
    with pytest.raises(Conflict, match="takes no more nodes"):
        await workflows.grow(engine.core, engine.ctx, int(made.id), [node("d")])
    assert len(await run_all(engine)) == 3
    assert (await look(engine, made)).state == "succeeded"


async def test_a_workflow_of_another_tenant_does_not_exist(engine: Engine) -> None:
    made = await make(engine, node("a"))
    stranger = await engine.stranger("default")
    for verb in (workflows.get, workflows.start, workflows.cancel, workflows.retry, workflows.preview_cancel):
        with pytest.raises(NotFound):
            await verb(stranger.core, stranger.ctx, int(made.id))


async def test_ten_thousand_nodes_are_one_request(engine: Engine) -> None:
    nodes = [
        node("root"),
        *(node(f"n{i}", "root") for i in range(9_998)),
        node("end", *(f"n{i}" for i in range(9_998))),
    ]
    made = await make(engine, *nodes)
    assert made.total == 10_000
    worker = await engine.register()
    while found := await engine.claim(worker, 1_000):
        await engine.finish(worker, *(report(lease, succeeded) for lease in found))
    assert (await look(engine, made)).state == "succeeded"
