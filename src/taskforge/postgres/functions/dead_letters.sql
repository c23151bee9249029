-- Dead letters of a queue, many at once. Run by the app role under row-level security.

-- Redrive dead letters, oldest first: those of p_ids, or up to p_limit of all. Two at once share the work, and each dead
-- letter comes back once. Jobs are read after their outcomes were locked: only then does nobody else change them.
-- Those whose unique key another job holds stay as they are.
-- Lock order: outcomes by id, then unique keys.
drop function if exists taskforge.redrive(uuid, integer, bigint[], text, integer);

create or replace function taskforge.redrive(
  p_tenant uuid, p_queue integer, p_ids bigint[], p_actor text, p_limit integer, p_operation bigint default null
) returns bigint[]
language plpgsql security invoker
set search_path = taskforge, pg_temp
set enable_seqscan = off
set jit = off
as $$
declare
  v_ids bigint[];
  v_held bigint[];
begin
  perform refuse_deleted(p_queue);
  select coalesce(array_agg(id order by id), '{}') into v_ids from (
    select id from outcomes
    where queue_id = p_queue and state = 2 and tenant_id = p_tenant and (p_ids is null or id = any (p_ids))
    order by id limit p_limit for update) as locked;
  v_held := retake_keys(p_tenant, v_ids);
  if cardinality(v_held) > 0 then
    v_ids := array(select id from unnest(v_ids) as id where id <> all (v_held) order by id);
  end if;
  if cardinality(v_ids) > 0 then
    with gone as (
      delete from outcomes where id = any (v_ids) and tenant_id = p_tenant returning *
    )
    insert into redrives (job_id, tenant_id, redriven_by, state, attempt, fence, finished_at)
    select id, tenant_id, p_actor, state, attempt, fence, finished_at from gone;
    insert into flow (tenant_id, queue_id, priority, ready, failed, retried)
    select p_tenant, p_queue, priority, count(*), -count(*), count(*) from jobs
    where id = any (v_ids) and tenant_id = p_tenant group by priority;
    perform undo_follow_up(v_ids, array_fill(2::smallint, array[cardinality(v_ids)]));
    perform wait_again(p_tenant, array_agg(id), array_agg(queue_id), array_agg(priority), array_agg(1::smallint))
    from jobs where id = any (v_ids) and tenant_id = p_tenant;
  end if;
  return v_ids;
end
$$;

-- Delete dead letters for good, job and all: those of p_ids, or up to p_limit of all, of those only that failed before
-- p_failed_before, if that is given. What is left of each is one row that says who did it.
-- Lock order: outcomes by id.
drop function if exists taskforge.purge(uuid, integer, bigint[], integer);

create or replace function taskforge.purge(
  p_tenant uuid, p_queue integer, p_ids bigint[], p_actor text, p_limit integer, p_operation bigint default null,
  p_failed_before timestamptz default null
) returns bigint[]
language plpgsql security invoker
set search_path = taskforge, pg_temp
set enable_seqscan = off
set jit = off
as $$
declare
  v_ids bigint[];
begin
  select coalesce(array_agg(id order by id), '{}') into v_ids from (
    select id from outcomes
    where queue_id = p_queue and state = 2 and tenant_id = p_tenant and (p_ids is null or id = any (p_ids))
      and (p_failed_before is null or finished_at < p_failed_before)
    order by id limit p_limit for update) as locked;
  if cardinality(v_ids) > 0 then
    delete from outcomes where id = any (v_ids) and tenant_id = p_tenant;
    delete from attempts where job_id = any (v_ids) and tenant_id = p_tenant;
    delete from progress where job_id = any (v_ids) and tenant_id = p_tenant;
    delete from moved_jobs where job_id = any (v_ids) and tenant_id = p_tenant;
    delete from job_changes where job_id = any (v_ids) and tenant_id = p_tenant;
    with gone as (
      delete from jobs where id = any (v_ids) and tenant_id = p_tenant returning *
    )
    insert into job_changes (job_id, tenant_id, actor, verb, operation_id, before)
    select gone.id, p_tenant, p_actor, 'purge', p_operation,
      jsonb_build_object('state', 'failed', 'job_type', gone.job_type, 'queue_name', q.name)
    from gone join queues q on q.queue_id = gone.queue_id;
    insert into flow (tenant_id, queue_id, failed) values (p_tenant, p_queue, -cardinality(v_ids));
  end if;
  return v_ids;
end
$$;

-- A copy of each dead letter for the queue that its own names as its dead_letter_queue, if there is such a queue: a job of
-- the type dead_letter, whose payload says what failed and why. The dead letter itself stays where it is. Copies of copies
-- are not made, so that two queues cannot feed each other. Called in the transaction that ends the jobs, by whoever ends
-- them, after their attempts were recorded.
create or replace function taskforge.forward_dead_letters(p_tenant uuid, p_queue integer, p_ids bigint[]) returns void
language plpgsql security invoker
set search_path = taskforge, pg_temp
set enable_seqscan = off
set jit = off
as $$
declare
  v_queue record;
  v_copies bigint[];
begin
  if not exists (select from queues where queue_id = p_queue and (settings ->> 'dead_letter_queue') is not null) then
    return;
  end if;
  perform pg_current_xact_id();
  select target.queue_id, source.name into v_queue
  from queues source
  join queues target on target.tenant_id = source.tenant_id and target.name = source.settings ->> 'dead_letter_queue'
    and target.deleted_at is null
  where source.queue_id = p_queue;
  if not found then
    return;
  end if;
  with stored as (
    insert into jobs (id, tenant_id, queue_id, priority, job_type, payload)
    select single_id(), p_tenant, v_queue.queue_id, j.priority, 'dead_letter', convert_to(json_build_object(
        'job_id', j.id::text, 'queue_name', v_queue.name, 'job_type', j.job_type,
        'payload', convert_from(j.payload, 'UTF8')::json, 'attempt', a.attempt, 'error_class', a.error_class,
        'message', a.message, 'fingerprint', a.fingerprint)::text, 'UTF8')
    from jobs j
    left join lateral (
      select * from attempts where job_id = j.id order by fence desc limit 1) as a on true
    where j.id = any (p_ids) and j.tenant_id = p_tenant and j.job_type <> 'dead_letter'
    order by j.id
    returning id, priority
  ), listed as (
    insert into spans (tenant_id, lo, hi, queue_id, priority)
    select p_tenant, id, id, v_queue.queue_id, priority from stored
  ), waiting as (
    insert into ready (queue_id, priority, stream, tenant_id, attempt, lo, hi)
    select v_queue.queue_id, priority, 1, p_tenant, 1, id, id from stored
  ), counted as (
    insert into flow (tenant_id, queue_id, priority, submitted, ready)
    select p_tenant, v_queue.queue_id, priority, count(*), count(*) from stored group by priority
  )
  select array_agg(id) into v_copies from stored;
  if v_copies is not null then
    perform pg_notify('taskforge', v_queue.queue_id::text);
  end if;
end
$$;
