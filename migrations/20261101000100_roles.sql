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
END $$;

GRANT USAGE ON SCHEMA public TO orders_app, orders_readonly, orders_catalogue;
GRANT SELECT ON
    shop, products, inventory, stock_alerts, order_transitions, orders, order_items, order_charges, reservations,
    reservation_totals, order_events, refunds, resolutions, spent_keys, payment_tries, payment_warnings, notifications,
    reminders, webhook_events, product_embeddings, embedding_index, schema_migrations
TO orders_app, orders_readonly;

-- What has happened cannot be changed or deleted.
GRANT INSERT ON order_events, order_items, order_charges, resolutions, payment_tries, webhook_events TO orders_app;
GRANT INSERT, UPDATE ON
    orders, reservations, refunds, spent_keys, payment_warnings, notifications, reminders, stock_alerts, embedding_index
TO orders_app;
GRANT INSERT, UPDATE, DELETE ON product_embeddings TO orders_app;
GRANT UPDATE ON inventory TO orders_app;

-- Who keeps the catalogue sees no order and no customer.
GRANT SELECT ON schema_migrations TO orders_catalogue;
GRANT SELECT, INSERT, UPDATE ON products, inventory TO orders_catalogue;

-- migrate:down

-- The roles stay: another database of the cluster may use them.
REVOKE ALL ON
    shop, products, inventory, stock_alerts, order_transitions, orders, order_items, order_charges, reservations,
    reservation_totals, order_events, refunds, resolutions, spent_keys, payment_tries, payment_warnings, notifications,
    reminders, webhook_events, product_embeddings, embedding_index, schema_migrations
FROM orders_app, orders_readonly, orders_catalogue;
REVOKE USAGE ON SCHEMA public FROM orders_app, orders_readonly, orders_catalogue;
