-- migrate:up

-- Events that have taken effect, each kept in the transaction of its effect. Senders repeat an event for days, not for
-- weeks: rows of last month may be deleted.
CREATE TABLE webhook_events (
    source text CHECK (source IN ('stripe', 'fulfillment')),
    id text,
    type text NOT NULL,
    order_id text,  -- null: about nothing of ours
    received_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (source, id)
);

-- migrate:down

DROP TABLE webhook_events;
