-- How often a project was written to. A writer knows how far it was, so that it finds out when the
-- database has lost what it had acknowledged, as after a failover to a copy that lagged.
alter table leases add column generation bigint not null default 0;
