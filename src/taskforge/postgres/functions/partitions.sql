-- Partitions of jobs, outcomes, attempts, progress and spans by id. These functions are DDL and so belong to whoever migrates.
-- None of them waits long for a lock: a reader that holds a partition makes them fail and try again later.

-- Make sure that the ids in use and those of the next p_ahead partitions have partitions of their own.
-- Until they have, rows go to the default partition, where a range that is in use is left alone.
create or replace function taskforge.ensure_partitions(p_ahead integer) returns integer
language plpgsql security definer
set search_path = taskforge, pg_temp
set lock_timeout = '200ms'
as $$
declare
  v_current integer := (select (last_value - 1) / 4000000 from job_ids);
  v_table text;
  v_made integer := 0;
begin
  if not pg_try_advisory_xact_lock(hashtext('taskforge.partitions')) then
    return 0;
  end if;
  update partitions set sealed_at = now() where number < v_current and sealed_at is null;
  for n in v_current .. v_current + p_ahead loop
    continue when exists (select from partitions where number = n);
    continue when exists (
      select from jobs_default where id > n::bigint * 4000000 and id <= (n::bigint + 1) * 4000000);
    foreach v_table in array array['jobs', 'outcomes', 'attempts', 'progress', 'spans'] loop
      execute format('create table %I (like %I including all)', v_table || '_' || n, v_table);
      execute format('alter table %I attach partition %I for values from (%s) to (%s)',
        v_table, v_table || '_' || n, n::bigint * 4000000 + 1, (n::bigint + 1) * 4000000 + 1);
    end loop;
    execute format('alter table %I set (fillfactor = 70)', 'progress_' || n);  -- its rows are updated in place
    insert into partitions (number) values (n);
    v_made := v_made + 1;
  end loop;
  return v_made;
end
$$;

-- Drop the oldest partition whose ids were all handed out more than p_keep ago. Dead letters and jobs that still live
-- move to the default partition, looked for once more after the lock is held. Returns its number, null when there is
-- nothing to drop or too much of it still lives.
create or replace function taskforge.prune(p_keep interval) returns integer
language plpgsql security definer
set search_path = taskforge, pg_temp
set lock_timeout = '200ms'
as $$
declare
  v_number integer;
  v_lo bigint;
  v_hi bigint;
  v_ids bigint[];
  v_table text;
begin
  if not pg_try_advisory_xact_lock(hashtext('taskforge.partitions')) then
    return null;
  end if;
  select number into v_number from partitions
  where sealed_at < now() - p_keep and dropped_at is null order by number limit 1;
  if v_number is null then
    return null;
  end if;
  v_lo := v_number::bigint * 4000000 + 1;
  v_hi := v_lo + 3999999;
  if cardinality(taskforge.ids_to_keep(v_lo, v_hi)) > 10000 then
    return null;
  end if;
  lock table jobs, outcomes, attempts, progress, spans, ready, leases, parked in access exclusive mode;
  v_ids := taskforge.ids_to_keep(v_lo, v_hi);
  foreach v_table in array array['jobs', 'outcomes', 'attempts', 'progress', 'spans'] loop
    execute format('alter table %I detach partition %I', v_table, v_table || '_' || v_number);
  end loop;
  execute format('insert into jobs select * from %I where id = any ($1)', 'jobs_' || v_number) using v_ids;
  execute format('insert into outcomes select * from %I where id = any ($1)', 'outcomes_' || v_number) using v_ids;
  execute format('insert into attempts select * from %I where job_id = any ($1)', 'attempts_' || v_number) using v_ids;
  execute format('insert into progress select * from %I where job_id = any ($1)', 'progress_' || v_number) using v_ids;
  insert into spans (tenant_id, lo, hi, queue_id, priority, submitted_at)
  select tenant_id, id, id, queue_id, priority, submitted_at from jobs where id = any (v_ids);
  -- The spans just written name the queue a job is in now.
  delete from moved_jobs where job_id between v_lo and v_hi;
  delete from job_changes where job_id between v_lo and v_hi and job_id <> all (v_ids);
  foreach v_table in array array['jobs', 'outcomes', 'attempts', 'progress', 'spans'] loop
    execute format('drop table %I', v_table || '_' || v_number);
  end loop;
  update partitions set dropped_at = now() where number = v_number;
  return v_number;
end
$$;

-- Ids in lo..hi that still have a place: waiting, leased, parked, or a dead letter.
create or replace function taskforge.ids_to_keep(p_lo bigint, p_hi bigint) returns bigint[]
language sql security invoker
set search_path = taskforge, pg_temp
as $$
  select coalesce(array_agg(id), '{}') from (
    select generate_series(greatest(lo, p_lo), least(hi, p_hi)) as id from ready where hi >= p_lo and lo <= p_hi
    union all
    select generate_series(greatest(lower(r), p_lo), least(upper(r) - 1, p_hi))
    from leases cross join lateral unnest(ranges) as r where upper(r) > p_lo and lower(r) <= p_hi
    union all
    select id from parked where id between p_lo and p_hi
    union all
    select id from outcomes where state = 2 and id between p_lo and p_hi
    limit 10001
  ) as kept;
$$;

-- Small things that have had their day, a bounded number at a time.
create or replace function taskforge.sweep(p_keep interval, p_limit integer) returns integer
language plpgsql security definer
set search_path = taskforge, pg_temp
as $$
declare
  v_rows integer;
  v_total integer := 0;
begin
  delete from idempotency where (tenant_id, key) in (
    select tenant_id, key from idempotency where expires_at < now() order by expires_at limit p_limit);
  get diagnostics v_rows = row_count;
  v_total := v_total + v_rows;
  delete from workers where state = 3 and expires_at < now() - p_keep;
  get diagnostics v_rows = row_count;
  v_total := v_total + v_rows;
  delete from stale_reports where ctid in (
    select ctid from stale_reports where reported_at < now() - p_keep limit p_limit);
  get diagnostics v_rows = row_count;
  v_total := v_total + v_rows;
  delete from job_changes where (job_id, change_id) in (
    select job_id, change_id from job_changes where verb = 'purge' and changed_at < now() - p_keep
    order by changed_at limit p_limit);
  get diagnostics v_rows = row_count;
  v_total := v_total + v_rows;
  delete from bulk_operations where (tenant_id, operation_id) in (
    select tenant_id, operation_id from bulk_operations where state > 3 and finished_at < now() - p_keep
    order by finished_at limit p_limit);
  get diagnostics v_rows = row_count;
  v_total := v_total + v_rows + sweep_groups(p_keep, p_limit) + sweep_webhooks(p_keep, p_limit);
  return v_total;
end
$$;
