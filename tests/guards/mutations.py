"""The guards of the engine, what the engine is without each, and which test must then fail.

A guard that can be removed without a red test is either not needed or not tested.
"""

from __future__ import annotations

from datetime import UTC, datetime

from tests.support.mutations import Mutation


async def _always(connection: object, xid: int) -> bool:
    return True


def _unsorted(values: list[object], key: object = None) -> list[object]:
    return list(values)


async def _end_of_time(connection: object) -> datetime:
    return datetime(9999, 1, 1, tzinfo=UTC)


def _fine(ip: object, rules: object) -> None:
    return None


STALE = "test_stale_workers.py::"
CANCEL = "test_cancel_races.py::"
CLAIM = "test_claim_races.py::"
SUBMIT = "test_submit_races.py::"
FLOOR = "test_floor_rule.py::"
SCHEDULES = "test_schedules.py::"
TENANTS = "test_tenants.py::"
LIMITS = "test_limits.py::"
BATCH = "test_batches.py::"
HOOKS = "test_webhooks.py::"
LIMIT_RACES = "test_limit_races.py::"
ROWS = "test_row_level_security.py::"
CONTROL = "test_control_races.py::"
BULK = "test_bulk.py::"

MUTATIONS: dict[str, Mutation] = {
    "the fence of a report": Mutation(
        (STALE + "test_a_workers_own_earlier_fence_is_refused_although_it_holds_the_job_again",),
        function="settle",
        old="l.fence = settle.fence and ",
    ),
    "the worker of a report": Mutation(
        (STALE + "test_the_successors_fence_in_the_hand_of_the_old_worker_is_refused",),
        function="settle",
        old=" and l.worker_id = p_worker",
    ),
    "the jobs a lease still covers": Mutation(
        (STALE + "test_a_report_of_jobs_the_lease_never_covered_is_stale_and_its_neighbours_stand",),
        function="settle",
        old="l.ranges @> v_done",
        new="true",
    ),
    "a repeat says the same": Mutation(
        (STALE + "test_another_outcome_under_a_fence_that_has_spoken_is_stale",),
        function="sort_out",
        old=" and a.kind = k",
    ),
    "a repeated success succeeded": Mutation(
        (STALE + "test_a_success_that_comes_after_the_job_was_given_up_as_lost_is_stale",),
        function="sort_out",
        old=" and o.state = 1",
    ),
    "the reaper leaves a renewing worker alone": Mutation(
        (STALE + "test_a_heartbeat_under_way_keeps_the_reaper_off",),
        function="reap",
        old="for update skip locked",
    ),
    "the reaper locks a lease before it believes it": Mutation(
        (
            STALE + "test_finish_that_holds_the_lease_wins_over_the_reaper",
            STALE + "test_the_reaper_takes_only_what_a_finish_in_flight_has_left",
        ),
        function="take_back",
        old="order by fence for update",
        new="order by fence",
    ),
    "leases of the buried are swept up": Mutation(
        (STALE + "test_the_lease_of_a_claim_that_commits_after_its_worker_was_buried_is_swept_up",),
        function="reap",
        old="select distinct l.worker_id from leases l\n    where ",
        new="select distinct l.worker_id from leases l\n    where false and ",
    ),
    "the limit of attempts of lost jobs": Mutation(
        (STALE + "test_a_buried_worker_is_charged_only_for_the_jobs_that_ran",),
        function="take_back",
        old="x.ran and v_lease.attempt >= coalesce(j.max_attempts, q.max_attempts)",
        new="false",
    ),
    "claims skip what others hold": Mutation(
        (CLAIM + "test_a_claim_skips_the_extent_another_one_is_cutting",),
        function="take_extents",
        old="for update skip locked",
        new="for update",
    ),
    "claims lock what they take": Mutation(
        (CLAIM + "test_many_claims_at_once_take_each_job_once",),
        function="take_extents",
        old="for update skip locked",
        new="",
    ),
    "a claim removes as many extents as it locked": Mutation(
        (CLAIM + "test_a_claim_that_cannot_remove_what_it_took_is_aborted",),
        function="take_extents",
        old="if v_rows <> cardinality(v_whole) then",
        new="if false then",
    ),
    "a claim reads as many jobs as it leased": Mutation(
        (CLAIM + "test_a_claim_that_cannot_read_every_job_it_took_is_aborted",),
        function="hand_out",
        old="if coalesce(cardinality(ids), 0) <>",
        new="if false and 0 <>",
    ),
    "limits are counted under their lock": Mutation(
        (LIMITS + "test_two_claims_at_once_do_not_share_the_last_slot",),
        function="lock_limits",
        old="select settings into v_settings",
        new="v_limit.in_use := 0; select settings into v_settings",
    ),
    "a lost worker gives its slots back": Mutation(
        (LIMITS + "test_a_lost_worker_gives_its_slots_back_and_its_late_report_does_not_do_so_again",),
        function="take_back",
        old="if cardinality(v_limits) > 0 then",
        new="if false then",
    ),
    "a first limit waits for claims that do not know of it": Mutation(
        (LIMIT_RACES + "test_a_claim_that_began_while_a_first_limit_was_not_committed_is_counted",),
        function="adopt_leases",
        old="pg_snapshot_xmin(pg_current_snapshot())::text::bigint <= p_limit.adopts_after",
        new="false",
    ),
    "whoever sees a first limit draws an xid of its own": Mutation(
        (LIMIT_RACES + "test_a_claim_that_began_while_a_first_limit_was_not_committed_is_counted",),
        function="adopt_leases",
        old="if p_limit.adopts_after = 0 then",
        new="if false then",
    ),
    "a claim looks for limits once more after it has drawn its xid": Mutation(
        (LIMIT_RACES + "test_a_claim_that_looked_before_a_first_limit_and_goes_on_after_it_takes_nothing",),
        function="claim",
        old="if v_room is null and v_lanes > 0 then",
        new="if false then",
    ),
    "a change of limits waits for the claims that have read them": Mutation(
        (LIMIT_RACES + "test_a_claim_that_waited_for_the_row_goes_by_the_limit_of_now",),
        function="open_limits",
        old="perform from limits where queue_id = new.queue_id and key = '' for update;",
        new="null;",
    ),
    "keys of several queues are locked in the order of their ids": Mutation(
        (LIMIT_RACES + "test_a_claim_locks_keys_of_all_its_queues_in_the_order_of_their_ids",),
        function="lock_limits",
        old="select unnest(next_keys(q.queue_id, p_want)) from queues q where q.queue_id = any (v_active)",
        new="select null::bigint from queues q where true",
    ),
    "a slot is free when its job has ended": Mutation(
        (LIMIT_RACES + "test_of_a_finish_and_the_reaper_one_gives_the_slot_back",),
        function="touch_limits",
        old="set in_use = l.in_use - v_row.back",
        new="set in_use = l.in_use - 2 * v_row.back",
    ),
    "the count of a rate": Mutation(
        (LIMITS + "test_a_rate_limit_lets_no_more_start_in_any_window_and_opens_again",),
        function="count_rate",
        old="+ p_started",
        new="",
    ),
    "a claim keeps to its tenant": Mutation(
        (TENANTS + "test_a_worker_is_handed_jobs_of_its_own_tenant_only",),
        function="claim",
        old="q.tenant_id = v_share.tenant_id and ",
    ),
    "a paused queue is left alone": Mutation(
        (TENANTS + "test_queues_of_one_name_are_apart",),
        function="claim",
        old="and not q.paused",
    ),
    "cancel locks the extent": Mutation(
        (CANCEL + "test_a_claim_that_holds_the_extent_wins_and_the_cancel_becomes_a_request",),
        function="lock_place",
        old="order by lo desc limit 1 for update",
        new="order by lo desc limit 1",
    ),
    "cancel waits for the lease": Mutation(
        (CANCEL + "test_a_finish_that_holds_the_lease_wins_over_cancel",),
        function="lock_place",
        old="ranges @> p_id for update",
        new="ranges @> p_id",
    ),
    "a change holds what is parked": Mutation(
        (CONTROL + "test_a_promotion_passes_by_a_job_that_is_being_changed",),
        function="lock_place",
        old="from parked where id = p_id and tenant_id = p_tenant for update",
        new="from parked where id = p_id and tenant_id = p_tenant",
    ),
    "a change holds an outcome": Mutation(
        (CONTROL + "test_a_move_and_a_retry_of_one_dead_letter_agree_on_its_queue_in_both_orders",),
        function="lock_place",
        old="from outcomes where id = p_id and tenant_id = p_tenant for update",
        new="from outcomes where id = p_id and tenant_id = p_tenant",
    ),
    "a redrive holds the dead letters": Mutation(
        (CLAIM + "test_two_redrives_at_once_bring_each_dead_letter_back_once",),
        function="redrive",
        old="order by id limit p_limit for update",
        new="order by id limit p_limit",
    ),
    "a bulk operation leaves later jobs alone": Mutation(
        (BULK + "test_lower_ids_that_are_submitted_later_are_left_alone",),
        patch=("taskforge.postgres.bulk", "now"),
        value=_end_of_time,
    ),
    "a promotion skips what is being cancelled": Mutation(
        (CANCEL + "test_a_promotion_passes_by_a_job_that_is_being_cancelled",),
        function="promote",
        old="for update skip locked",
    ),
    "an idempotency key lasts": Mutation(
        (SUBMIT + "test_one_key_submitted_50_times_at_once_by_5_processes_makes_one_job",),
        function="take_keys",
        old="where k.expires_at <= now()",
        new="where true",
    ),
    "keys are taken in sorted order": Mutation(
        (SUBMIT + "test_two_batches_with_the_same_keys_in_opposite_order_do_not_deadlock",),
        patch=("taskforge.postgres.keys", "sorted"),
        value=_unsorted,
    ),
    "a submit looks whether its queue is there": Mutation(
        (SUBMIT + "test_a_submit_to_a_queue_deleted_behind_its_back_is_refused_and_stores_nothing",),
        function="publish",
        old="where not exists (select from queues",
        new="where false and not exists (select from queues",
    ),
    "a deletion waits for submits in flight": Mutation(
        (
            SUBMIT + "test_a_submit_that_begins_while_the_deletion_commits_is_not_lost",
            SUBMIT + "test_deleting_a_queue_waits_for_a_submit_in_flight_and_then_refuses",
        ),
        patch=("taskforge.postgres.queues", "is_older_work_done"),
        value=_always,
    ),
    "nothing comes back to a deleted queue": Mutation(
        (SUBMIT + "test_a_job_of_a_deleted_queue_cannot_be_retried_into_the_void",),
        function="refuse_deleted",
        old="deleted_at is not null",
        new="false",
    ),
    "floors wait for the second look": Mutation(
        (FLOOR + "test_the_rule_as_written_loses_nothing",),
        function="raise_floors",
        old="if pg_snapshot_xmin(pg_current_snapshot())::text::bigint <= p_xid then",
        new="if false then",
    ),
    "floors stop at what is alive": Mutation(
        (FLOOR + "test_the_rule_as_written_loses_nothing",),
        function="lowest_live",
        old="and seq >= p_floor",
        new="and seq >= p_next",
    ),
    "row-level security binds the owner": Mutation(
        (ROWS + "test_every_table_of_tenants_forces_row_level_security_with_a_policy_both_ways",),
        statement="alter table jobs no force row level security",
    ),
    "row-level security is on": Mutation(
        (
            ROWS + "test_the_app_role_sees_nothing_without_its_tenant",
            ROWS + "test_rows_of_another_tenant_cannot_be_changed_or_deleted",
        ),
        statement="alter table ready disable row level security",
    ),
    "the policy compares the tenant": Mutation(
        (ROWS + "test_the_app_role_sees_nothing_without_its_tenant",),
        statement="alter policy tenant on queues using (true)",
    ),
    "the policy checks what is written": Mutation(
        (ROWS + "test_nothing_can_be_planted_in_another_tenant",),
        statement="alter policy tenant on ready with check (true)",
    ),
    "ends are added to what the locked row counts": Mutation(
        (BATCH + "test_two_last_members_that_end_at_once_end_the_batch_once",),
        function="count_groups",
        old="set succeeded = g.succeeded + v.succeeded",
        new="set succeeded = (select s.succeeded from groups s where s.id = v.id) + v.succeeded",
    ),
    "a callback goes off once": Mutation(
        (BATCH + "test_the_first_failure_is_told_at_once_and_the_next_is_not",),
        function="fire_callbacks",
        old=" and not g.fired ? v_name",
    ),
    "a sealed batch takes nobody in": Mutation(
        (BATCH + "test_a_job_that_meets_the_seal_joins_or_is_refused",),
        function="enter_groups",
        old="when g.sealed_at is not null then 'sealed'",
        new="when false then 'sealed'",
    ),
    "a piece of a stream comes in its turn": Mutation(
        (BATCH + "test_pieces_of_a_stream_are_taken_once_each_and_in_their_order",),
        function="enter_groups",
        old="v.before <> g.received",
        new="false",
    ),
    "the addresses of a name are vetted": Mutation(
        (HOOKS + "test_a_name_that_leads_inside_is_not_followed",),
        patch=("taskforge.domain.egress", "why_not_address"),
        value=_fine,
    ),
    "ingest reads nothing back": Mutation(
        (
            ROWS + "test_ingest_can_append_and_read_nothing_back",
            ROWS + "test_the_written_table_of_rights_is_what_the_catalogue_says",
        ),
        statement="grant select on jobs to taskforge_ingest",
    ),
    "the plan of a slot is compared under the lock": Mutation(
        (SCHEDULES + "test_a_plan_for_a_slot_that_is_decided_does_nothing_even_if_another_one_is_due",),
        function="decide_slots",
        old="and s.next_slot = (v_plan ->> 'slot')::timestamptz ",
    ),
    "a schedule that is being decided is left alone": Mutation(
        (SCHEDULES + "test_a_scheduler_never_waits_for_another_one_and_fires_nothing_behind_it",),
        function="decide_slots",
        old="for update skip locked",
    ),
    "a slot is one row": Mutation(
        (SCHEDULES + "test_a_slot_that_was_decided_before_is_refused_by_its_key",),
        statement="alter table ticks drop constraint ticks_pkey",
    ),
    "the database's clock says what is due": Mutation(
        (SCHEDULES + "test_the_databases_clock_decides_when_a_slot_is_due",),
        function="decide_slots",
        old=" and s.due_at <= clock_timestamp()",
    ),
    "a plan is of the schedule as it is": Mutation(
        (SCHEDULES + "test_a_plan_made_before_a_change_is_not_carried_out",),
        function="decide_slots",
        old=" and s.version = (v_plan ->> 'version')::integer",
    ),
    "a waiting slot fires once": Mutation(
        (SCHEDULES + "test_a_slot_that_waited_and_has_fired_does_not_fire_for_whoever_read_it_before",),
        function="fire_waiting",
        old=" and s.waiting_slot = p_slot[i]",
    ),
}
