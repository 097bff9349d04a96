-- The ledger: operations, payments, double entry, events, replicas, tokens.
--
-- Enumerations are text with checks: readable in psql, and widened by one statement. Names and keys are compared by
-- byte (collate "C"): the order in which rows are locked must not depend on a locale, and it is faster.
--
-- No foreign keys. A payment, its operation and their entries are written by one statement that takes each id from the
-- row before it, nothing is ever deleted on its own, and each key check would lock the parent row once more.

-- What operations add up to. The totals hold whatever the code does: promise 6.
create table payment (
    id               uuid primary key,
    account          text collate "C" not null,
    -- Where it began: its follow-ups go there whatever the configuration says later.
    endpoint         text not null,
    currency         text collate "C" not null check (length(currency) = 3),
    -- What the create asked for, in minor units, as is every amount here.
    amount           bigint not null check (amount >= 0),
    status           text collate "C" not null check (status in (
                         'pending', 'authorized', 'captured', 'partially_refunded', 'refunded', 'voided', 'declined',
                         'failed', 'reversed', 'cancelled', 'unknown')),
    authorized       bigint not null default 0 check (authorized >= 0),
    captured         bigint not null default 0 check (captured >= 0),
    refunded         bigint not null default 0 check (refunded >= 0),
    voided           boolean not null default false,
    -- Kept from others by operations that are open.
    capture_reserved bigint not null default 0 check (capture_reserved >= 0),
    refund_reserved  bigint not null default 0 check (refund_reserved >= 0),
    -- The one operation that has the payment for itself.
    busy_with        uuid,
    -- Raised by every write: what was read before is valid for one version only.
    version          bigint not null default 1,
    order_reference  text collate "C",
    upstream_ids     jsonb not null default '{}',
    -- The reference and the operation of its create.
    reference        text collate "C" not null,
    opened_by        uuid not null,
    -- Token, brand, last four, expiry: never a number.
    card             json,
    created_at       timestamptz not null default now(),
    constraint captures_within_authorization check (captured + capture_reserved <= authorized),
    constraint refunds_within_captures check (refunded + refund_reserved <= captured)
) with (fillfactor = 45); -- Room for the second version of each row beside the first (HOT): totals are in no index.

-- Lists of one account, newest first, by keyset.
create index payment_by_account on payment (account, created_at, id);
-- Lists by order, and once_per_order.
create index payment_by_order on payment (account, order_reference) where order_reference is not null;

-- The caller's own notes. Apart, because they are rare, long and erasable.
create table payment_metadata (
    payment  uuid primary key,
    metadata text not null
);

-- One row per (client, key). The row of a tombstone (cancelled before it was seen) has attempt 0: it knows neither verb
-- nor amount.
create table operation (
    id                  uuid primary key,
    client              text collate "C" not null,
    key                 text collate "C" not null,
    verb                text collate "C" not null check (verb in (
                            'sale', 'authorize', 'capture', 'void', 'refund', 'verify', 'reversal')),
    payment             uuid,
    account             text collate "C" not null,
    endpoint            text not null,
    amount              bigint not null check (amount >= 0),
    currency            text collate "C" not null check (length(currency) = 3),
    state               text collate "C" not null check (state in (
                            'recorded', 'not_sent', 'approved', 'declined', 'failed', 'reversed', 'cancelled',
                            'unknown', 'parked')),
    -- The state with what it needs: approval, decline, reason.
    detail              json not null,
    attempt             integer not null,
    sends               integer not null,
    -- Raised by adoption, deadline, cancellation and the start of a reversal: who settles names the one it read.
    epoch               bigint not null,
    -- New for each claim of the key: tells a repeated batch from another attempt.
    claim               uuid not null,
    -- What the upstream finds it by.
    reference           text collate "C" not null,
    -- Version, id of the HMAC key, HMAC.
    fingerprint         bytea not null,
    order_reference     text collate "C",
    statement_descriptor text,
    owner               uuid not null,
    -- What it holds of its payment, as in payment.capture_reserved and refund_reserved.
    capture_reserved    bigint not null default 0 check (capture_reserved >= 0),
    refund_reserved     bigint not null default 0 check (refund_reserved >= 0),
    holds_while_unknown boolean not null,
    first_attempt_at    timestamptz not null,
    recorded_at         timestamptz not null,
    send_by             timestamptz not null,
    deadline            timestamptz not null,
    -- Microseconds from the last send until a late arrival is impossible, and the instant that makes.
    late_arrival_horizon bigint not null check (late_arrival_horizon >= 0),
    late_after          timestamptz not null,
    -- When somebody must look at it: the deadline while recorded, else the next check.
    due_at              timestamptz,
    checks              integer not null default 0,
    settled_at          timestamptz,
    cancel_requested_at timestamptz,
    prepared            json,
    reverses            uuid,
    reversal_form       json,
    -- The payment as the final settlement left it, at settled_at.
    snapshot_status     text collate "C",
    snapshot_authorized bigint,
    snapshot_captured   bigint,
    snapshot_refunded   bigint,
    -- What a former owner learned too late.
    late                json,
    -- Promise 4: what is open has a next check. A reversal is driven by what it reverses.
    constraint open_is_due check (
        due_at is not null or state not in ('recorded', 'unknown', 'parked') or verb = 'reversal'),
    constraint final_is_settled check (
        (settled_at is not null) = (state in ('approved', 'declined', 'failed', 'reversed', 'cancelled')))
) with (fillfactor = 35); -- Nearly every row is settled once, and grows by it; no column that changes then is indexed.

-- Promise 1: one (client, key) is one operation. This index decides every race.
create unique index operation_by_key on operation (client, key);
create unique index operation_by_reference on operation (reference);
-- One reversal per operation.
create unique index operation_by_reversed on operation (reverses) where reverses is not null;
-- Follow-ups and reversals of a payment. Its create is named by the payment itself, so that a sale does not pay for this.
create index operation_by_payment on operation (payment)
    where payment is not null and verb not in ('sale', 'authorize');

-- Due work, adoption and money at risk: one row for each operation with a due_at, and no other. It is what an index on
-- operation (owner, due_at) where due_at is not null would be. But every payment enters and leaves that set within
-- seconds: the index would keep each of them until the whole of `operation` is vacuumed, and be walked through by every
-- look for due work; and no update that clears due_at could stay within its page (HOT). This table is small, vacuumed
-- by itself, and free to be so. Rows are written with the operation's, under its lock; one that differs from its
-- operation is void.
create table due (
    operation uuid not null,
    owner     uuid not null,
    due_at    timestamptz not null
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0,
    autovacuum_vacuum_insert_threshold = -1);
create index due_by_owner on due (owner, due_at, operation);

-- Double entry. A debit is positive, a credit negative, so that "balanced" is "the sum is zero".
create table ledger_entry (
    operation      uuid not null,
    line           smallint not null,
    payment        uuid,
    account        text collate "C" not null,
    ledger_account text collate "C" not null check (ledger_account in (
                       'receivable', 'sales', 'holds_taken', 'holds_given')),
    currency       text collate "C" not null,
    minor          bigint not null check (minor <> 0),
    at             timestamptz not null default now(),
    -- Also the backstop against settling one operation twice.
    primary key (operation, line)
);

-- Each transition, check and late answer with its reason.
create table event (
    id             bigint generated always as identity,
    -- The feed is ordered by (transaction, id) and read below the oldest transaction that still runs.
    transaction    xid8 not null default pg_current_xact_id(),
    at             timestamptz not null default now(),
    kind           text collate "C" not null check (kind in (
                       'transition', 'checked', 'late_answer', 'cancel_requested', 'adopted', 'send')),
    operation      uuid not null,
    payment        uuid,
    account        text collate "C" not null,
    verb           text collate "C" not null,
    from_state     text collate "C",
    to_state       text collate "C",
    payment_status text collate "C",
    reason         text not null,
    evidence       json not null,
    primary key (operation, id)
);
create index event_feed on event (transaction, id) where kind = 'transition';

-- Heartbeats. Each start of a process has a row of its own.
create table replica (
    id      uuid primary key,
    beat    bigint not null,
    seen_at timestamptz not null
) with (fillfactor = 50);

-- Upstream tokens, encrypted.
create table token (
    name       text collate "C" primary key,
    generation bigint not null check (generation > 0),
    ciphertext bytea not null,
    issued_at  timestamptz not null,
    expires_at timestamptz not null
);

-- History is written once.
create function refuse_change() returns trigger language plpgsql as $$
begin
    raise exception '% is append-only', tg_table_name using errcode = 'restrict_violation';
end $$;

create trigger append_only before update or delete or truncate on ledger_entry
    for each statement execute function refuse_change();
create trigger append_only before update or delete or truncate on event
    for each statement execute function refuse_change();

-- Debits equal credits, for each operation and currency in each statement. Once per statement: a deferred trigger per
-- row costs several times as much, and no statement of ours writes half of an operation's entries.
create function refuse_imbalance() returns trigger language plpgsql as $$
begin
    if exists (select from added group by operation, currency having sum(minor) <> 0) then
        raise exception 'debits and credits differ'
            using errcode = 'check_violation', constraint = 'debits_equal_credits', table = 'ledger_entry';
    end if;
    return null;
end $$;

create trigger debits_equal_credits after insert on ledger_entry
    referencing new table as added for each statement execute function refuse_imbalance();

-- Promise 5: final never becomes another final. The condition is evaluated without calling the function.
create function refuse_second_end() returns trigger language plpgsql as $$
begin
    raise exception 'operation % is final', old.id
        using errcode = 'check_violation', constraint = 'final_stays_final', table = 'operation';
end $$;

create trigger final_stays_final after update of state on operation for each row
    when (old.state in ('approved', 'declined', 'failed', 'reversed', 'cancelled') and new.state <> old.state)
    execute function refuse_second_end();
