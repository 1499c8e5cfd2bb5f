-- migrate:up

-- Payments that no order answers for are refunded too, under the order that they name. Each refund says which payment's it is.
ALTER TABLE refunds ADD COLUMN payment_intent_id text;
UPDATE refunds r SET payment_intent_id = o.payment_intent_id FROM orders o WHERE o.id = r.order_id;
ALTER TABLE refunds ALTER COLUMN payment_intent_id SET NOT NULL;
CREATE INDEX refunds_payment ON refunds (payment_intent_id);

-- migrate:down

DELETE FROM refunds r USING orders o WHERE o.id = r.order_id AND r.payment_intent_id IS DISTINCT FROM o.payment_intent_id;
ALTER TABLE refunds DROP COLUMN payment_intent_id;
