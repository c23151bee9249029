-- Workflows are groups of kind 2 whose members have names. How their jobs wait for each other is in edges.sql.

-- Called by the ingest role in the transaction that stores the nodes. Returns the new workflow's id.
create or replace function taskforge.open_workflow(
  p_tenant uuid, p_name text, p_tags text[], p_callbacks jsonb, p_is_open boolean) returns bigint
language sql security definer
set search_path = taskforge, pg_temp
as $$
  insert into groups (tenant_id, kind, name, tags, callbacks, sealed_at)
  values (p_tenant, 2, p_name, p_tags, p_callbacks, case when not p_is_open then now() end)
  returning id;
$$;

-- Lock an open workflow that is about to get more nodes: 'ok', 'not_found' or 'started'.
create or replace function taskforge.enter_workflow(p_tenant uuid, p_id bigint) returns text
language plpgsql security definer
set search_path = taskforge, pg_temp
as $$
declare
  v_group groups;
begin
  select * into v_group from groups where id = p_id and tenant_id = p_tenant and kind = 2 for update;
  return case when v_group.id is null then 'not_found' when v_group.sealed_at is not null then 'started' else 'ok' end;
end
$$;

-- The named jobs have joined; the caller holds the workflow's lock, or has just made it.
create or replace function taskforge.name_nodes(p_tenant uuid, p_id bigint, p_names text[], p_jobs bigint[]) returns void
language sql security definer
set search_path = taskforge, pg_temp
as $$
  insert into workflow_nodes (workflow_id, name, job_id, tenant_id)
  select p_id, name, job, p_tenant from unnest(p_names, p_jobs) as u (name, job);
  update groups set total = total + cardinality(p_names) where id = p_id;
$$;

-- An open workflow runs from now on: its first nodes waited for the number that stands for it. 'started' when it ran already.
create or replace function taskforge.start_workflow(p_tenant uuid, p_id bigint, out answer text, out queues integer[])
language plpgsql security definer
set search_path = taskforge, pg_temp
set enable_seqscan = off
set jit = off
as $$
declare
  v_free bigint[];
begin
  queues := '{}';
  answer := enter_workflow(p_tenant, p_id);
  if answer <> 'ok' then
    return;
  end if;
  update groups set sealed_at = clock_timestamp(), ended_at = case when total = 0 then clock_timestamp() end
  where id = p_id;
  select free into v_free from release_children(array[-p_id], array[1::smallint]);
  perform fire_callbacks(p_id);
  if cardinality(v_free) > 0 then
    queues := set_free(v_free);
  end if;
end
$$;

-- Run again what failed, and what was cancelled because of it or by hand; what succeeded stays. Jobs that were cancelled
-- because they were not needed stay so, and with them whatever waits for nothing but them. Returns how many run again.
create or replace function taskforge.retry_workflow(
  p_tenant uuid, p_id bigint, p_actor text, out answer text, out retried integer, out queues integer[])
language plpgsql security invoker
set search_path = taskforge, pg_temp
set enable_seqscan = off
set jit = off
as $$
declare
  v_group groups;
  v_again bigint[];
  v_more bigint[];
  v_states smallint[];
  v_free bigint[];
begin
  retried := 0;
  queues := '{}';
  answer := 'not_found';
  -- The jobs' own outcomes are locked before the group, as in every end.
  select array_agg(id order by id) into v_again from (
    select o.id from outcomes o join workflow_nodes n on n.job_id = o.id
    where n.workflow_id = p_id and n.tenant_id = p_tenant and o.state in (2, 3)
    order by o.id for update of o) as ended;
  select * into v_group from groups where id = p_id and tenant_id = p_tenant and kind = 2;
  if v_group.id is null then
    return;
  end if;
  answer := 'nothing';
  -- First those that failed or were cancelled for no parent's sake, then whoever was cancelled for one of these.
  v_more := array(
    select id from unnest(v_again) as id
    where not exists (select from edges e where e.child_id = id and e.state = 3));
  v_states := null;
  loop
    exit when cardinality(v_more) = 0;
    v_free := coalesce(v_free, '{}') || v_more;
    v_more := array(
      select distinct e.child_id from edges e
      where e.parent_id = any (v_more) and e.state = 3 and e.on_failure = 1 and e.child_id = any (v_again)
        and not e.child_id = any (v_free)
        and not exists (
          select from edges other where other.child_id = e.child_id and other.state = 3
            and (other.on_failure = 4 or not other.parent_id = any (v_free))));
  end loop;
  v_again := v_free;
  retried := coalesce(cardinality(v_again), 0);
  if retried = 0 then
    return;
  end if;
  answer := 'retried';
  perform pg_current_xact_id();
  select array_agg(o.id), array_agg(o.state) into v_again, v_states from outcomes o where o.id = any (v_again);
  insert into redrives (job_id, tenant_id, redriven_by, state, attempt, fence, finished_at)
  select id, tenant_id, p_actor, state, attempt, fence, finished_at from outcomes where id = any (v_again);
  insert into flow (tenant_id, queue_id, blocked, failed, cancelled, retried)
  select tenant_id, queue_id, count(*), -count(*) filter (where state = 2), -count(*) filter (where state = 3), count(*)
  from outcomes where id = any (v_again) group by tenant_id, queue_id;
  delete from outcomes where id = any (v_again);
  insert into parked (id, tenant_id, queue_id, priority, attempt, kind, run_at, key_id)
  select j.id, j.tenant_id, j.queue_id, j.priority, 1, 3, 'infinity', key_of(j.tenant_id, j.queue_id, j.options)
  from jobs j where j.id = any (v_again);
  queues := reopen_workflow(p_id, v_again, v_states);
end
$$;

-- The part of retry_workflow that a tenant may not do by itself: these jobs, parked as blocked, wait for their parents
-- again, or for nobody.
create or replace function taskforge.reopen_workflow(p_id bigint, p_ids bigint[], p_states smallint[]) returns integer[]
language plpgsql security definer
set search_path = taskforge, pg_temp
set enable_seqscan = off
set jit = off
as $$
begin
  update edges set state = 0 where child_id = any (p_ids) and state = 3;
  update groups set cancel_requested_at = null, cancel_requested_by = null, cancelled_up_to = 0 where id = p_id;
  perform undo_follow_up(p_ids, p_states);
  return set_free(array(
    select id from unnest(p_ids) as id
    where not exists (select from edges e where e.child_id = id and e.state in (0, 2))));
end
$$;
