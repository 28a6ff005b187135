-- Orders as they stood at each moment: placed by then, and neither cancelled nor returned as known then.
-- age: microseconds from the order to the moment.
SELECT
    m.as_of,
    o.order_id,
    o.user_id,
    o.created_at,
    coalesce(o.total_amount, 0) AS total_amount,
    CAST(m.as_of AS BIGINT) - CAST(o.created_at AS BIGINT) AS age
FROM orders o
CROSS JOIN moments m
WHERE o.created_at <= m.as_of
  AND (o.cancelled_at IS NULL OR o.cancelled_at > m.as_of)
  AND (o.returned_at IS NULL OR o.returned_at > m.as_of)
