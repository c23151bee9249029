-- Queues: who paused them, a version for every change, and what happened in each of the last seconds.

alter table queues
  add column version integer not null default 1,
  add column paused_by text,
  add column paused_at timestamptz,
  add column pause_reason text;

-- What a queue was before and is after each change, whoever made it in whatever way.
create table queue_versions (
  queue_id integer not null,
  version integer not null,
  tenant_id uuid not null,
  changed_at timestamptz not null default now(),
  changed_by text not null,
  action text not null,
  comment text,
  before jsonb,
  after jsonb not null,
  primary key (queue_id, version)
);

create function queue_document(p queues) returns jsonb
language sql immutable
set search_path = taskforge, pg_temp
as $$
  select p.settings || jsonb_build_object(
    'priority', p.priority, 'max_attempts', p.max_attempts, 'timeout_seconds', p.timeout_seconds, 'retry', p.retry,
    'paused', p.paused, 'pause_reason', p.pause_reason, 'deleted', p.deleted_at is not null);
$$;

create function count_queue_version() returns trigger
language plpgsql
set search_path = taskforge, pg_temp
as $$
begin
  new.version := old.version + (queue_document(new) <> queue_document(old))::int;
  return new;
end
$$;

create trigger count_queue_version
  before update of priority, paused, max_attempts, timeout_seconds, retry, settings, deleted_at, pause_reason on queues
  for each row execute function count_queue_version();

-- taskforge.actor, .verb and .comment are set by whoever changes a queue, for the transaction.
create function keep_queue_version() returns trigger
language plpgsql
set search_path = taskforge, pg_temp
as $$
declare
  v_verb text := nullif(current_setting('taskforge.verb', true), '');
begin
  if tg_op = 'UPDATE' and new.version = old.version then
    return null;
  end if;
  insert into queue_versions (queue_id, version, tenant_id, changed_by, action, comment, before, after)
  values (new.queue_id, new.version, new.tenant_id,
    coalesce(nullif(current_setting('taskforge.actor', true), ''), session_user),
    case
      when tg_op = 'INSERT' then 'created'
      when new.deleted_at is not null and old.deleted_at is null then 'deleted'
      when new.deleted_at is null and old.deleted_at is not null then 'restored'
      when new.paused and not old.paused then 'paused'
      when old.paused and not new.paused then 'resumed'
      else coalesce(v_verb, 'changed')
    end,
    nullif(current_setting('taskforge.comment', true), ''),
    case tg_op when 'UPDATE' then queue_document(old) end, queue_document(new));
  delete from queue_versions where queue_id = new.queue_id and version <= new.version - 1000;
  return null;
end
$$;

create trigger keep_queue_version
  after insert
  or update of priority, paused, max_attempts, timeout_seconds, retry, settings, deleted_at, pause_reason on queues
  for each row execute function keep_queue_version();

insert into queue_versions (queue_id, version, tenant_id, changed_at, changed_by, action, after)
select queue_id, 1, tenant_id, created_at, 'migration', 'created', queue_document(queues) from queues;

-- How long what a claim took had been ready: pairs of a bucket and how many jobs, as domain/waits.py reads them; and how
-- many of the jobs had been tried before.
alter table flow add column waits integer[], add column restarted integer not null default 0;

-- What happened in one second in one queue, kept for a quarter of an hour. A second may be folded in several steps, so
-- waits may name a bucket more than once.
create table queue_seconds (
  queue_id integer not null,
  second bigint not null,
  tenant_id uuid not null,
  submitted integer not null default 0,
  started integer not null default 0,
  restarted integer not null default 0,
  succeeded integer not null default 0,
  failed integer not null default 0,
  cancelled integer not null default 0,
  retried integer not null default 0,  -- attempts that failed and will be made again
  waits integer[],
  primary key (queue_id, second)
) with (fillfactor = 80, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);

create index queue_seconds_old on queue_seconds (second);

insert into floors (name, floor) values ('seconds', 0);

do $$
declare
  t text;
begin
  foreach t in array array['queue_versions', 'queue_seconds'] loop
    execute format('alter table %I enable row level security', t);
    execute format('alter table %I force row level security', t);
    execute format(
      'create policy tenant on %I to taskforge_app'
      ' using (tenant_id = (select nullif(current_setting(''taskforge.tenant'', true), '''')::uuid))'
      ' with check (tenant_id = (select nullif(current_setting(''taskforge.tenant'', true), '''')::uuid))', t);
  end loop;
end
$$;

grant select, insert, delete on queue_versions to taskforge_app;
grant select on queue_seconds to taskforge_app;
grant select, insert, update, delete on queue_seconds to taskforge_dispatch;
