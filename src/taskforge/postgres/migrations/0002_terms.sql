-- What the later features share: the settings of a queue, and what hangs on the end of a job.

-- Settings that most queues leave alone; the struct is QueueSettings in domain/queues.py.
alter table queues add column settings jsonb not null default '{}';

-- What must happen in the transaction that ends one of the jobs lo..hi. A finish looks here once per run of ids, so a
-- job with nothing hanging on it costs nothing. At most 1,000 wide, so that the rows that cover an id are near it.
-- kind: 1 children wait for it (edges), 2 it belongs to a group (target: the group), 3 it holds a unique key, 4 somebody
-- wants to be told (target: unused)
create table followups (
  lo bigint not null,
  hi bigint not null,
  kind smallint not null check (kind between 1 and 4),
  target bigint not null default 0,
  tenant_id uuid not null,
  primary key (lo, kind, target),
  check (hi between lo and lo + 999)
);

alter table followups enable row level security;
alter table followups force row level security;
create policy tenant on followups to taskforge_app
  using (tenant_id = (select nullif(current_setting('taskforge.tenant', true), '')::uuid))
  with check (tenant_id = (select nullif(current_setting('taskforge.tenant', true), '')::uuid));

grant insert on followups to taskforge_ingest;
grant select, insert, delete on followups to taskforge_dispatch, taskforge_app;
