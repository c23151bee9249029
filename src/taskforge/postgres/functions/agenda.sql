-- What other duties than those of the maintenance loop itself have to do, and in how many seconds the next of each is due;
-- one branch a feature, one index probe a branch. The names are those of runtime/duties.py.
create or replace function taskforge.agenda() returns table (duty text, due_in double precision)
language sql stable security definer
set search_path = taskforge, pg_temp
set enable_seqscan = off
set jit = off
as $$
  select 'windows', extract(epoch from first.opens_at - clock_timestamp())::double precision
  from (select opens_at from limits where opens_at is not null order by opens_at limit 1) as first
  union all
  select 'webhooks', extract(epoch from first.due_at - clock_timestamp())::double precision
  from (select due_at from deliveries where state = 1 order by due_at limit 1) as first
  union all
  select 'batches', 0 from (
    select from groups where cancel_requested_at is not null and cancelled_up_to < 9223372036854775807 limit 1) as asked
  union all
  select 'schedules', extract(epoch from first.due_at - clock_timestamp())::double precision
  from (select due_at from schedules where due_at is not null order by due_at limit 1) as first
  union all
  select 'expiry', extract(epoch from first.due_at - clock_timestamp())::double precision
  from (select due_at from expiries order by due_at limit 1) as first
  union all
  select 'unique_keys', extract(epoch from first.look_at - clock_timestamp())::double precision
  from (select look_at from uniques order by look_at limit 1) as first
  union all
  select 'queue_expiry', extract(epoch from t.due_at - clock_timestamp())::double precision
  from duty_times t
  where t.duty = 'queue_expiry' and exists (
    select from queues
    where settings ? 'expires_in_seconds' and settings ->> 'expires_in_seconds' is not null and deleted_at is null)
  union all
  select 'waiting_slots', 0 from (select from schedules where waiting_slot is not null limit 1) as waiting
  union all
  select 'bulk', extract(epoch from first.next_at - clock_timestamp())::double precision
  from (select next_at from bulk_operations where state <= 3 order by next_at limit 1) as first
  union all
  select 'dead_letter_retention', extract(epoch from t.due_at - clock_timestamp())::double precision
  from duty_times t
  where t.duty = 'dead_letter_retention' and exists (
    select from queues
    where settings ? 'dead_letter_retention_seconds' and (settings ->> 'dead_letter_retention_seconds') is not null
      and deleted_at is null)
$$;
