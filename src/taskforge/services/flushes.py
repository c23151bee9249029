"""The plan of one flush: which jobs are stored in which lane, and what becomes of those with keys.

A job with an idempotency key or a unique key joins only once its keys are its own; idempotency keys are settled first.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from msgspec import Struct

from taskforge.domain.idempotency import body_hash
from taskforge.domain.jobs import GroupAnswer, JobDraft, JobGroup, JobState
from taskforge.domain.terms import Unique
from taskforge.errors import Conflict, TaskForgeError, Unavailable
from taskforge.postgres.keys import KeyedDraft, Repointed, UniqueOffer
from taskforge.postgres.submit import Lane, Place, Run, lay_out

_STATES = {
    Place.READY: JobState.PENDING,
    Place.SCHEDULED: JobState.SCHEDULED,
    Place.BLOCKED: JobState.BLOCKED,
}


class Part(Struct, frozen=True):
    """One submission's share of a flush."""

    tenant_id: UUID
    groups: Sequence[JobGroup]
    queue_ids: dict[str, int]


class _Candidate(Struct, eq=False):
    """A job that is stored if its keys let it."""

    lane: Lane
    group: JobGroup
    answer: GroupAnswer
    key: KeyedDraft | None
    unique: UniqueOffer | None
    job_id: int = 0


class Plan:
    """Lays the groups of a flush out in lanes. `is_atomic`: any refusal is raised, so that nothing is stored."""

    def __init__(self, parts: Sequence[Part], *, is_atomic: bool) -> None:
        self.runs: list[Run] = []
        self.answers = [[GroupAnswer([]) for _ in part.groups] for part in parts]
        self.offers: list[KeyedDraft] = []
        self.has_keys = False
        self._is_atomic = is_atomic
        self._plain: dict[Lane, list[tuple[JobGroup, GroupAnswer]]] = {}
        self._candidates: list[_Candidate] = []
        self._replays: list[tuple[_Candidate, _Candidate]] = []
        for part, answers in zip(parts, self.answers, strict=True):
            for group, answer in zip(part.groups, answers, strict=True):
                draft = group.draft
                lane = lane_of(part.tenant_id, part.queue_ids[draft.queue_name], draft)
                unique = None if draft.terms is None else draft.terms.unique
                if draft.idempotency_key is None and unique is None:
                    self._plain.setdefault(lane, []).append((group, answer))
                else:
                    key = None if draft.idempotency_key is None else _offer(part.tenant_id, group)
                    offer = None if unique is None else UniqueOffer(part.tenant_id, draft.job_type, unique)
                    self._candidates.append(_Candidate(lane, group, answer, key, offer))

    def assign(self, ids: list[range]) -> None:
        """Give every job its id."""
        for lane, entries in self._plain.items():
            runs, given = lay_out(lane, (group for group, _ in entries), ids)
            self.runs += runs
            for (_, answer), mine in zip(entries, given, strict=True):
                answer.ids = mine
                answer.state = _STATES[lane.place]
        self.has_keys = bool(self._candidates)
        if not self._candidates:
            return
        seen: dict[tuple[UUID, str], KeyedDraft] = {}
        self._candidates.sort(
            key=lambda one: (one.lane.queue_id, one.lane.priority, one.lane.place, one.lane.key or "")
        )
        for one in self._candidates:
            _, [[one.job_id]] = lay_out(one.lane, [one.group], ids)
            if one.unique is not None:
                one.unique.job_id = one.job_id
            if one.key is not None:
                one.key.job_id = one.job_id
                seen.setdefault((one.key.tenant_id, one.key.key), one.key)
        # A key that a flush brings twice is offered once; the others are its replays.
        self.offers = list(seen.values())

    def settle_keys(self) -> list[UniqueOffer]:
        """After `take_keys`: replays answer with the earlier job, keys of other contents are refused.

        Returns the unique keys that the rest needs.
        """
        owners = {(offer.tenant_id, offer.key): offer for offer in self.offers}
        first = {one.job_id: one for one in self._candidates}
        left: list[_Candidate] = []
        for one in self._candidates:
            if one.key is None:
                left.append(one)
                continue
            offer = owners[one.key.tenant_id, one.key.key]
            assert offer.owner is not None
            if offer.is_mismatch or offer.body_hash != one.key.body_hash:
                detail = f'the idempotency key "{offer.key}" was used for a job with another content'
                self._refuse(one, Conflict("idempotency_key_reused", detail, job_id=_shown(offer.owner)))
            elif one.key is offer and offer.is_new:
                left.append(one)
            else:
                one.answer.ids = [offer.owner]
                one.answer.created = False
                if offer.is_new:
                    self._replays.append((one, first[offer.owner]))
        self._candidates = left
        return [one.unique for one in left if one.unique is not None]

    def settle_uniques(self) -> list[Repointed]:
        """After `take_uniques`: what has its keys joins the runs.

        Returns the idempotency keys of what was not stored.
        """
        repointed: list[Repointed] = []
        for one in self._candidates:
            if one.unique is None or one.unique.verdict in ("taken", "replaced"):
                one.answer.ids = [one.job_id]
                one.answer.state = _STATES[one.lane.place]
                if one.unique is not None and one.unique.verdict == "replaced":
                    one.answer.replaced = one.unique.holder
                self._join(one)
                continue
            holder: int | None = one.unique.holder
            if one.unique.verdict == "held" and one.unique.unique.on_conflict == "keep":
                assert holder is not None
                one.answer.ids = [holder]
                one.answer.created = False
                one.answer.kept = True
            else:
                self._refuse(one, refusal(one.unique))
                holder = None
            if one.key is not None:
                repointed.append(Repointed(one.key.tenant_id, one.key.key, holder))
        for replay, original in self._replays:
            if original.answer.error is not None:
                self._refuse(replay, original.answer.error)
            else:
                replay.answer.ids = original.answer.ids
        return repointed

    def settle_parents(self, states: dict[int, JobState]) -> None:
        """Children whose parents had ended do not wait. Jobs of one group have the same parents, so the same fate."""
        for answers in self.answers:
            for answer in answers:
                if answer.ids and answer.created and answer.ids[0] in states:
                    answer.state = states[answer.ids[0]]

    def _refuse(self, one: _Candidate, error: TaskForgeError) -> None:
        if self._is_atomic:
            raise error
        one.answer.ids = []
        one.answer.created = False
        one.answer.error = error

    def _join(self, one: _Candidate) -> None:
        part = (one.group.draft, one.group.payloads)
        if self.runs and self.runs[-1].lane == one.lane and self.runs[-1].last + 1 == one.job_id:
            self.runs[-1].parts.append(part)
            self.runs[-1].size += 1
        else:
            self.runs.append(Run(one.lane, one.job_id, [part], 1))


def refusal(offer: UniqueOffer) -> TaskForgeError:
    """Why a job may not have its unique key."""
    holder = _shown(offer.holder)
    if offer.verdict == "busy":
        return Unavailable(
            "job.busy", f"job {holder}, which is to be replaced, is changing hands; try again", retry_after=1
        )
    detail = f'the unique key "{offer.unique.key}" of {offer.job_type} is held by job {holder}'
    if offer.verdict == "kept_by_links":
        detail += ", which is part of a batch or workflow and cannot be replaced"
    elif offer.unique.on_conflict == "replace":
        detail += ", which does not wait any longer and cannot be replaced"
    return Conflict("job.not_unique", detail, job_id=holder)


def unique_of(draft: JobDraft) -> Unique | None:
    return None if draft.terms is None else draft.terms.unique


def lane_of(tenant_id: UUID, queue_id: int, draft: JobDraft) -> Lane:
    """Where a new job like this goes."""
    return Lane(
        tenant_id,
        queue_id,
        draft.priority,
        _place(draft),
        None if draft.terms is None else draft.terms.concurrency_key,
    )


def _place(draft: JobDraft) -> Place:
    if draft.terms is not None and draft.terms.depends_on:
        return Place.BLOCKED
    if draft.run_at is not None or draft.delay_seconds:
        return Place.SCHEDULED
    return Place.READY


def _offer(tenant_id: UUID, group: JobGroup) -> KeyedDraft:
    assert group.draft.idempotency_key is not None
    return KeyedDraft(tenant_id, group.draft.idempotency_key, body_hash(group.draft, group.payloads[0]), 0)


def _shown(job_id: int | None) -> str | None:
    return None if job_id is None else str(job_id)
