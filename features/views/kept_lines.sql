-- What kept orders hold: one row an order and product.
SELECT
    k.as_of,
    k.order_id,
    k.user_id,
    i.product_id,
    k.created_at,
    k.age,
    sum(coalesce(i.quantity, 0)) AS quantity,
    sum(coalesce(i.quantity, 0) * coalesce(i.price_per_unit, 0)) AS spend
FROM order_items i
JOIN kept_orders k ON k.order_id = i.order_id
WHERE i.product_id IS NOT NULL
GROUP BY k.as_of, k.order_id, k.user_id, i.product_id, k.created_at, k.age
