-- Groups of jobs with a state of their own, and the outbox of webhooks.

-- A batch (kind 1) or a workflow (kind 2). Members are followups of kind 2; a member that ends is counted here, under the
-- row's lock, so that whoever counts the last one knows. The counts run ahead of no commit: each is written in the transaction
-- that ends the job.
-- received: how many items of a numbered stream are settled, stored or refused. callbacks: by name (on_success, on_failure,
-- on_complete), a job and a webhook each; fired: those that have gone off, with what they made.
create sequence group_ids as bigint cache 1;

create table groups (
  id bigint not null default nextval('group_ids'),
  tenant_id uuid not null,
  kind smallint not null default 1 check (kind in (1, 2)),
  name text not null default '',
  tags text[] not null default '{}',
  callbacks jsonb not null default '{}',
  fired jsonb not null default '{}',
  total bigint not null default 0,
  succeeded bigint not null default 0,
  failed bigint not null default 0,
  cancelled bigint not null default 0,
  received bigint not null default 0,
  created_at timestamptz not null default now(),
  sealed_at timestamptz,
  ended_at timestamptz,
  cancel_requested_at timestamptz,
  cancel_requested_by text,
  cancelled_up_to bigint not null default 0,  -- members up to this id have been cancelled, or told to stop
  primary key (id)
) with (fillfactor = 50);

create index groups_tenant on groups (tenant_id, kind, id);
create index groups_to_cancel on groups (id) where cancel_requested_at is not null and cancelled_up_to < 9223372036854775807;
create index groups_ended on groups (ended_at) where ended_at is not null;

-- The members of a group, in their order.
create index followups_members on followups (target, lo) where kind = 2;
-- Ranges proper: a job has few of them near it, and what stands for one job alone is found by its id.
create index followups_wide on followups (lo, kind, target, hi) where hi > lo;

-- What is to be told to whom. state: 1 waiting, 2 delivered, 3 given up. subject_kind: 1 job, 2 batch. While somebody sends,
-- due_at is when it may be tried again by another.
create sequence delivery_ids as bigint cache 1;

create table deliveries (
  id bigint not null default nextval('delivery_ids'),
  tenant_id uuid not null,
  url text not null,
  origin text not null,
  event text not null,
  subject_kind smallint not null check (subject_kind in (1, 2)),
  subject bigint not null,
  data jsonb not null,
  result bytea,
  state smallint not null default 1 check (state between 1 and 3),
  attempts smallint not null default 0,
  due_at timestamptz not null default now(),
  created_at timestamptz not null default now(),
  finished_at timestamptz,
  last_attempt_at timestamptz,
  last_status smallint,
  last_error text,
  primary key (id)
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02);

create index deliveries_due on deliveries (tenant_id, due_at, id) where state = 1;
create index deliveries_next on deliveries (due_at) where state = 1;
create index deliveries_tenant on deliveries (tenant_id, id);
create index deliveries_finished on deliveries (finished_at) where state <> 1;

-- Places that did not answer well lately: how often in a row, and when they may be asked again.
create table webhook_endpoints (
  tenant_id uuid not null,
  origin text not null,
  failures integer not null,
  retry_at timestamptz not null,
  primary key (tenant_id, origin)
) with (fillfactor = 50);

-- Queues whose jobs are all told about; kept by a trigger, so that a finish may look at what is mostly an empty table.
create table queue_hooks (
  queue_id integer not null,
  tenant_id uuid not null,
  hook jsonb not null,
  primary key (queue_id)
);

-- The keys that sign webhooks, apart from what may be read of them: they are shown once, when they are made.
create table webhook_secrets (
  id bigint generated always as identity,
  tenant_id uuid not null,
  hint text not null,
  created_at timestamptz not null default now(),
  created_by text not null,
  retired_at timestamptz,
  primary key (id)
);

create index webhook_secrets_active on webhook_secrets (tenant_id, id) where retired_at is null;

create table webhook_keys (
  id bigint not null,
  tenant_id uuid not null,
  key bytea not null,
  primary key (id)
);

create function keep_queue_hook() returns trigger
language plpgsql
set search_path = taskforge, pg_temp
as $$
begin
  delete from queue_hooks where queue_id = new.queue_id;
  if new.deleted_at is null and jsonb_typeof(new.settings -> 'webhook') = 'object' then
    insert into queue_hooks (queue_id, tenant_id, hook) values (new.queue_id, new.tenant_id, new.settings -> 'webhook');
  end if;
  return null;
end
$$;

create trigger keep_queue_hook_of_new after insert on queues for each row
  when (new.settings ? 'webhook') execute function keep_queue_hook();
create trigger keep_queue_hook after update on queues for each row
  when (old.settings -> 'webhook' is distinct from new.settings -> 'webhook' or old.deleted_at is distinct from new.deleted_at)
  execute function keep_queue_hook();

do $$
declare
  t text;
begin
  foreach t in array array['groups', 'deliveries', 'webhook_endpoints', 'queue_hooks', 'webhook_secrets', 'webhook_keys']
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

grant select, insert, update, delete on groups, deliveries, webhook_endpoints to taskforge_dispatch;
grant select on queue_hooks, webhook_secrets, webhook_keys to taskforge_dispatch;
grant select, insert on groups to taskforge_app;
grant select, update on deliveries to taskforge_app;
grant select, insert, update on webhook_secrets to taskforge_app;
grant insert, delete on webhook_keys to taskforge_app;
grant select, insert, delete on queue_hooks to taskforge_app;
grant usage on sequence group_ids to taskforge_app;
grant usage on sequence group_ids, delivery_ids to taskforge_dispatch;
