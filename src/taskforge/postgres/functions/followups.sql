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
-- p_states: 1 succeeded, 2 failed, 3 cancelled. Jobs on which nothing hangs may be among them. Returns the queues in which
-- jobs became ready by it (0 among them: something was scheduled), for hints.
-- Lock order: everything of the job itself, then parked children by id, then groups by id, then unique keys, then keys of
-- `limits`.
drop function if exists taskforge.follow_up(bigint[], smallint[]);

create or replace function taskforge.follow_up(p_ids bigint[], p_states smallint[]) returns integer[]
language plpgsql security definer
set search_path = taskforge, pg_temp
set enable_seqscan = off
set jit = off
as $$
declare
  v_free bigint[];
begin
  if exists (select from unnest(p_ids) as id join followups f on f.lo = id and f.kind = 1) then
    select ids, states, free into p_ids, p_states, v_free from release_children(p_ids, p_states);
  end if;
  perform tell_of_ends(p_ids, p_states);
  return case when cardinality(v_free) > 0 then set_free(v_free) else '{}' end;
end
$$;

-- What an end means to others than children.
create or replace function taskforge.tell_of_ends(p_ids bigint[], p_states smallint[]) returns void
language plpgsql security invoker
set search_path = taskforge, pg_temp
set enable_seqscan = off
set jit = off
as $$
declare
  v_kinds smallint[];
begin
  -- A range that begins with the job is found by its id; only ranges proper are looked for further down.
  select array_agg(distinct kind) into v_kinds from (
    select f.kind from unnest(p_ids) as id join followups f on f.lo = id
    union all
    select f.kind from unnest(p_ids) as id
    join followups f on f.hi > f.lo and f.lo > id - 1000 and f.lo < id and f.hi >= id) as found;
  if 4 = any (v_kinds) or exists (select from queue_hooks) then
    perform queue_webhooks(p_ids, p_states);
  end if;
  if 2 = any (v_kinds) then
    perform count_groups(p_ids, p_states);
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
  -- Children that a failure had blocked wait again; those that were cancelled for it have ended.
  update edges set state = 0 where parent_id = any (p_ids) and state = 2;
  if exists (select from group_shares(p_ids, p_states)) then
    perform uncount_groups(p_ids, p_states);
  end if;
end
$$;
