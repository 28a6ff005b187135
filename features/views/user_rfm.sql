-- Recency, frequency and monetary value of each customer with a kept order, their quintile scores and a segment.
-- A score is the fifth that holds the value's mid-rank, so equal values score alike; 5 is best.
WITH customers AS (
    SELECT
        user_id,
        as_of,
        max(created_at) AS last_order_at,
        min(age) / 86400000000 AS recency_days,
        count(*) AS frequency,
        sum(total_amount) AS monetary
    FROM kept_orders
    WHERE user_id IS NOT NULL
    GROUP BY user_id, as_of
),
ranked AS (
    SELECT
        *,
        count(*) OVER (PARTITION BY as_of) AS customers,
        2 * (CAST(rank() OVER (PARTITION BY as_of ORDER BY recency_days DESC) AS BIGINT) - 1)
            + count(*) OVER (PARTITION BY as_of, recency_days) AS recency_rank,
        2 * (CAST(rank() OVER (PARTITION BY as_of ORDER BY frequency) AS BIGINT) - 1)
            + count(*) OVER (PARTITION BY as_of, frequency) AS frequency_rank,
        2 * (CAST(rank() OVER (PARTITION BY as_of ORDER BY monetary) AS BIGINT) - 1)
            + count(*) OVER (PARTITION BY as_of, monetary) AS monetary_rank
    FROM customers
),
scored AS (
    SELECT
        user_id,
        as_of,
        last_order_at,
        recency_days,
        frequency,
        monetary,
        1 + 5 * recency_rank / (2 * customers) AS recency_score,
        1 + 5 * frequency_rank / (2 * customers) AS frequency_score,
        1 + 5 * monetary_rank / (2 * customers) AS monetary_score
    FROM ranked
)
SELECT
    user_id,
    as_of AS event_time,
    last_order_at,
    recency_days,
    frequency,
    monetary,
    recency_score,
    frequency_score,
    monetary_score,
    CASE
        WHEN recency_score >= 4 AND frequency_score >= 4 THEN 'champions'
        WHEN recency_score = 3 AND frequency_score >= 4 THEN 'loyal'
        WHEN recency_score >= 4 AND frequency_score >= 2 THEN 'potential_loyal'
        WHEN recency_score = 5 THEN 'new'
        WHEN recency_score = 4 THEN 'promising'
        WHEN recency_score = 3 AND frequency_score = 3 THEN 'needs_attention'
        WHEN recency_score = 3 THEN 'about_to_sleep'
        WHEN frequency_score = 5 THEN 'cannot_lose'
        WHEN frequency_score >= 3 THEN 'at_risk'
        WHEN recency_score = 2 THEN 'hibernating'
        ELSE 'lost'
    END AS segment
FROM scored
