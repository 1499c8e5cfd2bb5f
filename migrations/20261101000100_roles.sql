-- migrate:up

-- Least privilege: grant one of these roles to each login role. The role that migrates owns the tables. It needs CREATEROLE
-- only if the roles do not exist yet.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'orders_app') THEN
        CREATE ROLE orders_app NOLOGIN;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'orders_readonly') THEN
        CREATE ROLE orders_readonly NOLOGIN;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'orders_catalogue') THEN
        CREATE ROLE orders_catalogue NOLOGIN;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'orders_privacy') THEN
        CREATE ROLE orders_privacy NOLOGIN;
    END IF;
END $$;

GRANT USAGE ON SCHEMA public TO orders_app, orders_readonly, orders_catalogue, orders_privacy;
GRANT SELECT ON
    shop, products, inventory, stock_alerts, order_transitions, orders, order_items, order_charges, reservations,
    reservation_totals, shipments, shipment_lines, shortages, shortage_lines, order_events, order_refunds,
    order_refund_lines, order_refund_charges, refunds, resolutions, spent_keys, payment_tries, payment_warnings, notifications, reminders, webhook_events,
    product_embeddings, embedding_index, schema_migrations
TO orders_app, orders_readonly;

-- What has happened cannot be changed or deleted.
GRANT INSERT ON
    order_events, order_items, order_charges, order_refund_lines, order_refund_charges, shipment_lines, shortages, shortage_lines,
    resolutions, payment_tries, webhook_events
TO orders_app;
GRANT INSERT, UPDATE ON
    orders, reservations, shipments, order_refunds, refunds, spent_keys, payment_warnings, notifications, reminders,
    stock_alerts,
    embedding_index
TO orders_app;
GRANT INSERT, UPDATE, DELETE ON product_embeddings TO orders_app;
GRANT UPDATE ON inventory TO orders_app;
GRANT UPDATE (settled_at) ON shortages TO orders_app;

-- Who keeps the catalogue sees no order and no customer.
GRANT SELECT ON schema_migrations TO orders_catalogue;
GRANT SELECT, INSERT, UPDATE ON products, inventory TO orders_catalogue;

-- Who answers requests for erasure finds the orders of a customer, and can change nothing but by the function.
GRANT SELECT ON orders, erasures, schema_migrations TO orders_privacy;
GRANT SELECT (order_id, status) ON order_refunds TO orders_privacy;
GRANT EXECUTE ON FUNCTION forget_orders TO orders_privacy;

-- migrate:down

-- The roles stay: another database of the cluster may use them.
REVOKE EXECUTE ON FUNCTION forget_orders FROM orders_privacy;
REVOKE ALL ON
    erasures, shop, products, inventory, stock_alerts, order_transitions, orders, order_items, order_charges, reservations,
    reservation_totals, shipments, shipment_lines, shortages, shortage_lines, order_events, order_refunds,
    order_refund_lines, order_refund_charges, refunds, resolutions, spent_keys, payment_tries, payment_warnings, notifications, reminders, webhook_events,
    product_embeddings, embedding_index, schema_migrations
FROM orders_app, orders_readonly, orders_catalogue, orders_privacy;
REVOKE USAGE ON SCHEMA public FROM orders_app, orders_readonly, orders_catalogue, orders_privacy;
