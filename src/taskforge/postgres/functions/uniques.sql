-- Unique keys. Nobody gives one back: whether it is still held is looked up when somebody else wants it.

-- Whether the job that a row of uniques names holds its key: 1 while it waits, 2 until it has ended, 3 until then.
create or replace function taskforge.is_key_held(p_job bigint, p_scope smallint, p_expires_at timestamptz) returns boolean
language plpgsql stable security invoker
set search_path = taskforge, pg_temp
set enable_seqscan = off
set jit = off
as $$
begin
  return case p_scope
    when 1 then exists (select from parked where id = p_job) or exists (
      select from (
        select hi from ready where lo <= p_job and lo > p_job - 1000 order by lo desc limit 1) as nearest
      where nearest.hi >= p_job)
    when 2 then is_unfinished(p_job)
    else p_expires_at > clock_timestamp()
  end;
end
$$;

-- The row of a key, locked until this transaction ends; made for the job when there is none. Whoever else wants the key
-- meanwhile waits.
create or replace function taskforge.lock_key(
  p_tenant uuid, p_type text, p_key text, p_job bigint, p_scope smallint, p_expires_at timestamptz,
  out job_id bigint, out scope smallint, out expires_at timestamptz, out is_new boolean
)
language plpgsql security invoker
set search_path = taskforge, pg_temp
set enable_seqscan = off
set jit = off
as $$
#variable_conflict use_column
begin
  loop
    insert into uniques (tenant_id, job_type, key, job_id, scope, expires_at, look_at)
    values (p_tenant, p_type, p_key, p_job, p_scope, p_expires_at, coalesce(p_expires_at, now() + interval '10 minutes'))
    on conflict do nothing
    returning uniques.job_id, uniques.scope, uniques.expires_at into job_id, scope, expires_at;
    is_new := found;
    exit when found;
    select u.job_id, u.scope, u.expires_at into job_id, scope, expires_at
    from uniques u where u.tenant_id = p_tenant and u.job_type = p_type and u.key = p_key for update;
    exit when found;  -- else it was swept away between the two
  end loop;
end
$$;

create or replace function taskforge.pass_key(
  p_tenant uuid, p_type text, p_key text, p_job bigint, p_scope smallint, p_expires_at timestamptz) returns void
language sql security invoker
set search_path = taskforge, pg_temp
set enable_seqscan = off
as $$
  update uniques set job_id = p_job, scope = p_scope, expires_at = p_expires_at, taken_at = now(),
    look_at = coalesce(p_expires_at, now() + interval '10 minutes')
  where tenant_id = p_tenant and job_type = p_type and key = p_key;
$$;

-- Take unique keys for jobs that are stored later in this transaction, in the order given: sorted, so that two batches
-- cannot deadlock. p_conflict: 1 leave the key with who holds it, 2 take its place if it waits. One row per key: 'taken',
-- 'replaced' (holder was, and has ended), 'held' (holder has it), 'kept_by_links' (it waits, but cannot be replaced),
-- 'busy' (it changes hands at this very moment).
-- Lock order: keys; whatever is locked after them is skipped when somebody else has it, so nobody waits for a place here.
create or replace function taskforge.take_uniques(
  p_tenant uuid[], p_type text[], p_key text[], p_job bigint[], p_scope smallint[], p_period double precision[],
  p_conflict smallint[]
) returns table (ordinal integer, verdict text, holder bigint)
language plpgsql security definer
set search_path = taskforge, pg_temp
set enable_seqscan = off
set jit = off
as $$
declare
  v_row record;
  v_expires_at timestamptz;
  v_mine bigint[] := '{}';
  v_replaced bigint[] := '{}';
begin
  for i in 1 .. cardinality(p_key) loop
    ordinal := i;
    v_expires_at := case when p_scope[i] = 3 then clock_timestamp() + make_interval(secs => p_period[i]) end;
    select * into v_row from lock_key(p_tenant[i], p_type[i], p_key[i], p_job[i], p_scope[i], v_expires_at);
    verdict := 'taken';
    holder := p_job[i];
    if not v_row.is_new then
      if v_row.job_id = any (v_mine) then
        verdict := 'held';  -- by a job of this very call, which no table shows yet
      elsif is_key_held(v_row.job_id, v_row.scope, v_row.expires_at) then
        verdict := 'held';
        if p_conflict[i] = 2 then
          verdict := replace_waiting(p_tenant[i], v_row.job_id, p_job[i]);
        end if;
      end if;
      if verdict in ('taken', 'replaced') then
        perform pass_key(p_tenant[i], p_type[i], p_key[i], p_job[i], p_scope[i], v_expires_at);
      end if;
      if verdict <> 'taken' then
        holder := v_row.job_id;
      end if;
      if verdict = 'replaced' then
        v_replaced := v_replaced || v_row.job_id;
      end if;
    end if;
    if verdict in ('taken', 'replaced') then
      v_mine := v_mine || p_job[i];
    end if;
    return next;
  end loop;
  perform tell_ended(v_replaced);
end
$$;

-- End a job that waits, because another takes its place. Its own place may be locked for a moment by a claim, a promotion
-- or a change; they hold it for milliseconds, and are not waited for while a key is locked.
create or replace function taskforge.replace_waiting(p_tenant uuid, p_id bigint, p_by bigint) returns text
language plpgsql security invoker
set search_path = taskforge, pg_temp
set enable_seqscan = off
set jit = off
as $$
declare
  v_answer text;
begin
  if exists (select from followups where lo = p_id and kind in (1, 2))
    or exists (select from followups where hi > lo and lo > p_id - 1000 and lo < p_id and hi >= p_id and kind = 2)
    or exists (select from edges where child_id = p_id)
  then
    return 'kept_by_links';
  end if;
  for round in 1 .. 20 loop
    v_answer := end_waiting(p_tenant, p_id, format('replaced by job %s', p_by), false, false);
    exit when v_answer <> 'busy';
    perform pg_sleep(0.005);
  end loop;
  return case v_answer when 'ended' then 'replaced' when 'busy' then 'busy' else 'held' end;
end
$$;

-- An ended job is to run again: it takes its key back. Returns the job that holds it otherwise. The caller has locked the
-- job's outcome, so this waits for whoever submits with the key, and that one does not wait for outcomes.
create or replace function taskforge.retake_key(p_tenant uuid, p_id bigint) returns bigint
language plpgsql security invoker
set search_path = taskforge, pg_temp
set enable_seqscan = off
set jit = off
as $$
declare
  v_key text;
  v_type text;
  v_scope smallint;
  v_row record;
begin
  select options #>> '{terms,unique,key}', job_type,
    case options #>> '{terms,unique,scope}' when 'queued' then 1 when 'period' then 3 else 2 end
  into v_key, v_type, v_scope
  from jobs where id = p_id and tenant_id = p_tenant;
  if v_key is null then
    return null;
  end if;
  if v_scope = 3 then
    select u.job_id, u.scope, u.expires_at into v_row
    from uniques u where u.tenant_id = p_tenant and u.job_type = v_type and u.key = v_key for update;
    return case when found and v_row.job_id <> p_id and is_key_held(v_row.job_id, v_row.scope, v_row.expires_at)
      then v_row.job_id end;
  end if;
  select * into v_row from lock_key(p_tenant, v_type, v_key, p_id, v_scope, null);
  if v_row.job_id <> p_id then
    if is_key_held(v_row.job_id, v_row.scope, v_row.expires_at) then
      return v_row.job_id;
    end if;
    perform pass_key(p_tenant, v_type, v_key, p_id, v_scope, null);
  end if;
  return null;
end
$$;

-- Of ended jobs that are to run again, those whose unique key another job holds: a job that has not ended, or one of these
-- with a lower id. The others have theirs back. Keys are taken in the order of submits, so two of these cannot deadlock,
-- nor one and a submit.
create or replace function taskforge.retake_keys(p_tenant uuid, p_ids bigint[]) returns bigint[]
language plpgsql security invoker
set search_path = taskforge, pg_temp
set enable_seqscan = off
set jit = off
as $$
declare
  v_job record;
  v_last_type text;
  v_last_key text;
  v_left bigint[] := '{}';
begin
  for v_job in
    select id, job_type, options #>> '{terms,unique,key}' as key,
      coalesce(options #>> '{terms,unique,scope}', '') = 'period' as is_timed
    from jobs
    where id = any (p_ids) and tenant_id = p_tenant and options #> '{terms,unique}' is not null
    order by job_type collate "C", (options #>> '{terms,unique,key}') collate "C", id
  loop
    if v_last_type = v_job.job_type and v_last_key = v_job.key and not v_job.is_timed
      or retake_key(p_tenant, v_job.id) is not null
    then
      v_left := v_left || v_job.id;
    else
      v_last_type := v_job.job_type;
      v_last_key := v_job.key;
    end if;
  end loop;
  return v_left;
end
$$;

-- Look at keys whose time to be looked at has come, a bounded number at once: what nobody holds is deleted, the others are
-- left alone for as long again as they have been held. Returns how many were looked at. Index: uniques_look.
create or replace function taskforge.sweep_uniques(p_limit integer) returns integer
language plpgsql security definer
set search_path = taskforge, pg_temp
set enable_seqscan = off
set jit = off
as $$
declare
  v_rows integer;
begin
  with due as materialized (
    select u.tenant_id, u.job_type, u.key, is_key_held(u.job_id, u.scope, u.expires_at) as is_held
    from (
      select * from uniques where look_at <= clock_timestamp() order by look_at limit p_limit for update skip locked) as u
  ), gone as (
    delete from uniques u using due
    where not is_held and u.tenant_id = due.tenant_id and u.job_type = due.job_type and u.key = due.key
  ), later as (
    update uniques u
    set look_at = clock_timestamp() + least(greatest(clock_timestamp() - u.taken_at, interval '10 minutes'), interval '1 day')
    from due where is_held and u.tenant_id = due.tenant_id and u.job_type = due.job_type and u.key = due.key
  )
  select count(*) into v_rows from due;
  return v_rows;
end
$$;
