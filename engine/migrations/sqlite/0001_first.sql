-- A run and everything needed to go on with it.
create table runs (
    id               text    primary key,
    workflow         text    not null,
    definition       text    not null, -- JSON: paths, text of the workflow, digest of the environment, parameters
    started_at       text    not null
) strict, without rowid;

-- What happened, append-only. The state of a run is the fold over its facts. `sum` is chained
-- over the facts of a run, so that a lost or altered one is found.
create table facts (
    run     text    not null references runs (id),
    seq     integer not null,
    at      text    not null,
    body    text    not null,
    sum     blob    not null,
    primary key (run, seq)
) strict, without rowid;

-- Each node's own place: replaced, not appended.
create table places (
    run     text    not null references runs (id),
    node    text    not null,
    cursor  text,
    handle  text,
    primary key (run, node)
) strict, without rowid;

-- What steps said.
create table logs (
    id      integer primary key,
    run     text    not null references runs (id),
    at      text    not null,
    node    text    not null,
    level   text    not null,
    message text    not null
) strict;
create index logs_of_node on logs (run, node, id);
