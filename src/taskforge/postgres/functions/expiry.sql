-- Jobs that have waited too long. Who starts a job looks at its times as well (time_bounds); what is here ends those that
-- nobody starts, because their queue is paused or nobody serves it.

-- End a job that waits, without waiting for whoever has its place locked: 'ended', 'started' (it has spent an attempt, and
-- p_only_fresh), 'running', 'over' (it has ended, or is gone) or 'busy'. p_reason says why. With p_fails a job that has
-- spent attempts has failed; otherwise it is cancelled. The caller calls tell_ended for all that ended.
create or replace function taskforge.end_waiting(
  p_tenant uuid, p_id bigint, p_reason text, p_only_fresh boolean, p_fails boolean) returns text
language plpgsql security invoker
set search_path = taskforge, pg_temp
set enable_seqscan = off
set jit = off
as $$
declare
  v_parked parked;
  v_extent ready;
  v_queue integer;
  v_attempt smallint;
  v_state smallint;
begin
  select * into v_parked from parked where id = p_id and tenant_id = p_tenant for update skip locked;
  if found then
    v_queue := v_parked.queue_id;
    v_attempt := v_parked.attempt;
    if p_only_fresh and v_attempt > 1 then
      return 'started';
    end if;
    delete from parked where id = p_id;
    insert into flow (tenant_id, queue_id, scheduled, retrying, blocked)
    values (p_tenant, v_queue, -(v_parked.kind = 1)::int, -(v_parked.kind = 2)::int, -(v_parked.kind = 3)::int);
  else
    -- A row that is skipped gives way to one further below, which does not cover the job.
    select * into v_extent from ready
    where lo <= p_id and lo > p_id - 1000 and tenant_id = p_tenant order by lo desc limit 1 for update skip locked;
    if found and v_extent.hi >= p_id then
      v_queue := v_extent.queue_id;
      v_attempt := v_extent.attempt;
      if p_only_fresh and v_attempt > 1 then
        return 'started';
      end if;
      perform cut_extent(v_queue, v_extent.priority, v_extent.stream, v_extent.seq, p_id);
      insert into flow (tenant_id, queue_id, priority, ready) values (p_tenant, v_queue, v_extent.priority, -1);
    elsif exists (select from leases where tenant_id = p_tenant and ranges @> p_id) then
      return 'running';
    else
      return case when exists (select from outcomes where id = p_id)
        or not exists (select from jobs where id = p_id) then 'over' else 'busy' end;
    end if;
  end if;
  v_state := case when p_fails and v_attempt > 1 then 2 else 3 end;
  insert into outcomes (id, tenant_id, queue_id, state, attempt, finished_at, reason, fence)
  values (p_id, p_tenant, v_queue, v_state, v_attempt - 1, clock_timestamp(), p_reason,
    case v_state when 2 then (select max(fence) from attempts where job_id = p_id) end);
  insert into flow (tenant_id, queue_id, failed, cancelled)
  values (p_tenant, v_queue, (v_state = 2)::int, (v_state = 3)::int);
  return 'ended';
end
$$;

-- Everything that follows from the end of these jobs, whose outcomes were written in this transaction. Returns what
-- follow_up does.
create or replace function taskforge.tell_ended(p_ids bigint[]) returns integer[]
language plpgsql security invoker
set search_path = taskforge, pg_temp
set enable_seqscan = off
set jit = off
as $$
declare
  v_dead record;
  v_states smallint[];
begin
  if cardinality(p_ids) = 0 then
    return '{}';
  end if;
  for v_dead in
    select tenant_id, queue_id, array_agg(id order by id) as ids from outcomes
    where id = any (p_ids) and state = 2 group by tenant_id, queue_id
  loop
    perform forward_dead_letters(v_dead.tenant_id, v_dead.queue_id, v_dead.ids);
  end loop;
  select array_agg(id order by id), array_agg(state order by id) into p_ids, v_states from outcomes where id = any (p_ids);
  return follow_up(p_ids, v_states);
end
$$;

-- Remember when jobs that are stored in this transaction will be too late, by the database's clock; arrays run parallel.
-- Relative times count from this transaction's time, which is their submitted_at.
create or replace function taskforge.note_expiries(
  p_id bigint[], p_tenant uuid[], p_kind smallint[], p_at timestamptz[], p_in double precision[]) returns void
language sql security invoker
set search_path = taskforge, pg_temp
as $$
  insert into expiries (due_at, job_id, kind, bound, tenant_id)
  select bound, id, kind, bound, tenant
  from unnest(p_id, p_tenant, p_kind, p_at, p_in) as u (id, tenant, kind, at, seconds)
  cross join lateral (select coalesce(at, now() + make_interval(secs => seconds)) as bound) as b
  where bound is not null
  on conflict do nothing;
$$;

-- When jobs may no longer start their first attempt (starts), and when they may start none at all (ends); null for never.
-- From what the jobs say, and for starts else from what their queue says. Arrays run parallel to p_ids, which ascend; both
-- are null when there is no such time among them.
create or replace function taskforge.time_bounds(
  p_ids bigint[], p_options jsonb[], p_attempt smallint, p_settings jsonb,
  out starts timestamptz[], out ends timestamptz[]
)
language sql stable security invoker
set search_path = taskforge, pg_temp
set enable_seqscan = off
set jit = off
as $$
  select case when count(b.starts) > 0 then array_agg(b.starts order by b.id) end,
    case when count(b.ends) > 0 then array_agg(b.ends order by b.id) end
  from unnest(p_ids, p_options) as u (id, options)
  cross join lateral (select submitted_at from jobs where id = u.id offset 0) as j
  cross join lateral (
    select u.id,
      case when p_attempt = 1 then coalesce(
        (options #>> '{terms,expires_at}')::timestamptz,
        j.submitted_at + make_interval(secs => coalesce(
          (options #>> '{terms,expires_in_seconds}')::double precision,
          (p_settings ->> 'expires_in_seconds')::double precision))) end as starts,
      coalesce(
        (options #>> '{terms,deadline_at}')::timestamptz,
        j.submitted_at + make_interval(secs => (options #>> '{terms,deadline_in_seconds}')::double precision)) as ends
  ) as b;
$$;

-- Whether time_bounds has anything to find for these jobs; options is null when none of them has any.
create or replace function taskforge.has_time_bounds(p_options jsonb[], p_settings jsonb) returns boolean
language sql immutable security invoker
set search_path = taskforge, pg_temp
as $$
  select p_settings ->> 'expires_in_seconds' is not null or (p_options is not null and exists (
    select from unnest(p_options) as o
    where o -> 'terms' ?| array['expires_at', 'expires_in_seconds', 'deadline_at', 'deadline_in_seconds']));
$$;

-- End up to p_limit jobs whose time has come and that still wait. One whose place is locked, or that a worker holds, is
-- looked at again later: it may come back. Returns how many were looked at, and what follow_up returns.
-- Lock order: expiries and places, all skipping locked ones; then as follow_up.
create or replace function taskforge.expire_due(p_limit integer, out looked integer, out queues integer[])
language plpgsql security definer
set search_path = taskforge, pg_temp
set enable_seqscan = off
set jit = off
as $$
declare
  v_due expiries;
  v_answer text;
  v_ended bigint[] := '{}';
begin
  looked := 0;
  perform pg_current_xact_id();
  for v_due in
    select * from expiries where due_at <= clock_timestamp() order by due_at, job_id, kind limit p_limit
    for update skip locked
  loop
    looked := looked + 1;
    v_answer := end_waiting(
      v_due.tenant_id, v_due.job_id,
      case v_due.kind when 1 then expired_before(v_due.bound) else deadline_passed(v_due.bound) end,
      v_due.kind = 1, v_due.kind = 2);
    if v_answer = 'ended' then
      v_ended := v_ended || v_due.job_id;
    end if;
    delete from expiries where due_at = v_due.due_at and job_id = v_due.job_id and kind = v_due.kind;
    if v_answer in ('busy', 'running') then
      insert into expiries (due_at, job_id, kind, bound, tenant_id)
      values (clock_timestamp() + case v_answer when 'busy' then interval '1 second' else interval '15 seconds' end,
        v_due.job_id, v_due.kind, v_due.bound, v_due.tenant_id)
      on conflict do nothing;
    end if;
  end loop;
  queues := tell_ended(v_ended);
end
$$;

create or replace function taskforge.expired_before(p_bound timestamptz) returns text
language plpgsql stable security invoker
set search_path = taskforge, pg_temp
as $$
begin
  return 'expired: it was to start before ' || iso(p_bound);
end
$$;

create or replace function taskforge.deadline_passed(p_bound timestamptz) returns text
language plpgsql stable security invoker
set search_path = taskforge, pg_temp
as $$
begin
  return 'its deadline ' || iso(p_bound) || ' has passed';
end
$$;

-- End ready jobs that have waited longer than the expires_in_seconds of their queue: those of p_extents extents, of queues
-- that have such a setting, looked for at the old end of each lane. Returns how many ended, and what follow_up returns.
-- Lock order: extents, skipping locked ones; then as follow_up.
create or replace function taskforge.expire_queues(p_extents integer, out ended integer, out queues integer[])
language plpgsql security definer
set search_path = taskforge, pg_temp
set enable_seqscan = off
set jit = off
as $$
declare
  v_old record;
  v_extent ready;
  v_gone bigint[];
  v_bounds timestamptz[];
  v_ended bigint[] := '{}';
begin
  perform pg_current_xact_id();
  for v_old in
    select q.settings, r.* from taskforge.queues q
    join lanes l on l.queue_id = q.queue_id
    cross join lateral generate_series(0, 3) as s (stream)
    cross join lateral (
      select * from ready
      where queue_id = l.queue_id and priority = l.priority and stream = s.stream
        and seq >= case s.stream when 0 then l.returned_floor when 1 then l.fresh_floor else 0 end
      order by seq limit p_extents) as r
    where q.settings ? 'expires_in_seconds' and q.settings ->> 'expires_in_seconds' is not null and q.deleted_at is null
      and r.attempt = 1
      and r.ready_at <= clock_timestamp()
      and exists (
        select from jobs where id = r.lo
          and submitted_at + make_interval(secs => (q.settings ->> 'expires_in_seconds')::double precision) <= clock_timestamp())
    limit p_extents
  loop
    select * into v_extent from ready
    where queue_id = v_old.queue_id and priority = v_old.priority and stream = v_old.stream and seq = v_old.seq
    for update skip locked;
    continue when not found;
    select array_agg(j.id order by j.id), array_agg(b.starts[1] order by j.id) into v_gone, v_bounds
    from (select * from jobs where id between v_extent.lo and v_extent.hi order by id offset 0) as j
    cross join lateral time_bounds(array[j.id], array[j.options], 1::smallint, v_old.settings) as b
    where b.starts[1] <= clock_timestamp();
    continue when v_gone is null;
    delete from ready where queue_id = v_extent.queue_id and priority = v_extent.priority
      and stream = v_extent.stream and seq = v_extent.seq;
    insert into ready (queue_id, priority, stream, tenant_id, attempt, lo, hi, ready_at, key_id)
    select v_extent.queue_id, v_extent.priority, case when v_extent.key_id is null then 0 else 2 end, v_extent.tenant_id, 1,
      lower(rest), upper(rest) - 1, v_extent.ready_at, v_extent.key_id
    from unnest(int8multirange(int8range(v_extent.lo, v_extent.hi, '[]'))
      - (select range_agg(int8range(id, id, '[]')) from unnest(v_gone) as id)) as rest;
    insert into outcomes (id, tenant_id, queue_id, state, attempt, finished_at, reason)
    select id, v_extent.tenant_id, v_extent.queue_id, 3, 0, clock_timestamp(), expired_before(bound)
    from unnest(v_gone, v_bounds) as u (id, bound);
    insert into flow (tenant_id, queue_id, priority, ready, cancelled)
    values (v_extent.tenant_id, v_extent.queue_id, v_extent.priority, -cardinality(v_gone), cardinality(v_gone));
    v_ended := v_ended || v_gone;
  end loop;
  ended := cardinality(v_ended);
  queues := tell_ended(v_ended);
end
$$;
