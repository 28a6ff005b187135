-- What each customer did with each product. interaction_score: a purchase counts 1, a cart 0.3, a view 0.1, each halved
-- every 30 days and rounded to six places before it is summed, so that the order of summation changes nothing.
WITH touches AS (
    SELECT user_id, product_id, as_of, created_at AS touched_at, age, order_id, quantity, spend,
           0 AS views, 0 AS carts, 1.0 AS weight
    FROM kept_lines
    WHERE user_id IS NOT NULL
    UNION ALL
    SELECT e.user_id, e.product_id, m.as_of, e.event_time, CAST(m.as_of AS BIGINT) - CAST(e.event_time AS BIGINT),
           NULL, 0, 0,
           CASE WHEN e.event_type = 'view' THEN 1 ELSE 0 END,
           CASE WHEN e.event_type = 'cart' THEN 1 ELSE 0 END,
           CASE WHEN e.event_type = 'view' THEN 0.1 ELSE 0.3 END
    FROM events e
    CROSS JOIN moments m
    WHERE e.event_time <= m.as_of
      AND e.event_type IN ('view', 'cart')
      AND e.user_id IS NOT NULL
      AND e.product_id IS NOT NULL
)
SELECT
    user_id,
    product_id,
    as_of AS event_time,
    sum(quantity) AS quantity,
    count(order_id) AS purchases,
    sum(spend) AS spend,
    sum(views) AS views,
    sum(carts) AS carts,
    min(touched_at) AS first_at,
    max(touched_at) AS last_at,
    sum(CAST(weight * power(2.0, -age / (30 * 86400000000.0)) AS DECIMAL(18, 6))) AS interaction_score
FROM touches
GROUP BY user_id, product_id, as_of
