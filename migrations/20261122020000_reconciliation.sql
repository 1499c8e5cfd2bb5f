-- migrate:up

-- The name of this database, which goes with every payment that it makes: others may share the account.
CREATE TABLE shop (
    the_only boolean PRIMARY KEY DEFAULT true CHECK (the_only),
    id uuid NOT NULL DEFAULT gen_random_uuid()
);

INSERT INTO shop DEFAULT VALUES;

-- When the payment of a settled order was last found to be what the order says; forgotten with every change of state.
ALTER TABLE orders ADD COLUMN payment_checked_at timestamptz;

CREATE INDEX orders_unchecked ON orders (created_at)
    WHERE payment_intent_id IS NOT NULL AND payment_checked_at IS NULL
      AND status IN ('processing', 'shipped', 'delivered', 'rejected', 'failed', 'cancelled');

CREATE INDEX reservations_held ON reservations (order_id) WHERE state = 'held';

-- A refund may still fail days after it succeeded.
ALTER TABLE refunds ADD COLUMN checked_at timestamptz NOT NULL DEFAULT now();

CREATE INDEX refunds_followed ON refunds (checked_at) WHERE status IN ('pending', 'requires_action', 'succeeded');

-- What a person was told of last, so that a trouble that goes on is told once a day.
CREATE TABLE reminders (
    key text PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT now()
);

-- migrate:down

DROP TABLE reminders, shop;
ALTER TABLE refunds DROP COLUMN checked_at;
DROP INDEX reservations_held;
ALTER TABLE orders DROP COLUMN payment_checked_at;
