-- What a tenant asks for, run by the app role under row-level security.

-- Cancel one job. Once this has answered 'cancelled', no handler starts: a pending job is cut out of its extent under the
-- extent's lock, a parked one is deleted. For a running one 'requested' is the answer, and its worker is told.
-- A job is in one place at a time but may move between two looks; hence the loop.
-- Lock order: the parked row or the extent or the lease, then cancellations.
create or replace function taskforge.cancel(p_tenant uuid, p_id bigint, p_actor text) returns text
language plpgsql security invoker
set search_path = taskforge, pg_temp
set jit = off
as $$
declare
  v_job record;
  v_parked record;
  v_extent record;
begin
  select * into v_job from jobs where id = p_id and tenant_id = p_tenant;
  if not found then
    return 'not_found';
  end if;
  for round in 1 .. 20 loop
    if exists (select from outcomes where id = p_id and tenant_id = p_tenant) then
      return 'ended';
    end if;

    delete from parked where id = p_id and tenant_id = p_tenant returning * into v_parked;
    if found then
      insert into outcomes (id, tenant_id, queue_id, state, attempt, finished_at)
      values (p_id, p_tenant, v_job.queue_id, 3, v_parked.attempt - 1, now());
      insert into flow (tenant_id, queue_id, scheduled, retrying, cancelled)
      values (p_tenant, v_job.queue_id, -(v_parked.kind = 1)::int, -(v_parked.kind = 2)::int, 1);
      perform follow_up(array[p_id], array[3::smallint]);
      return 'cancelled';
    end if;

    -- Extents are disjoint and at most 1,000 wide, so the one that covers the job is the nearest below it.
    select * into v_extent from ready
    where lo <= p_id and lo > p_id - 1000 and tenant_id = p_tenant order by lo desc limit 1 for update;
    if found and v_extent.hi >= p_id then
      perform pg_current_xact_id();
      delete from ready where queue_id = v_extent.queue_id and priority = v_extent.priority
        and stream = v_extent.stream and seq = v_extent.seq;
      insert into ready (queue_id, priority, stream, tenant_id, attempt, lo, hi, ready_at)
      select v_extent.queue_id, v_extent.priority, 0, p_tenant, v_extent.attempt, lo, hi, v_extent.ready_at
      from (values (v_extent.lo, p_id - 1), (p_id + 1, v_extent.hi)) as rest (lo, hi) where lo <= hi;
      insert into outcomes (id, tenant_id, queue_id, state, attempt, finished_at)
      values (p_id, p_tenant, v_job.queue_id, 3, v_extent.attempt - 1, now());
      insert into flow (tenant_id, queue_id, priority, ready, cancelled)
      values (p_tenant, v_job.queue_id, v_job.priority, -1, 1);
      perform follow_up(array[p_id], array[3::smallint]);
      return 'cancelled';
    end if;

    perform from leases where queue_id = v_job.queue_id and tenant_id = p_tenant and ranges @> p_id for update;
    if found then
      insert into cancellations (job_id, tenant_id, requested_by) values (p_id, p_tenant, p_actor)
      on conflict do nothing;
      return 'requested';
    end if;
  end loop;
  return 'busy';
end
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
create or replace function taskforge.retry(p_tenant uuid, p_id bigint, p_actor text) returns text
language plpgsql security invoker
set search_path = taskforge, pg_temp
set jit = off
as $$
declare
  v_job record;
  v_outcome record;
  v_parked record;
begin
  select * into v_job from jobs where id = p_id and tenant_id = p_tenant;
  if not found then
    return 'not_found';
  end if;
  perform taskforge.refuse_deleted(v_job.queue_id);
  delete from parked where id = p_id and tenant_id = p_tenant and kind in (1, 2) returning * into v_parked;
  if found then
    insert into ready (queue_id, priority, stream, tenant_id, attempt, lo, hi)
    values (v_job.queue_id, v_job.priority, 0, p_tenant, v_parked.attempt, p_id, p_id);
    insert into flow (tenant_id, queue_id, priority, ready, scheduled, retrying)
    values (p_tenant, v_job.queue_id, v_job.priority, 1, -(v_parked.kind = 1)::int, -(v_parked.kind = 2)::int);
    return 'retried';
  end if;
  delete from outcomes where id = p_id and tenant_id = p_tenant and state in (2, 3) returning * into v_outcome;
  if found then
    insert into redrives (job_id, tenant_id, redriven_by, state, attempt, fence, finished_at)
    values (p_id, p_tenant, p_actor, v_outcome.state, v_outcome.attempt, v_outcome.fence, v_outcome.finished_at);
    insert into ready (queue_id, priority, stream, tenant_id, attempt, lo, hi)
    values (v_job.queue_id, v_job.priority, 0, p_tenant, 1, p_id, p_id);
    insert into flow (tenant_id, queue_id, priority, ready, failed, cancelled, retried)
    values (p_tenant, v_job.queue_id, v_job.priority, 1, -(v_outcome.state = 2)::int, -(v_outcome.state = 3)::int, 1);
    perform undo_follow_up(array[p_id], array[v_outcome.state]);
    return 'retried';
  end if;
  if exists (select from outcomes where id = p_id and tenant_id = p_tenant) then
    return 'succeeded';
  end if;
  return 'active';
end
$$;

-- Redrive dead letters of a queue, oldest first: those of p_ids, or up to p_limit of all. Two at once share the work.
create or replace function taskforge.redrive(p_tenant uuid, p_queue integer, p_ids bigint[], p_actor text, p_limit integer)
returns integer
language plpgsql security invoker
set search_path = taskforge, pg_temp
set enable_seqscan = off
set jit = off
as $$
declare
  v_count integer;
  v_ids bigint[];
begin
  perform taskforge.refuse_deleted(p_queue);
  with picked as (
    select id from outcomes
    where queue_id = p_queue and state = 2 and tenant_id = p_tenant and (p_ids is null or id = any (p_ids))
    order by id limit p_limit
  ), gone as (
    delete from outcomes where id in (select id from picked) and tenant_id = p_tenant and state = 2 returning *
  ), kept as (
    insert into redrives (job_id, tenant_id, redriven_by, state, attempt, fence, finished_at)
    select id, tenant_id, p_actor, state, attempt, fence, finished_at from gone
  ), returned as (
    insert into ready (queue_id, priority, stream, tenant_id, attempt, lo, hi)
    select j.queue_id, j.priority, 0, j.tenant_id, 1, j.id, j.id from gone join jobs j on j.id = gone.id order by j.id
    returning ready.priority, ready.lo
  ), counted as (
    insert into flow (tenant_id, queue_id, priority, ready, failed, retried)
    select p_tenant, p_queue, priority, count(*), -count(*), count(*) from returned group by priority
  )
  select count(*), array_agg(lo) into v_count, v_ids from returned;
  if v_count > 0 then
    perform undo_follow_up(v_ids, array_fill(2::smallint, array[v_count]));
  end if;
  return v_count;
end
$$;

-- Delete dead letters for good, job and all.
create or replace function taskforge.purge(p_tenant uuid, p_queue integer, p_ids bigint[], p_limit integer)
returns integer
language plpgsql security invoker
set search_path = taskforge, pg_temp
set enable_seqscan = off
set jit = off
as $$
declare
  v_ids bigint[];
  v_count integer;
begin
  with picked as (
    select id from outcomes
    where queue_id = p_queue and state = 2 and tenant_id = p_tenant and (p_ids is null or id = any (p_ids))
    order by id limit p_limit
  ), gone as (
    delete from outcomes where id in (select id from picked) and tenant_id = p_tenant and state = 2 returning id
  )
  select array_agg(id) into v_ids from gone;
  v_count := coalesce(cardinality(v_ids), 0);
  if v_count > 0 then
    delete from attempts where job_id = any (v_ids) and tenant_id = p_tenant;
    delete from progress where job_id = any (v_ids) and tenant_id = p_tenant;
    delete from jobs where id = any (v_ids) and tenant_id = p_tenant;
    insert into flow (tenant_id, queue_id, failed) values (p_tenant, p_queue, -v_count);
  end if;
  return v_count;
end
$$;
