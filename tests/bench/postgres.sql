-- A betting ledger for measurements, about 0.5 GB for each million of transfers: psql -v transfers=6000000 -f postgres.sql
create table account (
  id bigint primary key,
  holder uuid not null,
  kind text not null,
  currency char(3) not null,
  opened_at timestamptz not null
);
insert into account
select number, gen_random_uuid(), (array['player', 'house', 'bonus', 'tax'])[1 + number % 4],
  (array['EUR', 'GBP', 'USD'])[1 + number % 3], now() - random() * interval '900 days'
from generate_series(1, 500000) number;

create table posting (
  id bigserial primary key,
  transfer uuid not null,
  account_id bigint not null references account,
  amount_minor bigint not null,
  posted_at timestamptz not null,
  memo text
);
insert into posting (transfer, account_id, amount_minor, posted_at, memo)
select transfer, case side when 1 then payer else payee end, case side when 1 then amount else -amount end, posted_at, memo
from (
  select gen_random_uuid() transfer, 1 + (random() * 499999)::int payer, 1 + (random() * 499999)::int payee,
    (random() * 100000)::bigint amount, now() - random() * interval '400 days' posted_at, 'bet ' || md5(random()::text) memo
  from generate_series(1, :transfers)
) transfers cross join generate_series(1, 2) side;
create index on posting (account_id, posted_at);
create index on posting (transfer);

create table audit_log (
  seq bigserial primary key,
  happened_at timestamptz not null,
  actor text,
  action text,
  payload jsonb,
  previous bytea,
  hash bytea
);
insert into audit_log (happened_at, actor, action, payload, previous, hash)
select now() - number * interval '1 second', 'service-' || (number % 17),
  (array['bet.place', 'bet.settle', 'login', 'deposit', 'withdraw', 'limit.set'])[1 + number % 6],
  jsonb_build_object('address', '10.' || (random() * 255)::int || '.' || (random() * 255)::int || '.7',
    'stake', (random() * 10000)::int, 'market', md5(random()::text), 'odds', random()),
  sha256(random()::text::bytea), sha256(random()::text::bytea)
from generate_series(1, :transfers / 2) number;
vacuum analyze;
checkpoint;
