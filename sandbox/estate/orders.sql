-- The shop's data: a function of nothing but this file, so that every sandbox holds the same rows.
\set ON_ERROR_STOP on
begin;
drop table if exists orders, customers, fingerprint;
create table customers (
    id integer primary key,
    name text not null,
    email text not null unique
);
insert into customers
select n, 'Customer ' || n, 'customer-' || n || '@example.com' from generate_series(1, 5000) as n;
create table orders (
    id bigint primary key,
    customer_id integer not null references customers,
    placed_at timestamptz not null,
    status text not null,
    total_cents integer not null,
    note text
);
insert into orders
select
    n,
    1 + (n * 7919) % 5000,
    timestamptz '2024-01-01 00:00:00+00' + n * interval '97 seconds',
    (array['new', 'paid', 'shipped', 'returned'])[1 + n % 4],
    100 + (n * 104729) % 100000,
    case when n % 10 = 0 then md5(n::text) || E' ünïcödé\ttab' end
from generate_series(1, 200000) as n;
create index orders_by_customer on orders (customer_id, placed_at);
create table fingerprint (value text not null);
insert into fingerprint
select md5(string_agg(md5(o::text), '' order by o.id)) from orders as o;
commit;
vacuum analyze;
checkpoint;
