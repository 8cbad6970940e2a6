-- Who may write to a project. Every write proves in its own transaction that its epoch is the current
-- one, and holds this row meanwhile; whoever takes over begins a new epoch.
create table leases (
    project     text        primary key,
    epoch       bigint      not null,
    holder      text,                   -- JSON; null: nobody
    renewed     timestamptz not null,
    expires     timestamptz not null
);

-- A run and everything needed to go on with it. `facts` and `facts_sum` say how many facts there must
-- be, and how their chain ends.
create table runs (
    project     text    not null,
    id          text    not null,
    workflow    text    not null,
    definition  text    not null,
    started_at  text    not null,
    facts       bigint  not null default 0,
    facts_sum   bytea   not null default '',
    primary key (project, id)
);

-- What happened, append-only.
create table facts (
    project text    not null,
    run     text    not null,
    seq     bigint  not null,
    at      text    not null,
    body    text    not null,
    sum     bytea   not null,
    primary key (project, run, seq),
    foreign key (project, run) references runs (project, id)
);

-- Each node's own place: replaced, not appended.
create table places (
    project text    not null,
    run     text    not null,
    node    text    not null,
    cursor  text,
    handle  text,
    primary key (project, run, node),
    foreign key (project, run) references runs (project, id)
);

-- What steps said.
create table logs (
    id      bigint  generated always as identity primary key,
    project text    not null,
    run     text    not null,
    at      text    not null,
    node    text    not null,
    level   text    not null,
    message text    not null,
    foreign key (project, run) references runs (project, id)
);
create index logs_of_node on logs (project, run, node, id);
