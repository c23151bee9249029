-- How far running jobs are. A word on a job that the lease no longer covers is refused (E4); returns those jobs.
-- The leases are locked, so that a reaper that is taking one back waits, or is waited for and found to have won.
-- Lock order: leases by fence, then progress by job.
create or replace function taskforge.report_progress(
  p_worker bigint, p_fence bigint[], p_job bigint[], p_fraction real[], p_message text[]
) returns setof bigint
language plpgsql security definer
set search_path = taskforge, pg_temp
set enable_seqscan = off
set jit = off
as $$
begin
  perform from leases l where l.fence = any (p_fence) and l.worker_id = p_worker order by l.fence for share;
  return query
  with said as (
    select j as job_id, f as fence, fraction, message, l.tenant_id
    from unnest(p_fence, p_job, p_fraction, p_message) as u (f, j, fraction, message)
    left join leases l on l.fence = f and l.worker_id = p_worker and l.ranges @> j
  ), kept as (
    insert into progress as p (job_id, tenant_id, fence, fraction, message)
    select said.job_id, said.tenant_id, said.fence, said.fraction, said.message
    from said where said.tenant_id is not null order by said.job_id
    on conflict (job_id) do update set fence = excluded.fence, fraction = excluded.fraction,
      message = excluded.message, reported_at = excluded.reported_at
  )
  select said.job_id from said where said.tenant_id is null;
end
$$;
