-- migrate:up

-- Least privilege: give your login roles one of these two. Whoever migrates owns the tables, and needs CREATEROLE only
-- as long as the two do not exist.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'orders_app') THEN
        CREATE ROLE orders_app NOLOGIN;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'orders_readonly') THEN
        CREATE ROLE orders_readonly NOLOGIN;
    END IF;
END $$;

GRANT USAGE ON SCHEMA public TO orders_app, orders_readonly;
GRANT SELECT ON
    products, inventory, orders, order_items, order_events, order_transitions, reservations, refunds, notifications, resolutions,
    webhook_events, reminders, shop, stock_alerts, product_embeddings, embedding_index, schema_migrations
TO orders_app, orders_readonly;

-- What has happened is only ever added to.
GRANT INSERT ON order_events, order_items, resolutions, webhook_events TO orders_app;
GRANT INSERT, UPDATE ON orders, reservations, refunds, notifications, reminders, stock_alerts, embedding_index TO orders_app;
GRANT INSERT, UPDATE, DELETE ON product_embeddings TO orders_app;
GRANT UPDATE ON inventory TO orders_app;

-- migrate:down

-- The roles stay: another database of the cluster may use them.
REVOKE ALL ON
    products, inventory, orders, order_items, order_events, order_transitions, reservations, refunds, notifications, resolutions,
    webhook_events, reminders, shop, stock_alerts, product_embeddings, embedding_index, schema_migrations
FROM orders_app, orders_readonly;
REVOKE USAGE ON SCHEMA public FROM orders_app, orders_readonly;
