-- Submit from inside somebody's own transaction: the jobs exist if and only if it commits. One row per draft, in order.
-- A draft: queue_name, job_type, and payload (any JSON) or payload_text (JSON text kept byte for byte); optionally
-- priority, max_attempts, timeout_seconds, delay_seconds or run_at, options.
-- The hint travels with the caller's commit. Values are checked here again, because the caller is not our own code.
create or replace function taskforge.enqueue(p_tenant uuid, p_drafts jsonb) returns setof bigint
language plpgsql security definer
set search_path = taskforge, pg_temp
set enable_seqscan = off
set jit = off
as $$
declare
  v_draft jsonb;
  v_queue integer;
  v_queues integer[] := '{}';
  v_priority smallint;
  v_id bigint;
  v_run_at timestamptz;
  v_key bigint;
begin
  if jsonb_typeof(p_drafts) <> 'array' or jsonb_array_length(p_drafts) > 10000 then
    raise exception 'enqueue takes an array of at most 10,000 drafts' using errcode = '22023';
  end if;
  perform pg_current_xact_id();
  for v_draft in select * from jsonb_array_elements(p_drafts) loop
    select queue_id into v_queue from queues
    where tenant_id = p_tenant and name = v_draft ->> 'queue_name' and deleted_at is null;
    if not found then
      raise exception 'queue "%" does not exist', v_draft ->> 'queue_name' using errcode = 'TF003';
    end if;
    if coalesce(v_draft ->> 'job_type', '') !~ '^[A-Za-z0-9_][A-Za-z0-9._:-]{0,127}$'
      or coalesce((v_draft ->> 'max_attempts')::integer, 1) not between 1 and 100
      or coalesce((v_draft ->> 'timeout_seconds')::double precision, 1) not between 0.001 and 604800
      or coalesce((v_draft ->> 'delay_seconds')::double precision, 0) not between 0 and 315360000
    then
      raise exception 'a draft is out of bounds: %', left(v_draft::text, 200) using errcode = '22023';
    end if;
    -- Others would wait for these until the caller's transaction ends.
    if v_draft -> 'options' -> 'terms' ?| array['unique', 'depends_on', 'batch_id'] then
      raise exception 'a job that is submitted in a transaction can have no unique key, parents or batch' using errcode = '22023';
    end if;
    v_priority := coalesce((v_draft ->> 'priority')::smallint, 5);
    v_run_at := case
      when v_draft ->> 'run_at' is not null then (v_draft ->> 'run_at')::timestamptz
      when (v_draft ->> 'delay_seconds')::double precision > 0
        then clock_timestamp() + make_interval(secs => (v_draft ->> 'delay_seconds')::double precision)
    end;

    -- A key's row is what claims and finishes wait for, and nobody knows when the caller commits: so a job with a key
    -- is parked, due at once, and gets its row when it is promoted (key_id 0, see give_back).
    if v_draft -> 'options' -> 'terms' ->> 'concurrency_key' is not null then
      v_key := 0;
      v_run_at := coalesce(v_run_at, clock_timestamp());
    else
      v_key := null;
    end if;
    v_id := single_id();

    insert into jobs (id, tenant_id, queue_id, priority, max_attempts, timeout_seconds, job_type, payload, options)
    values (v_id, p_tenant, v_queue, v_priority, (v_draft ->> 'max_attempts')::smallint,
      (v_draft ->> 'timeout_seconds')::double precision, v_draft ->> 'job_type',
      convert_to(coalesce(v_draft ->> 'payload_text', (v_draft -> 'payload')::text, 'null'), 'UTF8'),
      nullif(v_draft -> 'options', 'null'::jsonb));
    insert into spans (tenant_id, lo, hi, queue_id, priority) values (p_tenant, v_id, v_id, v_queue, v_priority);
    if jsonb_typeof(v_draft -> 'options' -> 'terms' -> 'webhook') = 'object' then
      insert into followups (lo, hi, kind, tenant_id) values (v_id, v_id, 4, p_tenant);
    end if;
    if has_time_bounds(array[v_draft -> 'options'], '{}') then
      perform note_expiries(
        array[v_id, v_id], array[p_tenant, p_tenant], array[1, 2]::smallint[],
        array[(v_draft #>> '{options,terms,expires_at}')::timestamptz, (v_draft #>> '{options,terms,deadline_at}')::timestamptz],
        array[(v_draft #>> '{options,terms,expires_in_seconds}')::double precision,
          (v_draft #>> '{options,terms,deadline_in_seconds}')::double precision]);
    end if;
    if v_run_at is null then
      insert into ready (queue_id, priority, stream, tenant_id, attempt, lo, hi)
      values (v_queue, v_priority, 1, p_tenant, 1, v_id, v_id);
    else
      insert into parked (id, tenant_id, queue_id, priority, attempt, kind, run_at, key_id)
      values (v_id, p_tenant, v_queue, v_priority, 1, 1, greatest(v_run_at, clock_timestamp()), v_key);
    end if;
    insert into flow (tenant_id, queue_id, priority, submitted, ready, scheduled)
    values (p_tenant, v_queue, v_priority, 1, (v_run_at is null)::int, (v_run_at is not null)::int);
    v_queues := v_queues || case when v_run_at is null then v_queue else 0 end;
    return next v_id;
  end loop;
  perform pg_notify('taskforge', (select string_agg(distinct q::text, ',') from unnest(v_queues) as q));
end
$$;

-- An id for a job that is stored alone, in a transaction that may last.
create or replace function taskforge.single_id() returns bigint
language plpgsql security invoker
set search_path = taskforge, pg_temp
as $$
declare
  v_place bigint := nextval('enqueue_ids');
  v_first bigint;
begin
  select first_id into v_first from enqueue_blocks where number = v_place / 1000;
  return case when found then v_first + v_place % 1000 else nextval('job_ids') end;
end
$$;

-- Keep blocks in stock for enqueue, and forget those that are used up. Returns how many were added.
create or replace function taskforge.stock_blocks(p_ahead integer) returns integer
language sql security definer
set search_path = taskforge, pg_temp
as $$
  delete from enqueue_blocks where number < (select last_value / 1000 - 1000 from enqueue_ids);
  with added as (
    insert into enqueue_blocks (number, first_id)
    select n, nextval('job_ids') - 999
    from generate_series(
      (select last_value / 1000 from enqueue_ids), (select last_value / 1000 + p_ahead - 1 from enqueue_ids)) as n
    where not exists (select from enqueue_blocks where number = n)
    on conflict do nothing
    returning 1)
  select count(*)::integer from added;
$$;
