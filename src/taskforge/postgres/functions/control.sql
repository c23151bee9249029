-- Change what a job says of itself, wherever it waits. Run by the app role under row-level security.

-- What is null stays as it is. p_run_at or p_delay (seconds): not before then; now or earlier means at once. The job's row
-- and its place change together, so that they always name the same queue. p_expected: only if this still is the payload.
-- Answers 'changed', 'not_found', 'running', 'succeeded', 'ended' (it has no next run to be moved), 'blocked' (likewise),
-- 'payload_changed' or 'busy'; with 'changed' the queue in which the job is ready now, if it went there, and whether
-- it is parked.
-- Lock order: the place of the job; nobody else changes its row without holding that.
create or replace function taskforge.change_job(
  p_tenant uuid, p_id bigint, p_actor text, p_queue integer, p_priority smallint, p_run_at timestamptz,
  p_delay double precision, p_payload bytea, p_expected bytea, p_operation bigint default null,
  out verdict text, out ready_in integer, out is_parked boolean
)
language plpgsql security invoker
set search_path = taskforge, pg_temp
set jit = off
as $$
declare
  v_at record;
  v_job record;
  v_due timestamptz;
  v_run_at timestamptz;
  v_state text;
  v_queue integer;
  v_priority smallint;
  v_is_moved boolean;
  v_before jsonb := '{}';
  v_after jsonb := '{}';
  v_is_timed boolean := p_run_at is not null or p_delay is not null;
begin
  is_parked := false;
  if not exists (select from jobs where id = p_id and tenant_id = p_tenant) then
    verdict := 'not_found';
    return;
  end if;
  select * into v_at from lock_place(p_tenant, p_id);
  -- Read under the lock: whoever changed it before has committed.
  select * into v_job from jobs where id = p_id and tenant_id = p_tenant;
  verdict := case
    when v_at.place = 'gone' then 'not_found'
    when v_at.place = 'nowhere' then 'busy'
    when v_at.place = 'leased' then 'running'
    when v_at.place = 'ended' and v_at.kind = 1 then 'succeeded'
    when v_at.place = 'ended' and v_is_timed then 'ended'
    when v_at.place = 'parked' and v_at.kind = 3 and v_is_timed then 'blocked'
    when p_expected is not null and p_expected <> v_job.payload then 'payload_changed'
    else 'changed'
  end;
  if verdict <> 'changed' then
    return;
  end if;

  v_queue := coalesce(p_queue, v_at.queue_id);
  v_priority := coalesce(p_priority, v_job.priority);
  v_is_moved := v_queue <> v_at.queue_id or v_priority <> v_job.priority;
  v_state := place_name(v_at.place, v_at.kind);
  perform pg_current_xact_id();
  if v_queue <> v_at.queue_id then
    perform refuse_deleted(v_queue);
  end if;
  if v_is_timed then
    v_due := greatest(clock_timestamp(), coalesce(p_run_at, clock_timestamp() + make_interval(secs => p_delay)));
    if v_due <= clock_timestamp() then
      v_due := null;  -- at once
    end if;
  end if;

  if v_at.place = 'ended' then
    if v_queue <> v_at.queue_id then
      update outcomes set queue_id = v_queue where id = p_id and tenant_id = p_tenant;
      insert into flow (tenant_id, queue_id, failed, cancelled)
      values (p_tenant, v_at.queue_id, -(v_at.kind = 2)::int, -(v_at.kind = 3)::int),
        (p_tenant, v_queue, (v_at.kind = 2)::int, (v_at.kind = 3)::int);
    end if;
  elsif v_at.place = 'parked' and (v_due is not null or not v_is_timed) then
    is_parked := true;
    v_run_at := coalesce(v_due, v_at.run_at);
    update parked set queue_id = v_queue, priority = v_priority, run_at = v_run_at,
      key_id = key_of(p_tenant, v_queue, v_job.options)
    where id = p_id and tenant_id = p_tenant and (v_is_moved or v_is_timed);
    if v_queue <> v_at.queue_id then
      insert into flow (tenant_id, queue_id, scheduled, retrying, blocked)
      values
        (p_tenant, v_at.queue_id, -(v_at.kind = 1)::int, -(v_at.kind = 2)::int, -(v_at.kind = 3)::int),
        (p_tenant, v_queue, (v_at.kind = 1)::int, (v_at.kind = 2)::int, (v_at.kind = 3)::int);
    end if;
  elsif v_is_moved or v_due is not null or v_at.place = 'parked' then
    if v_at.place = 'parked' then
      delete from parked where id = p_id and tenant_id = p_tenant;
      insert into flow (tenant_id, queue_id, scheduled, retrying)
      values (p_tenant, v_at.queue_id, -(v_at.kind = 1)::int, -(v_at.kind = 2)::int);
    else
      perform cut_extent(v_at.queue_id, v_at.priority, v_at.stream, v_at.seq, p_id);
      insert into flow (tenant_id, queue_id, priority, ready) values (p_tenant, v_at.queue_id, v_at.priority, -1);
    end if;
    if v_due is not null then
      v_state := 'scheduled';
      is_parked := true;
      v_run_at := v_due;
      insert into parked (id, tenant_id, queue_id, priority, attempt, kind, run_at, key_id)
      values (p_id, p_tenant, v_queue, v_priority, v_at.attempt, 1, v_due, key_of(p_tenant, v_queue, v_job.options));
      insert into flow (tenant_id, queue_id, scheduled) values (p_tenant, v_queue, 1);
    else
      v_state := 'pending';
      ready_in := v_queue;
      perform wait_again(
        p_tenant, array[p_id], array[v_queue], array[v_priority], array[v_at.attempt], v_at.ready_at);
      insert into flow (tenant_id, queue_id, priority, ready) values (p_tenant, v_queue, v_priority, 1);
    end if;
  end if;

  if v_state <> place_name(v_at.place, v_at.kind) then
    v_before := v_before || jsonb_build_object('state', place_name(v_at.place, v_at.kind));
    v_after := v_after || jsonb_build_object('state', v_state);
  end if;
  if v_is_timed and (v_run_at is distinct from v_at.run_at) then
    v_before := v_before || jsonb_build_object('run_at', v_at.run_at);
    v_after := v_after || jsonb_build_object('run_at', v_run_at);
  end if;
  if v_priority <> v_job.priority then
    v_before := v_before || jsonb_build_object('priority', v_job.priority);
    v_after := v_after || jsonb_build_object('priority', v_priority);
  end if;
  if v_queue <> v_at.queue_id then
    v_before := v_before || jsonb_build_object('queue_name', (select name from queues where queue_id = v_at.queue_id));
    v_after := v_after || jsonb_build_object('queue_name', (select name from queues where queue_id = v_queue));
    perform list_under(p_tenant, p_id, v_queue);
  end if;
  if v_before = '{}' and coalesce(p_payload = v_job.payload, true) then
    return;
  end if;
  update jobs set queue_id = v_queue, priority = v_priority, payload = coalesce(p_payload, payload)
  where id = p_id and tenant_id = p_tenant
    and (v_is_moved or p_payload <> payload);
  insert into job_changes (job_id, tenant_id, actor, verb, operation_id, before, after, payload_before, payload_after)
  values (p_id, p_tenant, p_actor, 'change', p_operation, v_before, v_after,
    case when p_payload <> v_job.payload then v_job.payload end, case when p_payload <> v_job.payload then p_payload end);
end
$$;

-- From now on the lists of this queue show the job, and those of no other. Its span names the queue it was submitted to.
create or replace function taskforge.list_under(p_tenant uuid, p_id bigint, p_queue integer) returns void
language sql security invoker
set search_path = taskforge, pg_temp
set jit = off
as $$
  delete from moved_jobs where job_id = p_id and tenant_id = p_tenant;
  insert into moved_jobs (tenant_id, queue_id, job_id)
  select p_tenant, p_queue, p_id
  where p_queue is distinct from (
    select s.queue_id from spans s where s.tenant_id = p_tenant and s.lo <= p_id order by s.lo desc limit 1);
$$;
