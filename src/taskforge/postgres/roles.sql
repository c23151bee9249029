-- The three doors. Roles belong to the whole cluster, so each is made only where it is missing.
--   taskforge_ingest    may append jobs; reads nothing back. BYPASSRLS because COPY is refused under row-level security
--   taskforge_dispatch  claim, finish, reap, promote across tenants; owns the functions that do it. BYPASSRLS
--   taskforge_app       every read and change a tenant asks for; bound by forced policies
--   taskforge_client    may call taskforge.enqueue() inside its own transaction, nothing else
do $$
declare
  r record;
begin
  for r in
    select * from (values
      ('taskforge_ingest', 'bypassrls'), ('taskforge_dispatch', 'bypassrls'),
      ('taskforge_app', 'nobypassrls'), ('taskforge_client', 'nobypassrls')) as t (name, attribute)
  loop
    if not exists (select from pg_roles where rolname = r.name) then
      begin
        execute format('create role %I nologin nosuperuser nocreatedb nocreaterole noinherit %s', r.name, r.attribute);
      exception when duplicate_object or unique_violation then
        null;  -- another database of this cluster made it at the same moment
      end;
    end if;
  end loop;
end
$$;
