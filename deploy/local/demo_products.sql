-- For the demo: more products to recommend, two of them low on stock.
INSERT INTO products (id, name, price, currency, description) VALUES
    ('6', 'Oak desk organiser', 3299, 'usd', 'Four compartments and a drawer, oiled oak.'),
    ('7', 'Walnut monitor stand', 7900, 'usd', 'Oiled walnut, with room for a keyboard under it.'),
    ('8', 'Walnut pen tray', 1800, 'usd', 'One long compartment, oiled walnut.'),
    ('9', 'Leather desk mat', 4900, 'usd', 'Vegetable-tanned, 80 by 40 centimetres.'),
    ('10', 'Brass paper clips', 900, 'usd', 'Fifty, in a tin.'),
    ('11', 'Steel desk lamp', 6900, 'usd', 'Dimmable, cold and warm white.'),
    ('12', 'Dotted notebook refill', 700, 'usd', '96 dotted pages.'),
    ('13', 'Fountain pen', 5400, 'usd', 'Steel nib, medium.'),
    ('14', 'Bottle of blue ink', 1200, 'usd', '50 millilitres, washable.'),
    ('15', 'Cork board', 2600, 'usd', '60 by 40 centimetres, oak frame.'),
    ('16', 'Enamel mug', 1500, 'usd', 'Holds 350 millilitres.'),
    ('17', 'Wool seat cushion', 3900, 'usd', 'Felted, round.')
ON CONFLICT (id) DO NOTHING;

INSERT INTO inventory (product_id, product_name, quantity, reorder_level)
SELECT id, name, CASE id WHEN '10' THEN 4 WHEN '14' THEN 0 ELSE 40 END, 10
FROM products WHERE id IN (SELECT n::text FROM generate_series(6, 17) n)
ON CONFLICT (product_id) DO NOTHING;
