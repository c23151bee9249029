-- What other duties than those of the maintenance loop itself have to do, and in how many seconds the next of each is due;
-- one branch a feature, one index probe a branch. The names are those of runtime/duties.py.
create or replace function taskforge.agenda() returns table (duty text, due_in double precision)
language sql stable security definer
set search_path = taskforge, pg_temp
set enable_seqscan = off
set jit = off
as $$
  select null::text, null::double precision where false
$$;
