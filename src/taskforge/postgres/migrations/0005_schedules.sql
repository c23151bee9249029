-- Schedules: a template of a job, and the slots at which it is submitted.

create table schedules (
  schedule_id bigint generated always as identity,
  tenant_id uuid not null references tenants,
  name text not null,
  definition jsonb not null,  -- ScheduleDraft in domain/schedules.py, without its payload
  payload bytea not null,
  queue_name text not null,
  version integer not null default 1,  -- of the definition
  paused boolean not null default false,
  source smallint not null check (source in (1, 2)),  -- 1 api, 2 code
  edited boolean not null default false,  -- changed by hand since its code declared it
  declared bytea,  -- fingerprint of the declaration
  next_slot timestamptz,
  due_at timestamptz,  -- of next_slot, its jitter included
  waiting_slot timestamptz,  -- overlap `queue`: fires when last_job_id has ended
  last_slot timestamptz,
  last_job_id bigint,
  ticks bigint not null default 0,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  primary key (schedule_id)
) with (fillfactor = 50);

create unique index schedules_name on schedules (tenant_id, name);
create index schedules_due on schedules (due_at) where due_at is not null;
create index schedules_waiting on schedules (schedule_id) where waiting_slot is not null;

-- What became of a slot. Its key is why no slot fires twice. A run of slots that were skipped together is one row.
create table ticks (
  schedule_id bigint not null,
  slot timestamptz not null,
  tenant_id uuid not null,
  verdict smallint not null check (verdict between 1 and 3),  -- 1 fired, 2 skipped, 3 queued
  reason text,
  job_id bigint,
  through timestamptz not null,
  slots integer,  -- null: more than were counted
  decided_at timestamptz not null default clock_timestamp(),
  primary key (schedule_id, slot)
);

do $$
declare
  t text;
begin
  foreach t in array array['schedules', 'ticks'] loop
    execute format('alter table %I enable row level security', t);
    execute format('alter table %I force row level security', t);
    execute format(
      'create policy tenant on %I to taskforge_app'
      ' using (tenant_id = (select nullif(current_setting(''taskforge.tenant'', true), '''')::uuid))'
      ' with check (tenant_id = (select nullif(current_setting(''taskforge.tenant'', true), '''')::uuid))', t);
  end loop;
end
$$;

grant select, insert, update, delete on schedules, ticks to taskforge_app;
grant select, update on schedules to taskforge_dispatch;
grant select, insert, update, delete on ticks to taskforge_dispatch;
