-- Dead letters of a queue, many at once. Run by the app role under row-level security.

-- Redrive dead letters, oldest first: those of p_ids, or up to p_limit of all. Two at once share the work, and each dead
-- letter comes back once. Jobs are read after their outcomes were locked: only then does nobody else change them.
-- Lock order: outcomes by id.
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
begin
  perform refuse_deleted(p_queue);
  select coalesce(array_agg(id order by id), '{}') into v_ids from (
    select id from outcomes
    where queue_id = p_queue and state = 2 and tenant_id = p_tenant and (p_ids is null or id = any (p_ids))
    order by id limit p_limit for update) as locked;
  if cardinality(v_ids) > 0 then
    with gone as (
      delete from outcomes where id = any (v_ids) and tenant_id = p_tenant returning *
    )
    insert into redrives (job_id, tenant_id, redriven_by, state, attempt, fence, finished_at)
    select id, tenant_id, p_actor, state, attempt, fence, finished_at from gone;
    with returned as (
      insert into ready (queue_id, priority, stream, tenant_id, attempt, lo, hi)
      select queue_id, priority, 0, tenant_id, 1, id, id from jobs
      where id = any (v_ids) and tenant_id = p_tenant order by id
      returning ready.priority
    )
    insert into flow (tenant_id, queue_id, priority, ready, failed, retried)
    select p_tenant, p_queue, priority, count(*), -count(*), count(*) from returned group by priority;
    perform undo_follow_up(v_ids, array_fill(2::smallint, array[cardinality(v_ids)]));
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
