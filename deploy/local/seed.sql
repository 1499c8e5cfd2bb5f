-- The first products of the local stack and of the tests. Product 1 is the one in the source document's test.
INSERT INTO products (id, name, price, currency, description) VALUES
    ('1', 'Walnut desk organiser', 2999, 'usd', 'Six compartments, oiled walnut.'),
    ('2', 'Brass desk lamp', 8900, 'usd', 'Dimmable, warm white.'),
    ('3', 'Linen notebook', 1450, 'usd', '192 dotted pages.'),
    ('4', 'Ceramic pen cup', 1900, 'usd', 'Glazed by hand.'),
    ('5', 'Last-of-its-kind globe', 45000, 'usd', 'One is left.')
ON CONFLICT (id) DO NOTHING;

INSERT INTO inventory (product_id, product_name, quantity, reorder_level)
SELECT id, name, CASE id WHEN '1' THEN 100 WHEN '5' THEN 1 ELSE 40 END, 10 FROM products
ON CONFLICT (product_id) DO NOTHING;
