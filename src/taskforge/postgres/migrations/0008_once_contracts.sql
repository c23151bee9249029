-- Once-only jobs, jobs that may be too late, and contracts of payloads.

-- Who holds a unique key. Nothing is released when a job ends: whoever wants the key next looks at the job that holds it
-- (unique_holder). So an ended job costs nothing for its key, and one that is retried has it back if nobody took it.
-- scope: 1 while the job waits, 2 until it has ended, 3 until expires_at.
create table uniques (
  tenant_id uuid not null,
  job_type text not null,
  key text not null,
  job_id bigint not null,
  scope smallint not null check (scope between 1 and 3),
  taken_at timestamptz not null default now(),
  expires_at timestamptz,
  look_at timestamptz not null,  -- when to see whether it is held still
  primary key (tenant_id, job_type, key),
  check ((scope = 3) = (expires_at is not null))
);

create index uniques_look on uniques (look_at);

-- When a job that waits will have waited too long: 1 it was to start before then, 2 its deadline over all attempts. due_at is
-- when to look, which is later when the job was running then.
create table expiries (
  due_at timestamptz not null,
  job_id bigint not null,
  kind smallint not null check (kind in (1, 2)),
  bound timestamptz not null,
  tenant_id uuid not null,
  primary key (due_at, job_id, kind)
) with (autovacuum_vacuum_scale_factor = 0.02);

create index queues_expiring on queues (queue_id) where settings ? 'expires_in_seconds' and deleted_at is null;

insert into duty_times (duty) values ('queue_expiry');

-- What payloads of a job type must look like, by version; the newest that is not retired applies.
-- is_portable: taskforge.enqueue() can check it.
create table contracts (
  tenant_id uuid not null,
  job_type text not null,
  version integer not null check (version >= 1),
  schema jsonb not null,
  is_portable boolean not null,
  source text not null check (source in ('api', 'worker')),
  created_at timestamptz not null default now(),
  created_by text not null,
  retired_at timestamptz,
  primary key (tenant_id, job_type, version)
);

-- One number per tenant that has contracts; every change of them raises it. Processes that keep contracts look here.
create table contract_revisions (
  tenant_id uuid primary key,
  revision bigint not null
) with (fillfactor = 50);

do $$
declare
  t text;
begin
  foreach t in array array['uniques', 'expiries', 'contracts', 'contract_revisions'] loop
    execute format('alter table %I enable row level security', t);
    execute format('alter table %I force row level security', t);
    execute format(
      'create policy tenant on %I to taskforge_app'
      ' using (tenant_id = (select nullif(current_setting(''taskforge.tenant'', true), '''')::uuid))'
      ' with check (tenant_id = (select nullif(current_setting(''taskforge.tenant'', true), '''')::uuid))', t);
  end loop;
end
$$;

grant insert on expiries to taskforge_ingest;
grant select, insert, update, delete on uniques, expiries to taskforge_dispatch;
grant select, insert, update on uniques to taskforge_app;
grant select on contracts, contract_revisions to taskforge_dispatch;
grant select, insert, update on contracts, contract_revisions to taskforge_app;
