-- migrate:up

ALTER TABLE inventory
    ADD COLUMN sold integer NOT NULL DEFAULT 0 CHECK (sold >= 0),  -- units that orders keep: what is popular
    ADD COLUMN shortage integer NOT NULL DEFAULT 0;  -- counts how often it has come back above its reorder level

UPDATE inventory i SET sold = s.units FROM (
    SELECT product_id, sum(quantity) AS units FROM reservations WHERE state = 'sold' GROUP BY product_id
) s WHERE s.product_id = i.product_id;

CREATE FUNCTION end_shortage() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.shortage := OLD.shortage + 1;
    RETURN NEW;
END $$;

-- Whoever moves the stock, and however short it was above its level: the next shortage is another one.
CREATE TRIGGER inventory_shortage BEFORE UPDATE ON inventory FOR EACH ROW
    WHEN (OLD.quantity <= OLD.reorder_level AND NEW.quantity > NEW.reorder_level)
    EXECUTE FUNCTION end_shortage();

-- What was told of each product's shortage. It refers to products, not to inventory, whose rows orders lock.
CREATE TABLE stock_alerts (
    product_id text PRIMARY KEY REFERENCES products ON DELETE CASCADE,
    shortage integer NOT NULL,  -- which one, by the inventory's count
    sent_at timestamptz,
    lease uuid,  -- the attempt that is alerts it just now; one that dies loses it
    leased_until timestamptz,
    CHECK ((lease IS NULL) = (leased_until IS NULL))
);

CREATE INDEX stock_alerts_lease ON stock_alerts (lease) WHERE lease IS NOT NULL;

CREATE EXTENSION IF NOT EXISTS vector;

-- A product has one embedding for each model and dimension: a new index is filled beside the one in use.
CREATE TABLE product_embeddings (
    product_id text REFERENCES products ON DELETE CASCADE,
    model text NOT NULL,
    dimensions integer NOT NULL CHECK (dimensions BETWEEN 1 AND 1536),
    content_hash text NOT NULL,  -- of the text that was embedded
    embedding vector(1536) NOT NULL,  -- shorter ones are filled up with zeros, which leaves every cosine as it is
    embedded_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (product_id, model, dimensions)
);

CREATE INDEX product_embeddings_nearest ON product_embeddings USING hnsw (embedding vector_cosine_ops);

-- Which embeddings are searched: those of the last model that embedded the whole catalogue.
CREATE TABLE embedding_index (
    the_only boolean PRIMARY KEY DEFAULT true CHECK (the_only),
    model text NOT NULL,
    dimensions integer NOT NULL,
    activated_at timestamptz NOT NULL DEFAULT now()
);

-- migrate:down

DROP TABLE embedding_index, product_embeddings, stock_alerts;
DROP TRIGGER inventory_shortage ON inventory;
DROP FUNCTION end_shortage;
ALTER TABLE inventory DROP COLUMN sold, DROP COLUMN shortage;
