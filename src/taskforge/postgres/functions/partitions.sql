-- Partitions of jobs, outcomes and attempts by id. Owned by whoever migrates, because they are DDL.

-- Make sure that ids up to p_upto fall into partitions of their own. Never waits long for a lock: a reader that holds the
-- default partition makes this fail and try again later, while rows go to the default partition meanwhile.
create or replace function taskforge.ensure_partitions(p_upto bigint, p_span bigint) returns integer
language plpgsql security definer
set search_path = taskforge, pg_temp
set lock_timeout = '200ms'
as $$
declare
  v_table text;
  v_from bigint;
  v_name text;
  v_made integer := 0;
begin
  if not pg_try_advisory_xact_lock(hashtext('taskforge.partitions')) then
    return 0;
  end if;
  foreach v_table in array array['jobs', 'outcomes', 'attempts'] loop
    v_from := 0;
    while v_from <= p_upto loop
      v_name := format('%s_%s', v_table, v_from / p_span);
      if to_regclass('taskforge.' || v_name) is null
        and v_from + p_span > (select last_value from job_ids) then
        execute format('create table %I (like %I including all)', v_name, v_table);
        execute format('alter table %I attach partition %I for values from (%s) to (%s)',
          v_table, v_name, v_from, v_from + p_span);
        v_made := v_made + 1;
      end if;
      v_from := v_from + p_span;
    end loop;
  end loop;
  return v_made;
end
$$;
