-- How often each product was bought, in all and lately. purchase_count: kept orders that hold it; avg_price: spend a unit.
-- trend: purchases of the last 30 days against half of those of the 60 days before, each plus one; above 1 it rises.
WITH counts AS (
    SELECT
        product_id,
        as_of,
        count(*) AS purchase_count,
        count(DISTINCT user_id) AS customers,
        sum(quantity) AS quantity,
        sum(spend) AS revenue,
        sum(CASE WHEN age <= 7 * 86400000000 THEN 1 ELSE 0 END) AS purchases_7d,
        sum(CASE WHEN age <= 30 * 86400000000 THEN 1 ELSE 0 END) AS purchases_30d,
        sum(CASE WHEN age <= 90 * 86400000000 THEN 1 ELSE 0 END) AS purchases_90d,
        max(created_at) AS last_purchased_at
    FROM kept_lines
    GROUP BY product_id, as_of
)
SELECT
    product_id,
    as_of AS event_time,
    purchase_count,
    customers,
    quantity,
    revenue,
    CASE WHEN quantity > 0 THEN CAST(revenue / quantity AS DECIMAL(18, 4)) END AS avg_price,
    purchases_7d,
    purchases_30d,
    purchases_90d,
    CAST(purchases_30d + 1 AS DOUBLE) / (CAST(purchases_90d - purchases_30d AS DOUBLE) / 2 + 1) AS trend,
    last_purchased_at
FROM counts
