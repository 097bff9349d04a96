-- The ledger of one process: operations, payments, double entry, events, replicas, tokens.
--
-- The same tables and promises as in Postgres, whose migration says what each column is for. Instants are microseconds
-- since 1970; identifiers are 16 bytes; JSON is text. Writers take turns, so the feed is in the order of its ids.

-- What operations add up to. The totals hold whatever the code does: promise 6.
create table payment (
    id               blob primary key,
    account          text not null,
    endpoint         text not null,
    currency         text not null check (length(currency) = 3),
    amount           integer not null check (amount >= 0),
    status           text not null check (status in (
                         'pending', 'authorized', 'captured', 'partially_refunded', 'refunded', 'voided', 'declined',
                         'failed', 'reversed', 'cancelled', 'unknown')),
    authorized       integer not null default 0 check (authorized >= 0),
    captured         integer not null default 0 check (captured >= 0),
    refunded         integer not null default 0 check (refunded >= 0),
    voided           integer not null default 0 check (voided in (0, 1)),
    capture_reserved integer not null default 0 check (capture_reserved >= 0),
    refund_reserved  integer not null default 0 check (refund_reserved >= 0),
    busy_with        blob,
    version          integer not null default 1,
    order_reference  text,
    upstream_ids     text not null default '{}',
    reference        text not null,
    opened_by        blob not null,
    card             text,
    created_at       integer not null,
    constraint captures_within_authorization check (captured + capture_reserved <= authorized),
    constraint refunds_within_captures check (refunded + refund_reserved <= captured)
) strict;

create index payment_by_account on payment (account, created_at, id);
create index payment_by_order on payment (account, order_reference) where order_reference is not null;

create table payment_metadata (
    payment  blob primary key,
    metadata text not null
) strict;

create table operation (
    id                  blob primary key,
    client              text not null,
    key                 text not null,
    verb                text not null check (verb in (
                            'sale', 'authorize', 'capture', 'void', 'refund', 'verify', 'reversal')),
    payment             blob,
    account             text not null,
    endpoint            text not null,
    amount              integer not null check (amount >= 0),
    currency            text not null check (length(currency) = 3),
    state               text not null check (state in (
                            'recorded', 'not_sent', 'approved', 'declined', 'failed', 'reversed', 'cancelled',
                            'unknown', 'parked')),
    detail              text not null,
    attempt             integer not null,
    sends               integer not null,
    epoch               integer not null,
    claim               blob not null,
    reference           text not null,
    fingerprint         blob not null,
    order_reference     text,
    statement_descriptor text,
    owner               blob not null,
    capture_reserved    integer not null default 0 check (capture_reserved >= 0),
    refund_reserved     integer not null default 0 check (refund_reserved >= 0),
    holds_while_unknown integer not null check (holds_while_unknown in (0, 1)),
    first_attempt_at    integer not null,
    recorded_at         integer not null,
    send_by             integer not null,
    deadline            integer not null,
    late_arrival_horizon integer not null check (late_arrival_horizon >= 0),
    late_after          integer not null,
    due_at              integer,
    checks              integer not null default 0,
    settled_at          integer,
    cancel_requested_at integer,
    prepared            text,
    reverses            blob,
    reversal_form       text,
    snapshot_status     text,
    snapshot_authorized integer,
    snapshot_captured   integer,
    snapshot_refunded   integer,
    late                text,
    constraint open_is_due check (
        due_at is not null or state not in ('recorded', 'unknown', 'parked') or verb = 'reversal'),
    constraint final_is_settled check (
        (settled_at is not null) = (state in ('approved', 'declined', 'failed', 'reversed', 'cancelled')))
) strict;

create unique index operation_by_key on operation (client, key);
create unique index operation_by_reference on operation (reference);
create unique index operation_by_reversed on operation (reverses) where reverses is not null;
create index operation_by_payment on operation (payment)
    where payment is not null and verb not in ('sale', 'authorize');
create index operation_due on operation (owner, due_at) where due_at is not null;

-- SQLite has no deferred checks but for foreign keys. So each entry adds to its operation's sum, and at the commit every
-- sum must be one of the amounts in `balanced`, which holds zero and nothing else.
create table balanced (
    minor integer primary key check (minor = 0)
) strict;
insert into balanced (minor) values (0);

create table ledger_sum (
    operation blob not null,
    account   text not null,
    currency  text not null,
    minor     integer not null references balanced (minor) deferrable initially deferred,
    primary key (operation, account, currency)
) strict;

create table ledger_entry (
    operation      blob not null,
    line           integer not null,
    payment        blob,
    account        text not null,
    ledger_account text not null check (ledger_account in ('receivable', 'sales', 'holds_taken', 'holds_given')),
    currency       text not null,
    minor          integer not null check (minor <> 0),
    at             integer not null,
    primary key (operation, line)
) strict;

create trigger debits_equal_credits after insert on ledger_entry
begin
    insert into ledger_sum (operation, account, currency, minor)
    values (new.operation, new.account, new.currency, new.minor)
    on conflict (operation, account, currency) do update set minor = minor + excluded.minor;
end;

create table event (
    id             integer primary key autoincrement,
    at             integer not null,
    kind           text not null check (kind in (
                       'transition', 'checked', 'late_answer', 'cancel_requested', 'adopted', 'send')),
    operation      blob not null,
    payment        blob,
    account        text not null,
    verb           text not null,
    from_state     text,
    to_state       text,
    payment_status text,
    reason         text not null,
    evidence       text not null
) strict;
create index event_by_operation on event (operation, id);

create table replica (
    id      blob primary key,
    beat    integer not null,
    seen_at integer not null
) strict;

create table token (
    name       text primary key,
    generation integer not null check (generation > 0),
    ciphertext blob not null,
    issued_at  integer not null,
    expires_at integer not null
) strict;

-- History is written once.
create trigger ledger_entry_is_not_updated before update on ledger_entry
begin select raise(abort, 'ledger_entry is append-only'); end;
create trigger ledger_entry_is_not_deleted before delete on ledger_entry
begin select raise(abort, 'ledger_entry is append-only'); end;
create trigger event_is_not_updated before update on event
begin select raise(abort, 'event is append-only'); end;
create trigger event_is_not_deleted before delete on event
begin select raise(abort, 'event is append-only'); end;
create trigger balanced_is_not_added_to before insert on balanced
begin select raise(abort, 'balanced holds zero alone'); end;
create trigger balanced_is_not_deleted before delete on balanced
begin select raise(abort, 'balanced holds zero alone'); end;

-- Promise 5: final never becomes another final.
create trigger final_stays_final before update of state on operation
when old.state in ('approved', 'declined', 'failed', 'reversed', 'cancelled') and new.state <> old.state
begin select raise(abort, 'a final operation stays as it is'); end;
