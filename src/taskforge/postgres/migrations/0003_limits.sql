-- Limits inside the claim, and fair shares of keys and tenants. Plain queues and jobs without a key use none of this.

-- Whatever is counted has a row: a tenant (queue 0, key ''), a queue (key ''), or a key within a queue. Rows are made when
-- a limit is set or a key is first used. in_use is how many jobs are leased against the row; it changes in the very
-- transactions that make and end leases, under the row's lock.
create table limits (
  limit_id bigint generated always as identity primary key,
  tenant_id uuid not null,
  queue_id integer not null default 0,
  key text not null default '',
  weight real not null default 1 check (weight between 0.001 and 1000),
  max_concurrency integer check (max_concurrency >= 0),  -- of a tenant or of this very key; a queue's stands in its settings
  in_use integer not null default 0,
  is_claimable boolean not null default false,  -- keys: jobs of it wait, and it has room
  deficit real not null default 0,  -- keys, tenants: what its last turn left it
  served bigint not null default 0,  -- queues: the key that had its turn last; queue 0, key '' likewise for tenants
  opens_at timestamptz,  -- a rate limit lets nothing start before this
  rate_limits jsonb,  -- the windows that the two arrays below count for
  rate_heads bigint[],
  rate_counts integer[],
  adopts_after bigint,  -- leases older than this transaction are not counted yet; nothing is claimed until they are
  adopts_at timestamptz,
  unique (tenant_id, queue_id, key)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);

create index limits_queue on limits (queue_id, limit_id) where key = '';
create index limits_claimable on limits (queue_id, limit_id) where is_claimable;
create index limits_opening on limits (opens_at) where opens_at is not null;

-- Keyed extents wait in streams of their own: 2 what came back, 3 fresh.
alter table ready add column key_id bigint;
alter table ready drop constraint ready_stream_check;
alter table ready add constraint ready_stream_check check (stream between 0 and 3 and (stream >= 2) = (key_id is not null));
create index ready_keyed on ready (key_id, priority desc, stream, seq) where key_id is not null;

alter table leases add column key_id bigint;
alter table leases add column limit_ids bigint[];
alter table parked add column key_id bigint;

alter table queues add column is_limited boolean not null generated always as (
  settings ? 'max_concurrency' and settings -> 'max_concurrency' <> 'null'
  or settings ? 'rate_limits' and settings -> 'rate_limits' <> '[]') stored;
alter table queues add column has_keys boolean not null default false;

-- A worker of the operator, which serves the queues of these names in every tenant.
alter table workers add column is_shared boolean not null default false;

-- What one claim may still take under the rows of `limits` that it has locked; entries run parallel. queues is 0 for a
-- tenant's row. counts: leases are counted against the row; the others only take turns.
create type claim_room as (
  ids bigint[], queues integer[], tenants uuid[], rooms integer[], used integer[], counts boolean[]);

alter table limits enable row level security;
alter table limits force row level security;
create policy tenant on limits to taskforge_app
  using (tenant_id = (select nullif(current_setting('taskforge.tenant', true), '')::uuid))
  with check (tenant_id = (select nullif(current_setting('taskforge.tenant', true), '')::uuid));

grant select, insert, update on limits to taskforge_dispatch;
grant update (has_keys) on queues to taskforge_dispatch;
grant select on limits to taskforge_app;
