-- Tell other processes that queues have claimable jobs (ids), or that something was parked (0), or a cancel is asked (-1).
-- NOTIFY takes a database-wide lock at commit, so the commit must be short: it is a hint and need not be durable.
create or replace function taskforge.hint(p_queues integer[]) returns void
language plpgsql security definer
set search_path = taskforge, pg_temp
as $$
begin
  perform set_config('synchronous_commit', 'off', true);
  perform pg_notify('taskforge', array_to_string(p_queues, ','));
end
$$;
