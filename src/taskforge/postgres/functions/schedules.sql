-- Slots of schedules. What a slot means is decided in domain/schedules.py; here it is written down, once.

-- Whether a job is there and has not ended.
create or replace function taskforge.is_unfinished(p_job bigint) returns boolean
language sql stable security invoker
set search_path = taskforge, pg_temp
as $$
  select exists (select from jobs where id = p_job) and not exists (select from outcomes where id = p_job)
$$;

-- Schedules that are due by the database's clock, with that clock. Index: schedules_due.
create or replace function taskforge.due_schedules(p_limit integer)
returns table (schedule schedules, now timestamptz)
language sql stable security definer
set search_path = taskforge, pg_temp
set enable_seqscan = off
set jit = off
as $$
  select s, clock_timestamp() from schedules s where due_at <= clock_timestamp() order by due_at limit p_limit
$$;

-- Schedules with a slot that waits for the job before it, and that has ended. Index: schedules_waiting.
create or replace function taskforge.freed_schedules(p_limit integer)
returns table (schedule schedules, now timestamptz)
language sql stable security definer
set search_path = taskforge, pg_temp
set enable_seqscan = off
set jit = off
as $$
  select s, clock_timestamp() from schedules s
  where waiting_slot is not null and not taskforge.is_unfinished(s.last_job_id) limit p_limit
$$;

-- Decide the due slots of schedules, called by the ingest role in the transaction that then stores the jobs. A plan:
-- {schedule, version, slot, last_job, skip: {first, last, count} or null, late, fires: [{slot, job}], next_slot, due_at}.
-- Rows come back for the slots of schedules that were decided, with the queue the jobs of those that fire go to.
-- A plan that is out of date does nothing: somebody else has decided its slots, or changed the schedule. The row lock, the
-- comparison under it and the key of ticks are what "exactly once" rests on (E9).
-- Lock order: one schedule at a time, skipping locked ones; nothing else is locked while it is held.
create or replace function taskforge.decide_slots(p_plans jsonb)
returns table (schedule_id bigint, slot timestamptz, job_id bigint, queue_id integer, verdict smallint, reason text)
language plpgsql security definer
set search_path = taskforge, pg_temp
set jit = off
as $$
#variable_conflict use_column
declare
  v_plan jsonb;
  v_fire jsonb;
  v_row schedules;
  v_overlap text;
  v_is_busy boolean;
  v_written integer;
begin
  perform pg_current_xact_id();
  for v_plan in select * from jsonb_array_elements(p_plans) loop
    select * into v_row from schedules s
    where s.schedule_id = (v_plan ->> 'schedule')::bigint and s.version = (v_plan ->> 'version')::integer
      and s.next_slot = (v_plan ->> 'slot')::timestamptz and s.due_at <= clock_timestamp()
      and s.last_job_id is not distinct from (v_plan ->> 'last_job')::bigint
    for update skip locked;
    continue when not found;
    schedule_id := v_row.schedule_id;
    v_overlap := v_row.definition ->> 'overlap';
    v_is_busy := is_unfinished(v_row.last_job_id);
    v_written := jsonb_array_length(v_plan -> 'fires');
    select q.queue_id into queue_id from queues q
    where q.tenant_id = v_row.tenant_id and q.name = v_row.queue_name and q.deleted_at is null;

    if jsonb_typeof(v_plan -> 'skip') = 'object' then
      v_written := v_written + 1;
      insert into ticks (schedule_id, slot, tenant_id, verdict, reason, through, slots)
      values (schedule_id, (v_plan #>> '{skip,first}')::timestamptz, v_row.tenant_id, 2, 'missed',
        (v_plan #>> '{skip,last}')::timestamptz, (v_plan #>> '{skip,count}')::integer);
    end if;

    for v_fire in select * from jsonb_array_elements(v_plan -> 'fires') loop
      slot := (v_fire ->> 'slot')::timestamptz;
      job_id := null;
      verdict := 2;
      reason := case when queue_id is null then 'queue_gone' when v_is_busy and v_overlap in ('skip', 'queue') then 'overlap' end;
      if reason = 'overlap' and v_overlap = 'queue' and v_row.waiting_slot is null then
        verdict := 3;
        v_row.waiting_slot := slot;
      elsif reason is null then
        verdict := 1;
        reason := case when (v_plan ->> 'late')::boolean then 'late' end;
        job_id := (v_fire ->> 'job')::bigint;
        v_row.last_job_id := job_id;
        v_is_busy := true;  -- its row comes later in this transaction
      end if;
      insert into ticks (schedule_id, slot, tenant_id, verdict, reason, job_id, through, slots)
      values (schedule_id, slot, v_row.tenant_id, verdict, reason, job_id, slot, 1);
      v_row.last_slot := slot;
      return next;
    end loop;

    if jsonb_array_length(v_plan -> 'fires') = 0 then
      slot := v_row.next_slot;
      job_id := null;
      verdict := 2;
      reason := 'missed';
      return next;
    end if;

    update schedules s
    set next_slot = (v_plan ->> 'next_slot')::timestamptz, due_at = (v_plan ->> 'due_at')::timestamptz,
      waiting_slot = v_row.waiting_slot, last_slot = v_row.last_slot, last_job_id = v_row.last_job_id,
      ticks = s.ticks + v_written
    where s.schedule_id = v_row.schedule_id;
    perform forget_ticks(v_row.schedule_id, v_row.ticks, v_written);
  end loop;
end
$$;

-- Fire the waiting slot of each schedule whose job before has ended. Arrays run parallel; a row for each that fires.
create or replace function taskforge.fire_waiting(p_schedule bigint[], p_version integer[], p_slot timestamptz[], p_job bigint[])
returns table (schedule_id bigint, slot timestamptz, job_id bigint, queue_id integer, verdict smallint, reason text)
language plpgsql security definer
set search_path = taskforge, pg_temp
set jit = off
as $$
#variable_conflict use_column
declare
  v_row schedules;
begin
  perform pg_current_xact_id();
  for i in 1 .. cardinality(p_schedule) loop
    select * into v_row from schedules s
    where s.schedule_id = p_schedule[i] and s.version = p_version[i] and s.waiting_slot = p_slot[i]
    for update skip locked;
    continue when not found or is_unfinished(v_row.last_job_id);
    schedule_id := v_row.schedule_id;
    slot := v_row.waiting_slot;
    select q.queue_id into queue_id from queues q
    where q.tenant_id = v_row.tenant_id and q.name = v_row.queue_name and q.deleted_at is null;
    verdict := case when queue_id is null then 2 else 1 end;
    reason := case when queue_id is null then 'queue_gone' else 'waited' end;
    job_id := case when queue_id is null then null else p_job[i] end;
    update ticks t set verdict = fire_waiting.verdict, reason = fire_waiting.reason, job_id = fire_waiting.job_id, decided_at = clock_timestamp()
    where t.schedule_id = v_row.schedule_id and t.slot = v_row.waiting_slot;
    update schedules s set waiting_slot = null, last_job_id = coalesce(fire_waiting.job_id, v_row.last_job_id)
    where s.schedule_id = v_row.schedule_id;
    return next;
  end loop;
end
$$;

-- Run a schedule's job now, whatever its times, its pause and its overlap policy say. No row: it is not as the caller
-- read it. Waits for whoever decides its slots at this moment.
create or replace function taskforge.fire_now(p_tenant uuid, p_schedule bigint, p_version integer, p_job bigint)
returns table (schedule_id bigint, slot timestamptz, job_id bigint, queue_id integer, verdict smallint, reason text)
language plpgsql security definer
set search_path = taskforge, pg_temp
set jit = off
as $$
#variable_conflict use_column
declare
  v_row schedules;
begin
  perform pg_current_xact_id();
  select * into v_row from schedules s
  where s.tenant_id = p_tenant and s.schedule_id = p_schedule and s.version = p_version for update;
  if not found then
    return;
  end if;
  select q.queue_id into queue_id from queues q
  where q.tenant_id = p_tenant and q.name = v_row.queue_name and q.deleted_at is null;
  schedule_id := p_schedule;
  slot := clock_timestamp();
  job_id := p_job;
  verdict := 1;
  reason := 'run_now';
  if queue_id is not null then
    insert into ticks (schedule_id, slot, tenant_id, verdict, reason, job_id, through, slots)
    values (p_schedule, slot, p_tenant, 1, 'run_now', p_job, slot, 1);
    update schedules s set last_slot = fire_now.slot, last_job_id = p_job, ticks = s.ticks + 1 where s.schedule_id = p_schedule;
    perform forget_ticks(p_schedule, v_row.ticks, 1);
  end if;
  return next;
end
$$;

-- Keep the last thousand ticks of a schedule, looking only at every hundredth: so a schedule has 1,100 at most, and
-- deleting them costs little.
create or replace function taskforge.forget_ticks(p_schedule bigint, p_before bigint, p_written integer) returns void
language plpgsql security invoker
set search_path = taskforge, pg_temp
set enable_seqscan = off
as $$
begin
  if p_before / 100 < (p_before + p_written) / 100 then
    delete from ticks where schedule_id = p_schedule and verdict <> 3 and slot < (
      select slot from ticks where schedule_id = p_schedule order by slot desc offset 999 limit 1);
  end if;
end
$$;
