-- Everything that hangs on the end of a job happens in the transaction that ends it.

-- Which of the runs lo..hi anything hangs on. Index: followups_pkey, from 999 ids below each run.
create or replace function taskforge.has_followups(p_lo bigint[], p_hi bigint[]) returns boolean
language sql stable security invoker
set search_path = taskforge, pg_temp
set enable_seqscan = off
as $$
  select exists (
    select from unnest(p_lo, p_hi) as run (lo, hi)
    join followups f on f.lo > run.lo - 1000 and f.lo <= run.hi and f.hi >= run.lo);
$$;

-- Called after the outcomes of these jobs were written, in the same transaction; arrays run parallel.
-- p_states: 1 succeeded, 2 failed, 3 cancelled. Jobs on which nothing hangs may be among them.
-- Lock order: everything of the job itself, then groups by id, then parked children by id, then unique keys.
create or replace function taskforge.follow_up(p_ids bigint[], p_states smallint[]) returns void
language plpgsql security definer
set search_path = taskforge, pg_temp
set enable_seqscan = off
set jit = off
as $$
declare
  v_kinds smallint[];
begin
  select array_agg(distinct f.kind) into v_kinds
  from unnest(p_ids) as id join followups f on f.lo > id - 1000 and f.lo <= id and f.hi >= id;
  if v_kinds is null then
    return;
  end if;
end
$$;

-- The other way: outcomes of these jobs were taken back, because somebody retries them. p_states is what they were.
create or replace function taskforge.undo_follow_up(p_ids bigint[], p_states smallint[]) returns void
language plpgsql security definer
set search_path = taskforge, pg_temp
set enable_seqscan = off
set jit = off
as $$
begin
  return;
end
$$;
