-- The engine's tables. A job costs two appends (jobs, outcomes); what changes is one row per batch, not per job.

create table tenants (
  tenant_id uuid primary key,
  name text not null unique,
  created_at timestamptz not null default now()
);

insert into tenants (tenant_id, name) values ('00000000-0000-7000-8000-000000000001', 'default');

create table queues (
  tenant_id uuid not null references tenants,
  queue_id integer generated always as identity unique,
  name text not null,
  priority smallint not null default 0,
  paused boolean not null default false,
  max_attempts smallint not null default 5 check (max_attempts between 1 and 100),
  timeout_seconds double precision not null default 300 check (timeout_seconds > 0),
  retry jsonb not null default '{}',
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  deleted_at timestamptz,
  primary key (tenant_id, queue_id)
);

-- A deleted queue keeps its row, because jobs that ended in it still name it; its name is free again.
create unique index queues_name on queues (tenant_id, name) where deleted_at is null;

-- Ids are handed out in blocks: a process that holds a block numbers its jobs without asking anybody.
create sequence job_ids as bigint start 1000 increment 1000 minvalue 1000 cache 1;

-- taskforge.enqueue() numbers its jobs one by one, in somebody else's transaction, which may last. So that it neither
-- waits for others nor burns a block each time, value v of enqueue_ids means place v % 1000 of the block kept ready under
-- v / 1000 here.
create sequence enqueue_ids as bigint start 0 minvalue 0 cache 1;

create table enqueue_blocks (
  number bigint primary key,
  first_id bigint not null
);

create table jobs (
  id bigint not null,
  tenant_id uuid not null,
  queue_id integer not null,
  priority smallint not null check (priority between 0 and 9),
  max_attempts smallint,
  timeout_seconds double precision,
  job_type text not null,
  payload bytea not null,
  options jsonb,
  submitted_at timestamptz not null default now(),
  primary key (id)
) partition by range (id);

create table outcomes (
  id bigint not null,
  tenant_id uuid not null,
  queue_id integer not null,
  state smallint not null check (state between 1 and 3),  -- 1 succeeded, 2 failed, 3 cancelled
  attempt smallint not null,
  fence bigint,
  worker_id bigint,
  started_at timestamptz,
  finished_at timestamptz not null,
  result bytea,
  primary key (id)
) partition by range (id);

create index outcomes_dead_letters on outcomes (queue_id, id) where state = 2;

-- kind: 1 failed, 2 lost with its worker while it ran, 3 held unstarted by a worker that was lost, 4 snoozed, 5 released,
-- 6 cancelled while it ran
create table attempts (
  job_id bigint not null,
  fence bigint not null,
  tenant_id uuid not null,
  attempt smallint not null,
  kind smallint not null check (kind between 1 and 6),
  error_class text,
  message text,
  traceback text,
  worker_id bigint,
  started_at timestamptz,
  finished_at timestamptz not null default now(),
  primary key (job_id, fence)
) partition by range (job_id);

-- How far a job says it is; the newest word only. Written by whoever holds its lease, kept after its end.
create table progress (
  job_id bigint not null,
  tenant_id uuid not null,
  fence bigint not null,
  fraction real not null check (fraction between 0 and 1),
  message text not null,
  reported_at timestamptz not null default now(),
  primary key (job_id)
) partition by range (job_id);

create table jobs_default partition of jobs default;
create table outcomes_default partition of outcomes default;
create table attempts_default partition of attempts default;
create table progress_default partition of progress default with (fillfactor = 70);

-- One row per run of ids submitted together to one queue: what listings walk, so that jobs needs no second index.
create table spans (
  tenant_id uuid not null,
  lo bigint not null,
  hi bigint not null,
  queue_id integer not null,
  priority smallint not null,
  submitted_at timestamptz not null default now(),
  primary key (tenant_id, lo)
) partition by range (lo);

create table spans_default partition of spans default;

-- Partition number n of jobs, outcomes, attempts and spans holds the 4,000,000 ids from n * 4,000,000 + 1 up.
create table partitions (
  number integer primary key,
  created_at timestamptz not null default now(),
  sealed_at timestamptz,  -- when the last of its ids had been handed out
  dropped_at timestamptz
);

-- CACHE 1 and an xid before nextval: the floor rule rests on both (docs/decisions/0002).
create sequence ready_seq as bigint cache 1;

-- stream 0: came back (released, reaped, promoted, cut off); stream 1: fresh. `attempt` is the attempt they wait for.
create table ready (
  queue_id integer not null,
  priority smallint not null check (priority between 0 and 9),
  stream smallint not null check (stream in (0, 1)),
  seq bigint not null default nextval('ready_seq'),
  tenant_id uuid not null,
  attempt smallint not null,
  lo bigint not null,
  hi bigint not null,
  ready_at timestamptz not null default now(),
  primary key (queue_id, priority, stream, seq),
  check (hi between lo and lo + 999)
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

create index ready_lo on ready (lo);

-- A lane is a (queue, priority); every queue has all ten. No live extent of a stream lies below its floor.
create table lanes (
  queue_id integer not null,
  priority smallint not null,
  tenant_id uuid not null,
  returned_floor bigint not null default 0,
  fresh_floor bigint not null default 0,
  primary key (queue_id, priority)
) with (fillfactor = 50);

create function open_lanes() returns trigger
language plpgsql
set search_path = taskforge, pg_temp
as $$
begin
  insert into lanes (queue_id, priority, tenant_id)
  select new.queue_id, priority, new.tenant_id from generate_series(0, 9) as priority;
  return null;
end
$$;

create trigger open_lanes after insert on queues for each row execute function open_lanes();

insert into queues (tenant_id, name) values ('00000000-0000-7000-8000-000000000001', 'default');

create sequence fences as bigint cache 1;

create table leases (
  fence bigint not null default nextval('fences'),
  worker_id bigint not null,
  tenant_id uuid not null,
  queue_id integer not null,
  priority smallint not null,
  attempt smallint not null,
  ranges int8multirange not null,
  leased_at timestamptz not null default now(),
  primary key (fence)
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

create index leases_worker on leases (worker_id);

-- kind: 1 scheduled, 2 retrying, 3 blocked
create table parked (
  id bigint not null,
  tenant_id uuid not null,
  queue_id integer not null,
  priority smallint not null,
  attempt smallint not null,
  kind smallint not null check (kind between 1 and 3),
  run_at timestamptz not null,
  primary key (id)
) with (autovacuum_vacuum_scale_factor = 0.02);

create index parked_due on parked (run_at, id);

create table workers (
  worker_id bigint generated always as identity,
  tenant_id uuid not null,
  name text not null,
  is_server boolean not null default false,
  queues integer[] not null default '{}',
  job_types text[] not null default '{}',
  concurrency integer not null default 0,
  version text not null default '',
  host text not null default '',
  pid integer not null default 0,
  state smallint not null default 1 check (state between 1 and 3),  -- 1 active, 2 draining, 3 gone
  started_at timestamptz not null default now(),
  expires_at timestamptz not null,
  primary key (worker_id)
) with (fillfactor = 50);

create table cancellations (
  job_id bigint not null,
  tenant_id uuid not null,
  requested_at timestamptz not null default now(),
  requested_by text not null,
  primary key (job_id)
);

create table idempotency (
  tenant_id uuid not null,
  key text not null,
  job_id bigint not null,
  body_hash bytea not null,
  expires_at timestamptz not null,
  primary key (tenant_id, key)
);

create index idempotency_expiry on idempotency (expires_at);

-- An outcome that somebody took back: the job was given new attempts.
create table redrives (
  job_id bigint not null,
  tenant_id uuid not null,
  redriven_at timestamptz not null default now(),
  redriven_by text not null,
  state smallint not null,
  attempt smallint not null,
  fence bigint,
  finished_at timestamptz not null,
  primary key (job_id, redriven_at)
);

-- Reports that came too late. They changed nothing; this is their only trace.
create table stale_reports (
  fence bigint not null,
  job_id bigint not null,
  worker_id bigint not null,
  reported_at timestamptz not null default now()
);

create index stale_reports_job on stale_reports (job_id);

-- Changes of the counts, appended by every verb in its own transaction and rolled up into queue_totals.
create sequence flow_seq as bigint cache 1;

create table flow (
  id bigint not null default nextval('flow_seq'),
  tenant_id uuid not null,
  queue_id integer not null,
  priority smallint,  -- tells which lanes changed since their floors were raised
  at timestamptz not null default now(),
  ready integer not null default 0,
  scheduled integer not null default 0,
  retrying integer not null default 0,
  blocked integer not null default 0,
  leased integer not null default 0,
  submitted integer not null default 0,
  succeeded integer not null default 0,
  failed integer not null default 0,
  cancelled integer not null default 0,
  retried integer not null default 0,
  primary key (id)
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000);

create table queue_totals (
  tenant_id uuid not null,
  queue_id integer not null,
  ready bigint not null default 0,
  scheduled bigint not null default 0,
  retrying bigint not null default 0,
  blocked bigint not null default 0,
  leased bigint not null default 0,
  submitted bigint not null default 0,
  succeeded bigint not null default 0,
  failed bigint not null default 0,
  cancelled bigint not null default 0,
  retried bigint not null default 0,
  primary key (tenant_id, queue_id)
) with (fillfactor = 50);

-- Floors of streams that are not lanes: parked (microseconds of run_at) and flow (its id).
create table floors (
  name text primary key,
  floor bigint not null
) with (fillfactor = 50);

insert into floors (name, floor) values ('parked', 0), ('flow', 0);

-- Row-level security: the app role sees and touches one tenant, the one set for its transaction; none set, no rows.
do $$
declare
  t text;
begin
  foreach t in array array['tenants', 'queues', 'jobs', 'outcomes', 'attempts', 'progress', 'spans', 'ready', 'lanes', 'leases',
    'parked', 'workers', 'cancellations', 'idempotency', 'redrives', 'flow', 'queue_totals']
  loop
    execute format('alter table %I enable row level security', t);
    execute format('alter table %I force row level security', t);
    execute format(
      'create policy tenant on %I to taskforge_app'
      ' using (tenant_id = (select nullif(current_setting(''taskforge.tenant'', true), '''')::uuid))'
      ' with check (tenant_id = (select nullif(current_setting(''taskforge.tenant'', true), '''')::uuid))', t);
  end loop;
end
$$;

-- Whoever holds no tenant has no business here at all.
alter table stale_reports enable row level security;
alter table stale_reports force row level security;

grant usage on schema taskforge to taskforge_ingest, taskforge_dispatch, taskforge_app, taskforge_client;

grant insert on jobs, spans, ready, parked, flow to taskforge_ingest;
grant usage on sequence ready_seq, flow_seq, job_ids to taskforge_ingest;
grant select (queue_id, deleted_at) on queues to taskforge_ingest;

grant select on tenants, queues, jobs, floors to taskforge_dispatch;
grant insert on jobs, spans to taskforge_dispatch;
grant select, insert on outcomes, attempts, stale_reports to taskforge_dispatch;
grant delete on stale_reports to taskforge_dispatch;
grant select, insert, update, delete
  on ready, lanes, leases, parked, workers, cancellations, idempotency, flow, queue_totals to taskforge_dispatch;
grant update on floors to taskforge_dispatch;
grant select, insert, delete on enqueue_blocks to taskforge_dispatch;
grant select, insert, update on progress to taskforge_dispatch;
grant usage, select on sequence ready_seq, flow_seq, fences, job_ids, enqueue_ids to taskforge_dispatch;

grant select on tenants, jobs, spans, lanes, leases, attempts, workers, redrives, flow, queue_totals, idempotency
  to taskforge_app;
grant select, insert, update on queues to taskforge_app;
grant select, insert, update, delete on ready to taskforge_app;
grant select, insert, delete on parked, cancellations, outcomes to taskforge_app;
grant select on progress to taskforge_app;
grant delete on jobs, attempts, progress to taskforge_app;  -- purge of dead letters
grant insert on redrives, flow, lanes to taskforge_app;
grant select on floors to taskforge_app;
grant update on leases to taskforge_app;  -- row locks only need it: cancel waits for a finish in flight
grant usage on sequence ready_seq, flow_seq to taskforge_app;
