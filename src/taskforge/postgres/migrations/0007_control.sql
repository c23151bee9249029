-- What people change by hand: one job, many jobs by a filter, and dead letters.

-- What went wrong, without what differs from job to job: dead letters with the same fingerprint failed alike.
alter table attempts add column fingerprint text;

-- Who changed what of a job after its submission. A purged job's last row outlives it.
create table job_changes (
  change_id bigint generated always as identity,
  job_id bigint not null,
  tenant_id uuid not null,
  changed_at timestamptz not null default now(),
  actor text not null,
  verb text not null,
  operation_id bigint,  -- of bulk_operations, when it was one of many
  before jsonb not null default '{}',
  after jsonb not null default '{}',
  payload_before bytea,
  payload_after bytea,
  primary key (job_id, change_id)
);

create index job_changes_purged on job_changes (changed_at) where verb = 'purge';

-- Spans name the queue that a job was submitted to. A job that is in another one now has a row here, for the lists of
-- that queue.
create table moved_jobs (
  tenant_id uuid not null,
  queue_id integer not null,
  job_id bigint not null,
  primary key (tenant_id, queue_id, job_id)
);

create index moved_jobs_job on moved_jobs (job_id);

-- One verb for all jobs that a filter finds, done piece by piece. Jobs up to `cursor` are done; no job above `upto` and
-- none submitted after `created_at` is touched. A piece and its step of the cursor are one transaction.
-- state: 1 running, 2 canary (the first few), 3 watching them, 4 completed, 5 stopped
create table bulk_operations (
  operation_id bigint generated always as identity,
  tenant_id uuid not null,
  verb text not null,
  filter jsonb not null,
  arguments jsonb not null,
  state smallint not null check (state between 1 and 5),
  reason text,
  created_by text not null,
  created_at timestamptz not null default now(),
  stopped_by text,
  finished_at timestamptz,
  next_at timestamptz not null default now(),
  upto bigint not null,
  cursor bigint not null default 0,
  total bigint not null,
  is_total_exact boolean not null,
  done bigint not null default 0,
  failed bigint not null default 0,
  failures jsonb not null default '[]',
  canary_ids bigint[] not null default '{}',
  watch_until timestamptz,
  primary key (tenant_id, operation_id)
) with (fillfactor = 70);

create index bulk_operations_due on bulk_operations (next_at) where state <= 3;
create index bulk_operations_finished on bulk_operations (finished_at) where state > 3;

create index queues_dead_letter_retention on queues (queue_id)
where settings ? 'dead_letter_retention_seconds' and deleted_at is null;

-- When a duty that nothing announces has its turn next.
create table duty_times (
  duty text primary key,
  due_at timestamptz not null default now()
) with (fillfactor = 50);

insert into duty_times (duty) values ('dead_letter_retention');

do $$
declare
  t text;
begin
  foreach t in array array['job_changes', 'moved_jobs', 'bulk_operations'] loop
    execute format('alter table %I enable row level security', t);
    execute format('alter table %I force row level security', t);
    execute format(
      'create policy tenant on %I to taskforge_app'
      ' using (tenant_id = (select nullif(current_setting(''taskforge.tenant'', true), '''')::uuid))'
      ' with check (tenant_id = (select nullif(current_setting(''taskforge.tenant'', true), '''')::uuid))', t);
  end loop;
end
$$;

grant update (queue_id, priority, payload) on jobs to taskforge_app;
grant update (queue_id) on outcomes to taskforge_app;  -- also what a row lock needs
grant update on parked to taskforge_app;
grant select, insert, delete on job_changes, moved_jobs to taskforge_app;
grant select, insert, update on bulk_operations to taskforge_app;
grant select, delete on job_changes, bulk_operations to taskforge_dispatch;
grant select, update on duty_times to taskforge_dispatch;
