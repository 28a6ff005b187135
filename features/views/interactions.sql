-- What customers bought, as a recommender reads it: one row a kept order and product.
SELECT
    user_id,
    product_id AS item_id,
    created_at AS timestamp,
    CAST(quantity AS DOUBLE) AS weight,
    order_id AS basket_id
FROM kept_lines
WHERE user_id IS NOT NULL
  AND quantity > 0
