-- migrate:up

-- Money is in minor units of the currency, e.g. 2999 usd is 29.99.
--
-- Lists of statuses are repeated here from orders/models.py. tests/integration/gateways/test_schema.py compares them.

-- ------------------------------------------------------------------------------------------------------------ the shop

-- The id of this shop, which every payment carries that it creates: other shops may use the same Stripe account.
CREATE TABLE shop (
    the_only boolean PRIMARY KEY DEFAULT true CHECK (the_only),
    id uuid NOT NULL DEFAULT gen_random_uuid()
);

INSERT INTO shop DEFAULT VALUES;

-- ------------------------------------------------------------------------------------------------- catalogue and stock

CREATE TABLE products (
    id text PRIMARY KEY,
    name text NOT NULL,
    description text NOT NULL DEFAULT '',
    price bigint NOT NULL CHECK (price > 0),
    currency text NOT NULL CONSTRAINT products_currency_in_lower_case CHECK (currency ~ '^[a-z]{3}$')  -- as Stripe has it
);

CREATE TABLE inventory (
    product_id text PRIMARY KEY REFERENCES products,
    product_name text NOT NULL,
    quantity bigint NOT NULL CHECK (quantity >= 0),  -- units that can be ordered; no upper bound: stock must come back
    reserved bigint NOT NULL DEFAULT 0 CHECK (reserved >= 0),  -- units that unfinished orders hold
    reorder_level integer NOT NULL DEFAULT 0 CHECK (reorder_level >= 0),
    sold bigint NOT NULL DEFAULT 0 CHECK (sold >= 0),  -- units that orders keep: how popular the product is
    recoveries integer NOT NULL DEFAULT 0  -- counts how often the product came back above its reorder level
) WITH (fillfactor = 70);  -- the row of a popular product is updated in place (HOT) as long as its page has room

CREATE FUNCTION count_recovery() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.recoveries := OLD.recoveries + 1;
    RETURN NEW;
END $$;

-- In the database, so that it counts whatever moves the stock, and however short the product was above its level.
CREATE TRIGGER inventory_recovery BEFORE UPDATE ON inventory FOR EACH ROW
    WHEN (OLD.quantity <= OLD.reorder_level AND NEW.quantity > NEW.reorder_level)
    EXECUTE FUNCTION count_recovery();

-- The last alert about each product. It refers to products, not to inventory, whose rows orders lock.
CREATE TABLE stock_alerts (
    product_id text PRIMARY KEY REFERENCES products ON DELETE CASCADE,
    recoveries integer NOT NULL,  -- of inventory, when the alert was made: a product that recovered is alerted again
    sent_at timestamptz,
    lease uuid,  -- the attempt that posts the alert now; if it dies, the lease ends by itself
    leased_until timestamptz,
    CHECK ((lease IS NULL) = (leased_until IS NULL))
);

CREATE INDEX stock_alerts_lease ON stock_alerts (lease) WHERE lease IS NOT NULL;

-- -------------------------------------------------------------------------------------------------------------- orders

CREATE TABLE order_transitions (
    from_status text NOT NULL,
    to_status text NOT NULL,
    PRIMARY KEY (from_status, to_status)
);

-- The life of an order; 'absent' means that there is no row. Every change of status writes an event in its own
-- transaction, and order_events refers to this table: a transition that is not listed here cannot be committed.
INSERT INTO order_transitions VALUES
    ('absent', 'pending'),
    ('absent', 'rejected'), ('absent', 'failed'), ('absent', 'cancelled'),
    ('pending', 'capturing'), ('capturing', 'processing'),
    ('processing', 'shipping'), ('processing', 'shipped'), ('shipping', 'shipped'), ('shipped', 'delivered'),
    ('pending', 'undoing'), ('capturing', 'undoing'), ('undoing', 'capturing'),
    ('undoing', 'rejected'), ('undoing', 'failed'), ('undoing', 'cancelled'),
    ('processing', 'cancelling'), ('cancelling', 'cancelled'), ('cancelling', 'shipping'), ('cancelling', 'shipped');

CREATE TABLE orders (
    id text PRIMARY KEY CHECK (id ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$'),
    customer_id text NOT NULL,
    request_hash text NOT NULL,
    status text NOT NULL CHECK (status IN (
        'pending', 'capturing', 'processing', 'shipping', 'shipped', 'delivered', 'undoing', 'cancelling',
        'rejected', 'failed', 'cancelled')),
    total bigint NOT NULL DEFAULT 0 CHECK (total >= 0),  -- its items and charges; 0: free, or closed before it had a price
    currency text NOT NULL CONSTRAINT orders_currency_in_lower_case CHECK (currency ~ '^[a-z]{3}$'),
    capture_mode text NOT NULL CHECK (capture_mode IN ('manual', 'automatic')),
    terms jsonb NOT NULL,  -- what the order was promised when it was placed

    payment_intent_id text UNIQUE,
    payment_checked_at timestamptz,  -- when the payment of the settled order was last correct; null after each change of its status or its refunds
    fulfillment_requested_at timestamptz,  -- written before the warehouse is asked: without it there is nothing to cancel
    fulfillment_id text,
    shipment_checked_at timestamptz,  -- when the warehouse was last asked about the settled order, and agreed

    closing text CHECK (closing IN ('rejected', 'failed', 'cancelled')),  -- the status in which an undo will end
    error_code text,
    error text,
    parked_step text,
    parked_reason text,
    parked_by text,  -- the workflow id of the run that waits for an operator

    created_at timestamptz NOT NULL DEFAULT now(),
    placed_at timestamptz,  -- paid and sold: from here on process-order answers success
    cancelled_at timestamptz,

    CONSTRAINT orders_payment_has_total CHECK (payment_intent_id IS NULL OR total > 0),
    CONSTRAINT orders_with_payment CHECK (
        status NOT IN ('capturing', 'processing', 'shipping', 'shipped', 'delivered', 'cancelling')
        OR payment_intent_id IS NOT NULL OR total = 0),
    CONSTRAINT orders_undoing_has_closing CHECK (status <> 'undoing' OR closing IS NOT NULL),
    CONSTRAINT orders_being_undone CHECK (parked_step IS NULL OR status IN ('undoing', 'cancelling')),
    CONSTRAINT orders_cancelled_has_time CHECK ((status = 'cancelled') = (cancelled_at IS NOT NULL))
);

CREATE INDEX orders_customer ON orders (customer_id, created_at DESC);

CREATE INDEX orders_created ON orders (created_at DESC, id);

CREATE INDEX orders_unfinished ON orders (created_at)
    WHERE status IN ('pending', 'capturing', 'undoing', 'cancelling');

CREATE INDEX orders_unfinished_of_customer ON orders (customer_id)
    WHERE status IN ('pending', 'capturing', 'undoing', 'cancelling');

CREATE INDEX orders_unchecked ON orders (created_at)
    WHERE payment_intent_id IS NOT NULL AND payment_checked_at IS NULL
      AND status IN ('processing', 'shipping', 'shipped', 'delivered', 'rejected', 'failed', 'cancelled');

CREATE INDEX orders_placed ON orders (placed_at) WHERE status IN ('processing', 'shipping', 'shipped', 'delivered');

CREATE INDEX orders_requested ON orders (status, fulfillment_requested_at)
    WHERE status IN ('processing', 'shipping', 'rejected', 'failed', 'cancelled');

CREATE TABLE order_items (
    order_id text REFERENCES orders,
    product_id text REFERENCES products,
    quantity integer NOT NULL CHECK (quantity > 0),
    price bigint NOT NULL CHECK (price > 0),
    PRIMARY KEY (order_id, product_id)
);

-- What an order costs beside its items, in the order in which the customer reads it.
CREATE TABLE order_charges (
    order_id text REFERENCES orders,
    position smallint CHECK (position > 0),
    type text NOT NULL CHECK (type IN ('shipping', 'tax', 'discount', 'fee')),
    name text,
    amount bigint NOT NULL,
    PRIMARY KEY (order_id, position),
    CONSTRAINT order_charges_sign CHECK (CASE type WHEN 'discount' THEN amount <= 0 ELSE amount >= 0 END)
);

CREATE TABLE reservations (
    order_id text REFERENCES orders,
    product_id text REFERENCES inventory,
    quantity integer NOT NULL CHECK (quantity > 0),
    state text NOT NULL CHECK (state IN ('held', 'sold', 'released')),
    returned integer NOT NULL DEFAULT 0 CHECK (returned BETWEEN 0 AND quantity),  -- units that came back after the sale
    written_off integer NOT NULL DEFAULT 0 CHECK (written_off >= 0),  -- of a released one: units that are lost, and stay sold
    PRIMARY KEY (order_id, product_id),
    CONSTRAINT reservations_written_off CHECK (written_off <= quantity - returned AND (written_off = 0 OR state = 'released'))
);

CREATE INDEX reservations_held ON reservations (order_id) WHERE state = 'held';

-- The sums of the reservations, by which verify-orders checks the stock: reading all reservations takes longer every day.
CREATE TABLE reservation_totals (
    product_id text PRIMARY KEY,
    held bigint NOT NULL,
    sold bigint NOT NULL
) WITH (fillfactor = 70);

-- As the owner of the table: the program whose stock is checked cannot change the sums by itself.
CREATE FUNCTION count_reservation() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO reservation_totals AS t (product_id, held, sold)
    SELECT product_id,
           coalesce(sum(units) FILTER (WHERE state = 'held'), 0),
           coalesce(sum(CASE state WHEN 'sold' THEN units WHEN 'released' THEN written_off END), 0)
    FROM (VALUES (OLD.product_id, OLD.state, OLD.returned - OLD.quantity, -OLD.written_off),
                 (NEW.product_id, NEW.state, NEW.quantity - NEW.returned, NEW.written_off))
        AS change (product_id, state, units, written_off)
    WHERE product_id IS NOT NULL
    GROUP BY product_id
    ON CONFLICT (product_id) DO UPDATE SET held = t.held + excluded.held, sold = t.sold + excluded.sold;
    RETURN NULL;
END $$;

CREATE TRIGGER reservations_counted AFTER UPDATE OR DELETE ON reservations
    FOR EACH ROW EXECUTE FUNCTION count_reservation();

-- New ones come in batches, often of one product: its row is written once for all of them.
CREATE FUNCTION count_new_reservations() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO reservation_totals AS t (product_id, held, sold)
    SELECT product_id,
           coalesce(sum(quantity - returned) FILTER (WHERE state = 'held'), 0),
           coalesce(sum(CASE state WHEN 'sold' THEN quantity - returned WHEN 'released' THEN written_off END), 0)
    FROM arrived
    GROUP BY product_id
    ON CONFLICT (product_id) DO UPDATE SET held = t.held + excluded.held, sold = t.sold + excluded.sold;
    RETURN NULL;
END $$;

CREATE TRIGGER reservations_counted_together AFTER INSERT ON reservations REFERENCING NEW TABLE AS arrived
    FOR EACH STATEMENT EXECUTE FUNCTION count_new_reservations();

-- What has left the warehouse of an order, a row for each parcel, by the warehouse's id. One that has no lines is the whole
-- rest of the order: what no other parcel has.
CREATE TABLE shipments (
    order_id text REFERENCES orders,
    id text CHECK (id <> ''),
    carrier text,
    tracking text,
    tracking_url text,
    at timestamptz NOT NULL DEFAULT now(),  -- when the warehouse first told of it
    shipped_at timestamptz,  -- null: its lines do not count, because they are not known yet, or cannot be true
    delivered_at timestamptz,
    problem text,  -- what operators must know: the warehouse contradicts the order, or itself
    problem_at timestamptz,  -- since when
    PRIMARY KEY (order_id, id),
    CONSTRAINT shipments_problem CHECK ((problem IS NULL) = (problem_at IS NULL))
);

CREATE INDEX shipments_shipped ON shipments (shipped_at);
CREATE INDEX shipments_problems ON shipments (problem_at) WHERE problem IS NOT NULL;

CREATE TABLE shipment_lines (
    order_id text,
    shipment_id text,
    product_id text,
    quantity integer NOT NULL CHECK (quantity > 0),
    PRIMARY KEY (order_id, shipment_id, product_id),
    FOREIGN KEY (order_id, shipment_id) REFERENCES shipments,
    FOREIGN KEY (order_id, product_id) REFERENCES order_items
);

-- What the warehouse can never ship of an order. The refund `shorted-<number>` makes up for it.
CREATE TABLE shortages (
    order_id text REFERENCES orders,
    number integer CHECK (number > 0),
    restock boolean NOT NULL,  -- the warehouse has its units, and they are back in stock; else they are lost: SHORTED_STOCK
    at timestamptz NOT NULL DEFAULT now(),
    settled_at timestamptz NOT NULL DEFAULT 'infinity',  -- since when nothing is left to do about it
    PRIMARY KEY (order_id, number)
);

CREATE INDEX shortages_settled ON shortages (settled_at);

CREATE TABLE shortage_lines (
    order_id text,
    number integer,
    product_id text,
    quantity integer NOT NULL CHECK (quantity > 0),
    PRIMARY KEY (order_id, number, product_id),
    FOREIGN KEY (order_id, number) REFERENCES shortages,
    FOREIGN KEY (order_id, product_id) REFERENCES order_items
);

CREATE TABLE order_events (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    order_id text NOT NULL,
    at timestamptz NOT NULL DEFAULT now(),
    from_status text,
    to_status text,  -- both null: the event changed no status
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

-- Only forget_orders sets this, for its own transaction.
CREATE TRIGGER order_events_append_only BEFORE UPDATE OR DELETE ON order_events FOR EACH STATEMENT
    WHEN (current_setting('order_sagas.forgetting', true) IS DISTINCT FROM 'on') EXECUTE FUNCTION refuse_change();

-- ---------------------------------------------------------------------------------- refunds, resolutions and messages

-- What refund-order has claimed of an order, by the shop's own refund ids. A claim comes before the money: from then on no
-- other refund can have the same units, charges or money. A withdrawn one counts for nothing.
CREATE TABLE order_refunds (
    order_id text REFERENCES orders,
    refund_id text CHECK (refund_id ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$'),
    request_hash text NOT NULL,
    amount bigint NOT NULL CHECK (amount >= 0),  -- 0: only goods come back
    status text NOT NULL DEFAULT 'claimed' CHECK (status IN ('claimed', 'made', 'withdrawn')),
    refusal text,  -- why it was withdrawn
    reason text,  -- the caller's words
    restocked boolean NOT NULL DEFAULT false,  -- its units are back in stock, once and for all
    at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (order_id, refund_id),
    CONSTRAINT order_refunds_refusal CHECK ((status = 'withdrawn') = (refusal IS NOT NULL))
);

CREATE INDEX order_refunds_claimed ON order_refunds (at) WHERE status = 'claimed';

CREATE TABLE order_refund_lines (
    order_id text,
    refund_id text,
    product_id text,
    quantity integer NOT NULL CHECK (quantity > 0),
    restock integer NOT NULL CHECK (restock BETWEEN 0 AND quantity),  -- units of them that go back into stock
    PRIMARY KEY (order_id, refund_id, product_id),
    FOREIGN KEY (order_id, refund_id) REFERENCES order_refunds,
    FOREIGN KEY (order_id, product_id) REFERENCES order_items
);

CREATE TABLE order_refund_charges (
    order_id text,
    refund_id text,
    type text CHECK (type IN ('shipping', 'tax', 'fee')),
    amount bigint NOT NULL CHECK (amount > 0),
    PRIMARY KEY (order_id, refund_id, type),
    FOREIGN KEY (order_id, refund_id) REFERENCES order_refunds
);

-- What Stripe has refunded. Refunds of orphan payments too, each under the order that its payment names.
CREATE TABLE refunds (
    id text PRIMARY KEY,
    order_id text NOT NULL REFERENCES orders,
    payment_intent_id text NOT NULL,
    amount bigint NOT NULL CHECK (amount > 0),
    status text NOT NULL,
    attempt integer NOT NULL CHECK (attempt > 0),
    at timestamptz NOT NULL DEFAULT now(),
    made_at timestamptz NOT NULL DEFAULT now(),  -- by Stripe's clock
    checked_at timestamptz NOT NULL DEFAULT now(),  -- when Stripe was last asked: a refund may fail days after it succeeded
    refund_id text,  -- of the refund-order that made it; null: it is of an undo or a cancel, or was made by hand
    by_hand boolean NOT NULL DEFAULT false,  -- somebody made it in the dashboard
    CONSTRAINT refunds_by_hand CHECK (NOT by_hand OR refund_id IS NULL)
);

CREATE INDEX refunds_order ON refunds (order_id, attempt);
CREATE INDEX refunds_payment ON refunds (payment_intent_id);
CREATE INDEX refunds_status ON refunds (status);
CREATE INDEX refunds_at ON refunds (at);

-- What operators decided about parked steps. A skip or a resolved holds for every run that drives the order later; each
-- retry allows one more business attempt.
CREATE TABLE resolutions (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    order_id text NOT NULL REFERENCES orders,
    step text NOT NULL,
    action text NOT NULL CHECK (action IN ('retry', 'skip', 'resolved')),
    reason text NOT NULL,
    actor text NOT NULL,
    key text NOT NULL,  -- a resolution that is sent twice counts once
    at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (order_id, key)
);

CREATE INDEX resolutions_step ON resolutions (order_id, step);

-- Disputes, early fraud warnings and reviews of the payments of orders, by Stripe's ids.
CREATE TABLE payment_warnings (
    id text PRIMARY KEY,
    order_id text NOT NULL REFERENCES orders,
    kind text NOT NULL CHECK (kind IN ('dispute', 'fraud_warning', 'review')),
    status text NOT NULL,
    reason text NOT NULL,
    amount bigint NOT NULL CHECK (amount >= 0),  -- that is disputed; 0 for the other kinds
    at timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX payment_warnings_order ON payment_warnings (order_id);

-- How many idempotency keys of each call to Stripe are spent: an error is saved under them.
CREATE TABLE spent_keys (
    call text PRIMARY KEY,
    spent integer NOT NULL CHECK (spent > 0)
);

-- The payment methods that were tried after the order's own, which is number 1. A `pay` that is sent twice is one try.
CREATE TABLE payment_tries (
    order_id text REFERENCES orders,
    number integer CHECK (number > 1),
    key text NOT NULL,
    at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (order_id, number),
    UNIQUE (order_id, key)
);

-- The end of each message about an order. `about` is the part of the order that it tells of, such as a parcel; empty: all.
CREATE TABLE notifications (
    order_id text REFERENCES orders,
    kind text,
    state text NOT NULL CHECK (state IN ('sent', 'dropped', 'given_up')),
    detail text NOT NULL DEFAULT '',
    at timestamptz NOT NULL DEFAULT now(),
    about text DEFAULT '',  -- the refund or the parcel that the message is about, by its id; empty: it is about the order
    PRIMARY KEY (order_id, kind, about)
);

-- When personal data was erased, by whom, and of how many orders; not whose.
CREATE TABLE erasures (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    at timestamptz NOT NULL DEFAULT now(),
    actor text NOT NULL,
    orders integer NOT NULL CHECK (orders > 0)
);

-- Erases what is personal of those of the orders that are the customer's and over: who it was, and every text that may
-- quote something. Money, stock, states and times stay. Returns the ids of the orders.
--
-- As the owner of the tables: nobody else may change what has happened, and this changes nothing else.
CREATE FUNCTION forget_orders(customer text, ids text[], by_whom text) RETURNS text[]
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    erasure uuid;
    closed text[];
BEGIN
    SELECT coalesce(array_agg(id), '{}') INTO closed FROM (
        SELECT id FROM orders
        WHERE customer_id = customer AND id = ANY(ids)
          AND status IN ('shipped', 'delivered', 'rejected', 'failed', 'cancelled')
          AND NOT EXISTS (SELECT FROM order_refunds r WHERE r.order_id = orders.id AND r.status = 'claimed')
        ORDER BY id FOR UPDATE
    ) AS o;
    IF closed = '{}' THEN
        RETURN closed;
    END IF;
    INSERT INTO erasures (actor, orders) VALUES (by_whom, cardinality(closed)) RETURNING id INTO erasure;
    UPDATE orders SET customer_id = 'forgotten-' || erasure, error = '(erased)' || left(error, 0) WHERE id = ANY(closed);
    UPDATE order_charges SET name = '(erased)' WHERE order_id = ANY(closed) AND name IS NOT NULL;
    UPDATE order_refunds SET reason = '(erased)' WHERE order_id = ANY(closed) AND reason IS NOT NULL;
    UPDATE resolutions SET reason = '(erased)' WHERE order_id = ANY(closed);
    UPDATE notifications SET detail = '(erased)' WHERE order_id = ANY(closed) AND detail <> '';
    UPDATE shipments SET tracking = NULL, tracking_url = NULL WHERE order_id = ANY(closed);
    PERFORM set_config('order_sagas.forgetting', 'on', true);
    UPDATE order_events SET why = '(erased)' WHERE order_id = ANY(closed);
    PERFORM set_config('order_sagas.forgetting', 'off', true);
    INSERT INTO order_events (order_id, actor, why) SELECT unnest(closed), by_whom, 'personal data was erased';
    RETURN closed;
END $$;

REVOKE EXECUTE ON FUNCTION forget_orders FROM PUBLIC;

-- When operators were last alerted of each problem: a problem that lasts is reported once a day.
CREATE TABLE reminders (
    key text PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT now()
);

-- Events that have taken effect, each kept in the transaction of its effect. Senders repeat an event for days, but not for
-- weeks: rows of last month can be deleted.
CREATE TABLE webhook_events (
    source text CHECK (source IN ('stripe', 'fulfillment')),
    id text,
    type text NOT NULL,
    order_id text,  -- null: about none of our orders
    received_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (source, id)
);

-- ----------------------------------------------------------------------------------------------------- recommendations

CREATE EXTENSION IF NOT EXISTS vector;

-- One embedding of each product for each model and number of dimensions: a new index is filled beside the one in use.
CREATE TABLE product_embeddings (
    product_id text REFERENCES products ON DELETE CASCADE,
    model text NOT NULL,
    dimensions integer NOT NULL CHECK (dimensions BETWEEN 1 AND 1536),
    content_hash text NOT NULL,  -- of the text that was embedded
    embedding vector(1536) NOT NULL,  -- a shorter one is filled up with zeros, which do not change any cosine
    embedded_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (product_id, model, dimensions)
);

CREATE INDEX product_embeddings_nearest ON product_embeddings USING hnsw (embedding vector_cosine_ops);

-- The embeddings in use: those of the last model that embedded the whole catalogue.
CREATE TABLE embedding_index (
    the_only boolean PRIMARY KEY DEFAULT true CHECK (the_only),
    model text NOT NULL,
    dimensions integer NOT NULL,
    activated_at timestamptz NOT NULL DEFAULT now()
);

-- migrate:down

DROP TABLE erasures, embedding_index, product_embeddings, webhook_events, reminders, notifications, payment_tries, spent_keys,
    payment_warnings, resolutions, refunds, order_refund_lines, order_refund_charges, order_refunds, order_events,
    shortage_lines, shortages, shipment_lines, shipments, reservation_totals, reservations, order_charges, order_items,
    orders, order_transitions, stock_alerts, inventory, products, shop;
DROP FUNCTION forget_orders, refuse_change, count_recovery, count_reservation, count_new_reservations;
