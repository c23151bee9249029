-- Schedules. The first four are the scheduler's; the rest run by the app role under row-level security.

-- name: due
select (schedule).*, now from taskforge.due_schedules($1);

-- name: freed
select (schedule).*, now from taskforge.freed_schedules($1);

-- name: decide
-- In a transaction of the ingest role, before the jobs are stored in it.
select * from taskforge.decide_slots($1);

-- name: fire_waiting
select * from taskforge.fire_waiting($1, $2, $3, $4);

-- name: fire_now
select * from taskforge.fire_now($1, $2, $3, $4);

-- name: now
select clock_timestamp();

-- name: lock_tenant
-- $1 tenant: until the transaction ends nobody else makes a schedule in it, so that its number is exact.
select pg_advisory_xact_lock(hashtextextended($1::text, 5));

-- name: count
select count(*) from taskforge.schedules where tenant_id = $1;

-- name: get
-- Index: schedules_name.
select * from taskforge.schedules where tenant_id = $1 and name = $2;

-- name: get_locked
select * from taskforge.schedules where tenant_id = $1 and name = $2 for update;

-- name: list
-- $1 tenant, $2 names after this one, $3 limit
select * from taskforge.schedules where tenant_id = $1 and name > $2 order by name limit $3;

-- name: create
insert into taskforge.schedules
  (tenant_id, name, definition, payload, queue_name, paused, source, declared, next_slot, due_at)
values ($1, $2, $3, $4, $5, $6, $7, $8, null, null) returning *;

-- name: define
-- $1 tenant, $2 schedule_id, under its lock. A new definition. $6: whether a person did it, $7: its fingerprint if code
-- declared it
update taskforge.schedules
set definition = $3, payload = $4, queue_name = $5, version = version + 1, edited = $6, declared = coalesce($7, declared),
  updated_at = clock_timestamp()
where tenant_id = $1 and schedule_id = $2 returning *;

-- name: set_paused
update taskforge.schedules set paused = $3, version = version + 1, updated_at = clock_timestamp()
where tenant_id = $1 and schedule_id = $2 returning *;

-- name: aim
-- $1 tenant, $2 schedule_id, $3 the next slot and $4 when it is due, null for none
update taskforge.schedules set next_slot = $3, due_at = $4 where tenant_id = $1 and schedule_id = $2 returning *;

-- name: drop_slot
-- $1 tenant, $2 schedule_id, $3 a slot that is due but will not be decided any more, $4 why
insert into taskforge.ticks (schedule_id, slot, tenant_id, verdict, reason, through, slots)
values ($2, $3, $1, 2, $4, $3, 1);

-- name: drop_waiting
with gone as (
  update taskforge.schedules set waiting_slot = null
  where tenant_id = $1 and schedule_id = $2 and waiting_slot is not null returning schedule_id
)
update taskforge.ticks set verdict = 2, reason = $3, decided_at = clock_timestamp()
where tenant_id = $1 and schedule_id = $2 and verdict = 3 and exists (select from gone);

-- name: delete
delete from taskforge.schedules where tenant_id = $1 and name = $2 returning schedule_id;

-- name: delete_ticks
delete from taskforge.ticks where tenant_id = $1 and schedule_id = $2;

-- name: ticks
-- $1 tenant, $2 schedule_id, $3 slots before this one, $4 limit. Newest first. Index: ticks_pkey.
select * from taskforge.ticks where tenant_id = $1 and schedule_id = $2 and slot < $3 order by slot desc limit $4;
