-- What a tenant asks for of one job, run by the app role under row-level security. What is asked of many is in bulk.sql.

-- Where a job is, with a lock on that place, so that it stays there until this transaction ends: 'ended' (kind is its
-- outcome), 'parked', 'ready', 'leased', 'gone' when it was purged, or 'nowhere' when it changed hands at every look.
-- A job is in one place at a time but may move between two looks; hence the loop.
-- Lock order: the outcome or the parked row or the extent or the lease.
create or replace function taskforge.lock_place(
  p_tenant uuid, p_id bigint,
  out place text, out queue_id integer, out priority smallint, out attempt smallint, out kind smallint,
  out run_at timestamptz, out stream smallint, out seq bigint, out ready_at timestamptz
)
language plpgsql security invoker
set search_path = taskforge, pg_temp
set jit = off
as $$
declare
  v_row record;
begin
  for round in 1 .. 20 loop
    select * into v_row from outcomes where id = p_id and tenant_id = p_tenant for update;
    if found then
      place := 'ended';
      queue_id := v_row.queue_id;
      attempt := v_row.attempt;
      kind := v_row.state;
      return;
    end if;

    select * into v_row from parked where id = p_id and tenant_id = p_tenant for update;
    if found then
      place := 'parked';
      queue_id := v_row.queue_id;
      priority := v_row.priority;
      attempt := v_row.attempt;
      kind := v_row.kind;
      run_at := v_row.run_at;
      return;
    end if;

    -- Extents are disjoint and at most 1,000 wide, so the one that covers the job is the nearest below it.
    select * into v_row from ready
    where lo <= p_id and lo > p_id - 1000 and tenant_id = p_tenant order by lo desc limit 1 for update;
    if found and v_row.hi >= p_id then
      place := 'ready';
      queue_id := v_row.queue_id;
      priority := v_row.priority;
      attempt := v_row.attempt;
      stream := v_row.stream;
      seq := v_row.seq;
      ready_at := v_row.ready_at;
      return;
    end if;

    select * into v_row from leases where tenant_id = p_tenant and ranges @> p_id for update;
    if found then
      place := 'leased';
      queue_id := v_row.queue_id;
      priority := v_row.priority;
      attempt := v_row.attempt;
      return;
    end if;
  end loop;
  place := case when exists (select from jobs where id = p_id and tenant_id = p_tenant) then 'nowhere' else 'gone' end;
end
$$;

-- Cut a job out of the extent that lock_place has locked; the rest of it waits in the stream of what came back.
create or replace function taskforge.cut_extent(
  p_queue integer, p_priority smallint, p_stream smallint, p_seq bigint, p_id bigint) returns void
language sql security invoker
set search_path = taskforge, pg_temp
set jit = off
as $$
  select pg_current_xact_id();
  with gone as (
    delete from ready where queue_id = p_queue and priority = p_priority and stream = p_stream and seq = p_seq
    returning *
  )
  insert into ready (queue_id, priority, stream, tenant_id, attempt, lo, hi, ready_at, key_id)
  select queue_id, priority, case when key_id is null then 0 else 2 end, tenant_id, attempt, rest.lo, rest.hi, ready_at,
    key_id
  from gone cross join lateral (values (gone.lo, p_id - 1), (p_id + 1, gone.hi)) as rest (lo, hi)
  where rest.lo <= rest.hi;
$$;

-- Cancel one job. Once this has answered 'cancelled', no handler starts: a pending job is cut out of its extent under the
-- extent's lock, a parked one is deleted. For a running one 'requested' is the answer, and its worker is told.
-- Lock order: the place of the job, then cancellations.
drop function if exists taskforge.cancel(uuid, bigint, text);

create or replace function taskforge.cancel(
  p_tenant uuid, p_id bigint, p_actor text, p_operation bigint default null) returns text
language plpgsql security invoker
set search_path = taskforge, pg_temp
set jit = off
as $$
declare
  v_at record;
begin
  if not exists (select from jobs where id = p_id and tenant_id = p_tenant) then
    return 'not_found';
  end if;
  select * into v_at from lock_place(p_tenant, p_id);
  case v_at.place
    when 'ended' then
      return 'ended';
    when 'leased' then
      insert into cancellations (job_id, tenant_id, requested_by) values (p_id, p_tenant, p_actor)
      on conflict do nothing;
      if found then
        insert into job_changes (job_id, tenant_id, actor, verb, operation_id, before, after)
        values (p_id, p_tenant, p_actor, 'cancel', p_operation, '{"state": "processing"}', '{"cancel_requested": true}');
      end if;
      return 'requested';
    when 'parked' then
      delete from parked where id = p_id and tenant_id = p_tenant;
      insert into flow (tenant_id, queue_id, scheduled, retrying, blocked, cancelled)
      values (p_tenant, v_at.queue_id, -(v_at.kind = 1)::int, -(v_at.kind = 2)::int, -(v_at.kind = 3)::int, 1);
    when 'ready' then
      perform cut_extent(v_at.queue_id, v_at.priority, v_at.stream, v_at.seq, p_id);
      insert into flow (tenant_id, queue_id, priority, ready, cancelled)
      values (p_tenant, v_at.queue_id, v_at.priority, -1, 1);
    when 'gone' then
      return 'not_found';
    else
      return 'busy';
  end case;
  insert into outcomes (id, tenant_id, queue_id, state, attempt, finished_at)
  values (p_id, p_tenant, v_at.queue_id, 3, v_at.attempt - 1, now());
  insert into job_changes (job_id, tenant_id, actor, verb, operation_id, before, after)
  values (p_id, p_tenant, p_actor, 'cancel', p_operation,
    jsonb_build_object('state', place_name(v_at.place, v_at.kind)), '{"state": "cancelled"}');
  perform follow_up(array[p_id], array[3::smallint]);
  return 'cancelled';
end
$$;

-- What people call a place.
create or replace function taskforge.place_name(p_place text, p_kind smallint) returns text
language sql immutable security invoker
set search_path = taskforge, pg_temp
as $$
  select case p_place
    when 'ended' then (array['succeeded', 'failed', 'cancelled'])[p_kind]
    when 'parked' then (array['scheduled', 'retrying', 'blocked'])[p_kind]
    when 'ready' then 'pending'
    when 'leased' then 'processing'
  end;
$$;

-- Nothing may come back to a queue that is gone: nobody would ever serve it. The xid is drawn first, so that a deletion
-- under way either is seen here or waits for this transaction.
create or replace function taskforge.refuse_deleted(p_queue integer) returns void
language plpgsql security invoker
set search_path = taskforge, pg_temp
as $$
begin
  perform pg_current_xact_id();
  if exists (select from queues where queue_id = p_queue and deleted_at is not null) then
    raise exception 'queue % was deleted', p_queue using errcode = 'TF001';
  end if;
end
$$;

-- Give an ended job new attempts, or let a parked one run now. The outcome taken back is kept in redrives.
-- 'not_unique N': its unique key is job N's now.
-- Lock order: the place of the job, then its unique key.
drop function if exists taskforge.retry(uuid, bigint, text);

create or replace function taskforge.retry(
  p_tenant uuid, p_id bigint, p_actor text, p_operation bigint default null) returns text
language plpgsql security invoker
set search_path = taskforge, pg_temp
set jit = off
as $$
declare
  v_at record;
  v_outcome record;
  v_priority smallint;
  v_holder bigint;
begin
  if not exists (select from jobs where id = p_id and tenant_id = p_tenant) then
    return 'not_found';
  end if;
  select * into v_at from lock_place(p_tenant, p_id);
  if v_at.place = 'nowhere' then
    return 'busy';
  elsif v_at.place = 'gone' then
    return 'not_found';
  elsif v_at.place = 'ended' and v_at.kind = 1 then
    return 'succeeded';
  elsif v_at.place in ('ready', 'leased') or (v_at.place = 'parked' and v_at.kind = 3) then
    return 'active';
  end if;
  perform refuse_deleted(v_at.queue_id);
  if v_at.place = 'parked' then
    delete from parked where id = p_id and tenant_id = p_tenant;
    insert into flow (tenant_id, queue_id, priority, ready, scheduled, retrying)
    values (p_tenant, v_at.queue_id, v_at.priority, 1, -(v_at.kind = 1)::int, -(v_at.kind = 2)::int);
    insert into job_changes (job_id, tenant_id, actor, verb, operation_id, before, after)
    values (p_id, p_tenant, p_actor, 'retry', p_operation,
      jsonb_build_object('state', place_name(v_at.place, v_at.kind), 'run_at', v_at.run_at), '{"state": "pending"}');
    perform wait_again(p_tenant, array[p_id], array[v_at.queue_id], array[v_at.priority], array[v_at.attempt]);
    return 'retried';
  end if;
  v_holder := retake_key(p_tenant, p_id);
  if v_holder is not null then
    return 'not_unique ' || v_holder;
  end if;
  delete from outcomes where id = p_id and tenant_id = p_tenant returning * into v_outcome;
  select priority into v_priority from jobs where id = p_id and tenant_id = p_tenant;
  insert into redrives (job_id, tenant_id, redriven_by, state, attempt, fence, finished_at)
  values (p_id, p_tenant, p_actor, v_outcome.state, v_outcome.attempt, v_outcome.fence, v_outcome.finished_at);
  insert into flow (tenant_id, queue_id, priority, ready, failed, cancelled, retried)
  values (p_tenant, v_at.queue_id, v_priority, 1, -(v_outcome.state = 2)::int, -(v_outcome.state = 3)::int, 1);
  perform undo_follow_up(array[p_id], array[v_outcome.state]);
  perform wait_again(p_tenant, array[p_id], array[v_at.queue_id], array[v_priority], array[1::smallint]);
  return 'retried';
end
$$;
