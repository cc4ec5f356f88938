-- The schema of a store in PostgreSQL, format 1. Run with search_path set to the store's schema.
--
-- Rules:
-- 1. An append holds the store's lock (`lock_log`) until its commit, and takes the position after the last
--    event's. So commits are in the order of positions, and positions have no gaps. A sequence cannot do that:
--    it gives positions before the commit.
-- 2. An append updates no row. A row with counters would be the obvious lock, but each update leaves a dead
--    version of it. While a long transaction (a dump) is open, these cannot be removed, and each append would
--    read all of them.
-- 3. `event_data` is json, not jsonb: jsonb changes numbers, drops duplicate keys and refuses \u0000.
-- 4. `append` runs with the rights of the schema's owner, so a role that may only append needs no right on any
--    table: USAGE of the schema, and EXECUTE of `describe` and `append`.

create table log (
    one boolean primary key default true check (one),
    store_id uuid not null,
    format int not null,
    position bigint not null,      -- the log ends here or at its last event: the view `head`
    last_time timestamptz not null,    -- the same of the time
    policies bigint not null,      -- how many policy events there are: 0 spares their look-up
    removed bigint not null,       -- how many events were removed: the same
    schemas bigint not null default 0, -- the version of the stream `$schemas`
    lost bigint not null default 0,    -- of a mirror: how many positions its source had lost
    mirror_of uuid,                -- the store that this one is a mirror of: nothing else may write to it
    moved_to text                  -- the address of the store that has taken this one's place: the same
);

-- The tags in metadata as evlog writes it, where they come first; null if there are none. `->` refuses metadata with
-- \u0000 anywhere, which no tag has: there the array is cut out.
create function tags_in(metadata text) returns text[] language sql immutable strict parallel safe as $body$
    select case when starts_with(metadata, '{"$tags":[')
        then array(select json_array_elements_text(case when strpos(metadata, '\u0000') = 0
            then metadata::json->'$tags' else substring(metadata, '\[(?:"(?:[^"\\]|\\.)*",?)*\]')::json end)) end
$body$;

-- Whether this is the metadata of a redacted event, as evlog writes it.
create function is_redacted(metadata text) returns boolean language sql immutable parallel safe as $body$
    select coalesce(starts_with(metadata, '{"$redacted":"'), false)
$body$;

create table events (
    id uuid not null unique,
    stream_id text collate "C" not null,
    stream_type text collate "C" not null,          -- the category
    event_type text collate "C" not null,
    event_data json,
    raw bytea,                                      -- text and binary events, and JSON that PostgreSQL refuses
    content_type text not null default 'json',
    metadata json,
    tags text[],                                    -- those in the metadata: tags_in
    version bigint not null,
    global_position bigint primary key,
    frame bigint not null,                          -- the position of the first event of the same append
    created_at timestamptz not null,
    unique (stream_id, version),
    check ((event_data is null) <> (raw is null))
);
create index events_by_category on events (stream_type, global_position);
create index events_by_type on events (event_type, global_position);
create index events_by_tag on events using gin (tags) where tags is not null;
create index events_by_time on events using brin (created_at);
create view events_jsonb as select *, event_data::jsonb as data from events where event_data is not null;

create view head as
    select greatest(position, (select max(global_position) from events)) as position from log;

create table streams (
    stream_id text collate "C" primary key,
    stream_type text collate "C" not null,
    version bigint not null default 0,              -- the last one is this or the last event's: last_versions
    missing bigint not null default 0,              -- versions up to the last whose events were removed or lost
    last_time timestamptz                           -- of the event that had `version`
);
create view last_versions as
    select stream_id, stream_type, greatest(s.version, e.version) as version,
           greatest(s.version, e.version) - missing as events, greatest(s.last_time, e.created_at) as last_time
    from streams s left join lateral (select version, created_at from events where stream_id = s.stream_id
                                      order by version desc limit 1) e on true;

create table removed_ids (
    id uuid primary key,
    digest bytea not null,                          -- of stream, type, content type and data: content_digest;
                                                    -- of another length: another engine's, not compared
    stream_id text collate "C" not null,
    version bigint not null,
    global_position bigint not null unique,
    event_type text collate "C",                    -- of an event with tags: conditions count it
    tags bytea[]                                    -- SHA-256 of each tag
);
create index removed_by_tag on removed_ids using gin (tags) where tags is not null;

create table snapshots (
    stream_id text collate "C" not null,            -- empty: of a selection of the log
    name text collate "C" not null,
    snapshot_data bytea not null,
    version bigint not null,
    created_at timestamptz not null,
    primary key (stream_id, name)
);

create table subscription_checkpoints (
    subscription_id text collate "C" primary key,
    last_position bigint not null,
    event_id uuid,
    filter json,
    updated_at timestamptz not null
);

create table parked_events (
    subscription_id text collate "C" not null references subscription_checkpoints on delete cascade,
    global_position bigint not null,
    number bigint generated always as identity,     -- the order in which they were parked first
    stream_id text collate "C" not null,
    version bigint not null,
    event_type text not null,
    id uuid not null,
    error text not null,
    attempts int not null,
    parked_at timestamptz not null,
    primary key (subscription_id, global_position)
);

create function content_digest(stream text, type text, code text, data bytea) returns bytea
    language sql immutable parallel safe as $body$
    select sha256(sha256(convert_to(stream, 'UTF8')) || sha256(convert_to(type, 'UTF8'))
                  || convert_to(code, 'UTF8') || data)
$body$;

-- The words of the policy that a stream has of its own; null if there is none.
create function policy_of(stream text) returns json language sql stable as $body$
    select event_data from events where stream_id = '$$' || stream order by version desc limit 1
$body$;

-- What a program asks when it opens the store.
create function describe(out o_format int, out o_store_id uuid) language sql stable
    security definer set search_path from current as $body$
    select format, store_id from log
$body$;

-- Take the store's lock until the end of the transaction. Waits as long as `lock_timeout` allows.
create function lock_log() returns void language sql set search_path from current as $body$
    select pg_advisory_xact_lock(hashtextextended('evlog ' || current_schema(), 0))
$body$;

create function digests(tags text[]) returns bytea[] language sql immutable strict parallel safe as $body$
    select array(select sha256(convert_to(t, 'UTF8')) from unnest(tags) t)
$body$;

-- The first condition that does not hold: an event after position `after` matches one of its items, which is one of the
-- types (any, if there are none) and all of the tags. Removed events count by their tags. The statements are planned with their values: whether to
-- look at the tags or at the last positions depends on them. Without `offset 0`, min() walks all positions.
create function failed_condition(p_conditions json, p_head bigint) returns json
    language plpgsql set search_path from current as $body$
declare
    v_condition json;
    v_item json;
    v_after bigint;
    v_types text[];
    v_tags text[];
    v_found bigint;
    v_first bigint;
    v_at int := 0;
begin
    for v_condition in select json_array_elements(p_conditions) loop
        v_after := v_condition->>'after';
        if v_after > p_head then
            return json_build_object('error', 'BeyondEnd', 'after', v_after, 'head', p_head);
        end if;
        v_first := null;
        for v_item in select json_array_elements(v_condition->'items') loop
            v_types := array(select json_array_elements_text(v_item->0));
            v_tags := array(select json_array_elements_text(v_item->1));
            execute format('select min(global_position) from (select global_position from events '
                           'where global_position > %L::bigint and not starts_with(stream_id, ''$'')', v_after)
                || case when v_types <> '{}' then format(' and event_type = any(%L::text[])', v_types) else '' end
                || case when v_tags <> '{}' then format(' and tags @> %L::text[]', v_tags) else '' end
                || ' offset 0) found' into v_found;
            v_first := least(v_first, v_found);
            if v_tags <> '{}' then
                select min(global_position) into v_found from removed_ids
                    where tags @> digests(v_tags) and global_position > v_after
                      and (v_types = '{}' or event_type = any(v_types));
                v_first := least(v_first, v_found);
            end if;
        end loop;
        if v_first is not null then
            return json_build_object('error', 'ConditionFailed', 'at', v_at, 'position', v_first);
        end if;
        v_at := v_at + 1;
    end loop;
    return null;
end $body$;

-- Append events, or refuse all of them. Errors have the SQLSTATE EV000; their detail is a JSON object.
--
-- 1. Arguments are columns of the events. One stream is the stream of all of them. Null stands for a column
--    whose values are all the usual one: JSON, no raw data, no metadata, nothing expected.
-- 2. The usual answer is short: positions and versions count from o_position and o_version. Where there are
--    several streams, `o_versions` has the version of each event; where an id was known, the arrays have all.
-- 3. Known ids are found without a look-up: the unique index refuses them (23505), or an error 'LookUp' is
--    raised before another refusal. The caller then asks again with p_look_up.
-- 4. One event of a stream that exists, in a store without policies, takes a short way: what an append costs
--    is the number of its statements and of their tables. p_quick asks for it, with the version or null.
create function append(
    p_quick boolean, p_version bigint,
    p_streams text[], p_types text[], p_ids uuid[], p_given boolean, p_look_up boolean,
    p_codes text[], p_json json[], p_raw bytea[], p_metadata json[],
    p_expect_at int[], p_expect_stream text[], p_expect text[], p_conditions json,
    p_schemas bigint, p_skip_known boolean, p_system boolean,
    out o_position bigint, out o_version bigint,
    out o_versions bigint[], out o_positions bigint[], out o_duplicates boolean[]
) language plpgsql security definer set search_path from current as $body$
declare
    v_count int := cardinality(p_ids);
    v_known int := 0;
    v_is_one boolean := cardinality(p_streams) = 1;
    v_is_new boolean := false;
    v_first text := p_streams[1];
    v_stream text;
    v_time timestamptz;
    v_log log;
    v_actual bigint;
    v_before bigint;
    v_expected text;
    v_policy json;
    v_refusal json;
    r record;
begin
    -- As an expression, which gets by without an executor. The next statement sees what the last holder wrote.
    if pg_advisory_xact_lock(hashtextextended('evlog ' || current_schema(), 0)) is null then end if;
    if v_is_one then
        o_version := (select version from events where stream_id = v_first order by version desc limit 1);
        if p_quick and coalesce(o_version = p_version, o_version is not null) and not starts_with(v_first, '$') then
            insert into events (id, stream_id, stream_type, event_type, event_data, raw, content_type, metadata,
                                tags, version, global_position, frame, created_at)
                select p_ids[1], v_first, split_part(v_first, '-', 1), p_types[1], p_json[1], p_raw[1],
                       coalesce(p_codes[1], 'json'), p_metadata[1], tags_in(p_metadata[1]::text), o_version + 1,
                       e.global_position + 1, e.global_position + 1, greatest(e.created_at, clock_timestamp())
                from events e
                where (select policies = 0 and position = 0 and schemas = coalesce(p_schemas, schemas)
                       and mirror_of is null and moved_to is null from log)
                order by e.global_position desc limit 1
                returning global_position into o_position;
            if found then
                o_version := o_version + 1;
                if pg_notify('evlog_' || current_schema(), '') is null then end if;
                return;
            end if;
        end if;
    end if;

    if p_system then
        if not has_table_privilege(session_user, 'log', 'update') then
            raise insufficient_privilege using message = 'permission denied for the store''s own streams';
        end if;
    else
        foreach v_stream in array p_streams loop
            if starts_with(v_stream, '$') then
                raise insufficient_privilege using message = 'permission denied for the store''s own streams';
            end if;
        end loop;
    end if;
    select * into strict v_log from log;
    if coalesce(v_log.moved_to, v_log.mirror_of::text) is not null then
        raise exception 'mirror or moved' using errcode = 'EV000', detail = json_build_object(
            'error', 'Refused', 'mirror_of', v_log.mirror_of, 'moved_to', v_log.moved_to)::text;
    end if;
    select global_position, created_at into o_position, v_time from events order by global_position desc limit 1;
    o_position := greatest(o_position, v_log.position);
    v_time := greatest(v_time, v_log.last_time, clock_timestamp());

    -- 1. Duplicates, first: a retry after a lost answer succeeds.
    if p_look_up then
        for r in
            with given as (
                select n, coalesce(stream, v_first) as stream, type, id, coalesce(code, 'json') as code,
                       coalesce(raw, json_send(json)) as data
                from unnest(p_streams, p_types, p_ids, p_codes, p_json, p_raw)
                     with ordinality u(stream, type, id, code, json, raw, n)
            )
            select n, e.global_position, e.version, e.stream_id,
                   (e.stream_id, e.event_type, e.content_type, coalesce(e.raw, json_send(e.event_data)))
                   is not distinct from (g.stream, g.type, g.code, g.data) or is_redacted(e.metadata::text) as same
            from given g join events e using (id)
            union all
            select n, e.global_position, e.version, e.stream_id,
                   e.stream_id = g.stream and (length(e.digest) <> 32 or
                                               e.digest = content_digest(g.stream, g.type, g.code, g.data))
            from given g join removed_ids e using (id)
        loop
            if not r.same then
                raise exception 'id conflict' using errcode = 'EV000', detail = json_build_object(
                    'error', 'IdConflict', 'at', r.n - 1, 'stream', r.stream_id,
                    'position', r.global_position)::text;
            end if;
            if v_known = 0 then
                o_positions := array_fill(0::bigint, array[v_count]);
                o_versions := o_positions;
                o_duplicates := array_fill(false, array[v_count]);
            end if;
            v_known := v_known + 1;
            o_positions[r.n] := r.global_position;
            o_versions[r.n] := r.version;
            o_duplicates[r.n] := true;
        end loop;
        if v_known = v_count then
            return;
        end if;
        if v_known > 0 and not p_skip_known then
            raise exception 'partly known' using errcode = 'EV000', detail = (
                select json_build_object('error', 'PartlyKnown', 'at', n - 1, 'position', o_positions[n],
                                         'stream', coalesce(p_streams[n], v_first))
                from generate_subscripts(o_duplicates, 1) n where o_duplicates[n] limit 1)::text;
        end if;
        v_is_one := v_is_one and v_known = 0;
    elsif p_given and v_log.removed > 0 then
        if exists (select from removed_ids where id = any(p_ids)) then
            raise exception 'known id' using errcode = 'EV000', detail = '{"error":"LookUp"}';
        end if;
    end if;

    -- 2. Conditions.
    if v_is_one and o_version is null then
        o_version := (select version from streams where stream_id = v_first);
        v_is_new := o_version is null;
        o_version := coalesce(o_version, 0);
    end if;
    if p_schemas <> v_log.schemas then
        v_refusal := '{"error":"SchemasChanged"}';
    elsif v_log.policies > 0 then
        select json_build_object('error', 'StreamTombstoned', 'stream', s) into v_refusal
            from (select distinct s from unnest(p_streams) s) d
            where policy_of(s)->>'$tombstone' = 'true' limit 1;
    end if;
    if v_refusal is null and p_expect_at is not null then
        for i in 1 .. cardinality(p_expect_at) loop
            v_stream := p_expect_stream[i];
            v_expected := p_expect[i];
            if v_is_one and v_stream = v_first then
                v_actual := o_version;
            else
                v_actual := coalesce((select version from last_versions where stream_id = v_stream), 0);
            end if;
            v_before := 0;
            if p_expect_at[i] > 0 then
                select count(*) into v_before from generate_series(1, p_expect_at[i]) n
                    where coalesce(p_streams[n], v_first) = v_stream
                      and (o_duplicates is null or not o_duplicates[n]);
            end if;
            if v_log.policies > 0 and v_before = 0 and v_expected in ('0', 'exists') then
                v_policy := policy_of(v_stream);
                if v_policy->>'$tombstone' = 'true' or (v_policy->>'$deleted')::numeric >= v_actual then
                    v_actual := 0;      -- as in KurrentDB: it does not exist, though its versions continue
                end if;
            end if;
            v_actual := v_actual + v_before;
            if not (v_expected = 'any' or (v_expected = 'exists' and v_actual > 0)
                    or v_expected = v_actual::text) then
                v_refusal := json_build_object('error', 'WrongExpectedVersion', 'stream', v_stream,
                                               'expected', v_expected, 'actual', v_actual);
                exit;
            end if;
        end loop;
    end if;
    if v_refusal is null and p_conditions is not null then
        v_refusal := failed_condition(p_conditions, o_position);
    end if;
    if v_refusal is not null then
        if p_given and not p_look_up and exists (select from events where id = any(p_ids)) then
            v_refusal := '{"error":"LookUp"}';
        end if;
        raise exception 'refused' using errcode = 'EV000', detail = v_refusal::text;
    end if;

    -- 3. The events.
    if v_is_one then
        if v_is_new then
            insert into streams (stream_id, stream_type) values (v_first, split_part(v_first, '-', 1));
        end if;
        insert into events (id, stream_id, stream_type, event_type, event_data, raw, content_type, metadata,
                            tags, version, global_position, frame, created_at)
            select id, v_first, split_part(v_first, '-', 1), type, json, raw, coalesce(code, 'json'), metadata,
                   tags_in(metadata::text), o_version + n, o_position + n, o_position + 1, v_time
            from unnest(p_types, p_ids, p_codes, p_json, p_raw, p_metadata)
                 with ordinality u(type, id, code, json, raw, metadata, n);
        o_version := o_version + 1;
    else
        -- Without joins between what is given: their plan would be made for ten rows, and compare all with all.
        with given as (
            select coalesce(stream, v_first) as stream, type, id, code, json, raw, metadata, n
            from unnest(p_streams, p_types, p_ids, p_codes, p_json, p_raw, p_metadata)
                 with ordinality u(stream, type, id, code, json, raw, metadata, n)
            where v_known = 0 or not o_duplicates[n]
        ), numbered as (
            select *, row_number() over (order by n) as place,
                   row_number() over (partition by stream order by n) as number
            from given
        ), based as materialized (
            select *, case when number = 1 then coalesce(
                (select e.version from events e where e.stream_id = numbered.stream order by e.version desc limit 1),
                (select s.version from streams s where s.stream_id = numbered.stream), -1) end as base
            from numbered
        ), added as (
            insert into streams (stream_id, stream_type)
            select stream, split_part(stream, '-', 1) from based where base = -1
        ), placed as materialized (
            select *, greatest(0, max(base) over (partition by stream)) + number as version from based
        ), written as (
            insert into events (id, stream_id, stream_type, event_type, event_data, raw, content_type, metadata,
                                tags, version, global_position, frame, created_at)
            select id, stream, split_part(stream, '-', 1), type, json, raw, coalesce(code, 'json'), metadata,
                   tags_in(metadata::text), version, o_position + place, o_position + 1, v_time
            from placed order by n
        )
        select array_agg(n order by n) as numbers, array_agg(version order by n) as versions into r from placed;
        if v_known = 0 then
            o_versions := r.versions;
        else
            for i in 1 .. v_count - v_known loop
                o_positions[r.numbers[i]] := o_position + i;
                o_versions[r.numbers[i]] := r.versions[i];
            end loop;
        end if;
    end if;
    if p_system then
        update log set policies = policies + (select count(*) from unnest(p_types) t where t = '$metadata'),
            schemas = coalesce((select max(version) from events where stream_id = '$schemas'), schemas);
    end if;
    o_position := o_position + 1;
    if pg_notify('evlog_' || current_schema(), '') is null then end if;
end $body$;

-- A redaction erases the content of the events that it names, in the transaction that writes it: also in a
-- mirror, which gets it as a part of the history. The digest of each event is in it.
create function redact_events() returns trigger language plpgsql set search_path from current as $body$
begin
    update events e
        set event_data = 'null', raw = null, content_type = 'json', tags = null,
            metadata = ('{"$redacted":"' || n.digest || '"}')::json
        from (select (named->>'position')::bigint as position, (named->>'id')::uuid as id,
                     named->>'digest' as digest
              from json_array_elements(new.event_data->'events') named) n
        where e.global_position = n.position and e.id = n.id and not is_redacted(e.metadata::text);
    return null;
end $body$;
create trigger redaction after insert on events for each row
    when (new.stream_id = '$redactions' and new.event_type = '$Redacted') execute function redact_events();

-- Remove the given versions of a stream: their ids stay known. Holds the store's lock until commit.
create function remove_events(p_stream text, p_first bigint, p_before timestamptz, p_limit bigint)
    returns bigint language plpgsql set search_path from current as $body$
declare
    r record;
begin
    perform lock_log();
    if exists (select from log where coalesce(moved_to, mirror_of::text) is not null) then
        raise exception 'a mirror, or a store that has moved, is not compacted';
    end if;
    with removed as (
        delete from events where global_position in (
            select global_position from events
            where stream_id = p_stream and (version < p_first or created_at < p_before)
            order by version limit p_limit)
        returning id, stream_id, event_type, content_type, coalesce(raw, json_send(event_data)) as data,
                  is_redacted(metadata::text) as redacted, version, global_position, created_at, tags
    ), kept as (
        insert into removed_ids (id, digest, stream_id, version, global_position, event_type, tags)
        select id, case when redacted then '' else content_digest(stream_id, event_type, content_type, data) end,
               stream_id, version, global_position, case when tags is not null then event_type end, digests(tags)
        from removed
    )
    select count(*) as n, max(version) as version, max(global_position) as position, max(created_at) as time
        into r from removed;
    update streams set missing = missing + r.n, version = greatest(version, r.version),
                       last_time = greatest(last_time, r.time) where stream_id = p_stream;
    update log set removed = removed + r.n, position = greatest(position, r.position),
                   last_time = greatest(last_time, r.time);
    return r.n;
end $body$;

-- Remove the events at these positions: their ids stay known. For mirrors, whose source has removed them; the
-- caller holds the store's lock.
create function remove_positions(p_positions bigint[]) returns void language sql set search_path from current as $body$
    with removed as (
        delete from events where global_position = any(p_positions)
        returning id, stream_id, event_type, content_type, coalesce(raw, json_send(event_data)) as data,
                  is_redacted(metadata::text) as redacted, version, global_position, created_at, tags
    ), kept as (
        insert into removed_ids (id, digest, stream_id, version, global_position, event_type, tags)
        select id, case when redacted then '' else content_digest(stream_id, event_type, content_type, data) end,
               stream_id, version, global_position, case when tags is not null then event_type end, digests(tags)
        from removed
    ), counted as (
        update streams s set missing = missing + r.n, version = greatest(s.version, r.version),
                             last_time = greatest(s.last_time, r.time)
        from (select stream_id, count(*) as n, max(version) as version, max(created_at) as time
              from removed group by stream_id) r where r.stream_id = s.stream_id
    )
    update log set removed = log.removed + r.n, position = greatest(log.position, r.position),
                   last_time = greatest(log.last_time, r.time)
    from (select count(*) as n, max(global_position) as position, max(created_at) as time from removed) r
$body$;
