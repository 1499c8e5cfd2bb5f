-- migrate:up

-- Money is in minor units of the currency, e.g. 2999 usd is 29.99.

CREATE TABLE products (
    id text PRIMARY KEY,
    name text NOT NULL,
    description text NOT NULL DEFAULT '',
    price bigint NOT NULL CHECK (price > 0),
    currency text NOT NULL
);

CREATE TABLE inventory (
    product_id text PRIMARY KEY REFERENCES products,
    product_name text NOT NULL,
    quantity integer NOT NULL CHECK (quantity >= 0),
    reserved integer NOT NULL DEFAULT 0 CHECK (reserved >= 0),
    reorder_level integer NOT NULL DEFAULT 0 CHECK (reorder_level >= 0)
) WITH (fillfactor = 70);  -- a hot product's row is updated in place (HOT) as long as its page has room

CREATE TABLE order_transitions (
    from_status text NOT NULL,
    to_status text NOT NULL,
    PRIMARY KEY (from_status, to_status)
);

-- The whole life of an order; 'absent' is no row. order_events refers to it, and every change of state writes an event
-- in its own transaction: a change that is not listed here cannot be committed.
INSERT INTO order_transitions VALUES
    ('absent', 'pending'),
    ('absent', 'rejected'), ('absent', 'failed'), ('absent', 'cancelled'),
    ('pending', 'capturing'), ('capturing', 'processing'),
    ('processing', 'shipped'), ('shipped', 'delivered'),
    ('pending', 'undoing'), ('capturing', 'undoing'), ('undoing', 'capturing'),
    ('undoing', 'rejected'), ('undoing', 'failed'), ('undoing', 'cancelled'),
    ('processing', 'cancelling'), ('cancelling', 'cancelled'), ('cancelling', 'shipped');

CREATE TABLE orders (
    id text PRIMARY KEY CHECK (id ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$'),
    customer_id text NOT NULL,
    request_hash text NOT NULL,
    status text NOT NULL CHECK (status IN (
        'pending', 'capturing', 'processing', 'shipped', 'delivered', 'undoing', 'cancelling',
        'rejected', 'failed', 'cancelled')),
    total bigint NOT NULL DEFAULT 0 CHECK (total >= 0),  -- 0: closed before it was priced
    currency text NOT NULL,
    capture_mode text NOT NULL CHECK (capture_mode IN ('manual', 'automatic')),
    terms jsonb NOT NULL,
    payment_intent_id text UNIQUE,
    fulfillment_requested_at timestamptz,  -- written before the warehouse is asked: without it there is nothing to call off
    fulfillment_id text,
    closing text CHECK (closing IN ('rejected', 'failed', 'cancelled')),  -- what an undo will end in
    error_code text,
    error text,
    parked_step text,
    parked_reason text,
    parked_by text,  -- the workflow id of the run that waits for a person
    created_at timestamptz NOT NULL DEFAULT now(),
    placed_at timestamptz,  -- paid and sold: from here on the answer to its placing is success
    cancelled_at timestamptz,
    CHECK (payment_intent_id IS NULL OR total > 0),
    CHECK (status NOT IN ('capturing', 'processing', 'shipped', 'delivered', 'cancelling') OR payment_intent_id IS NOT NULL),
    CHECK (status <> 'undoing' OR closing IS NOT NULL),
    CHECK (parked_step IS NULL OR status IN ('undoing', 'cancelling')),
    CHECK ((status = 'cancelled') = (cancelled_at IS NOT NULL))
);

CREATE INDEX orders_customer ON orders (customer_id, created_at DESC);
CREATE INDEX orders_unfinished ON orders (created_at)
    WHERE status IN ('pending', 'capturing', 'undoing', 'cancelling');

CREATE TABLE order_items (
    order_id text REFERENCES orders,
    product_id text REFERENCES products,
    quantity integer NOT NULL CHECK (quantity > 0),
    price bigint NOT NULL CHECK (price > 0),
    PRIMARY KEY (order_id, product_id)
);

CREATE TABLE reservations (
    order_id text REFERENCES orders,
    product_id text REFERENCES inventory,
    quantity integer NOT NULL CHECK (quantity > 0),
    state text NOT NULL CHECK (state IN ('held', 'sold', 'released')),
    PRIMARY KEY (order_id, product_id)
);

CREATE TABLE refunds (
    id text PRIMARY KEY,
    order_id text NOT NULL REFERENCES orders,
    amount bigint NOT NULL CHECK (amount > 0),
    status text NOT NULL,
    attempt integer NOT NULL CHECK (attempt > 0),
    at timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX refunds_order ON refunds (order_id, attempt);

-- What became of each message about an order, once each.
CREATE TABLE notifications (
    order_id text REFERENCES orders,
    kind text,
    state text NOT NULL CHECK (state IN ('sent', 'dropped', 'given_up')),
    detail text NOT NULL DEFAULT '',
    at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (order_id, kind)
);

-- What operators said about stuck undos. A skip or a resolution holds for whoever drives the order afterwards; each retry
-- allows one more business attempt.
CREATE TABLE resolutions (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    order_id text NOT NULL REFERENCES orders,
    step text NOT NULL,
    action text NOT NULL CHECK (action IN ('retry', 'skip', 'resolved')),
    reason text NOT NULL,
    actor text NOT NULL,
    key text NOT NULL,  -- one resolution that is sent twice counts once
    at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (order_id, key)
);

CREATE INDEX resolutions_step ON resolutions (order_id, step);

CREATE TABLE order_events (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    order_id text NOT NULL,
    at timestamptz NOT NULL DEFAULT now(),
    from_status text,
    to_status text,  -- both null: something worth knowing that changed no state
    actor text NOT NULL,
    why text NOT NULL,
    FOREIGN KEY (from_status, to_status) REFERENCES order_transitions,
    CHECK ((from_status IS NULL) = (to_status IS NULL))
);

CREATE INDEX order_events_order ON order_events (order_id, id);

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME;
END $$;

CREATE TRIGGER order_events_append_only BEFORE UPDATE OR DELETE ON order_events
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- migrate:down

DROP TABLE order_events, resolutions, notifications, refunds, reservations, order_items, orders, order_transitions,
    inventory, products;
DROP FUNCTION refuse_change;
