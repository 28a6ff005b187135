-- How a customer's kept orders lie in time at each moment: the churn model's inputs, equal to `Activity::of`.
-- Windows reach back from the moment; a week is seven days counted back from it. Without a gap (one order), the mean and
-- the last gap are the tenure and the deviation is zero, so no value is ever null.
WITH spaced AS (
    SELECT
        *,
        lag(age) OVER (PARTITION BY as_of, user_id ORDER BY created_at, order_id) - age AS gap,
        row_number() OVER (PARTITION BY as_of, user_id ORDER BY created_at DESC, order_id DESC) AS newest
    FROM kept_orders
    WHERE user_id IS NOT NULL
),
sums AS (
    SELECT
        user_id,
        as_of,
        min(age) AS recency,
        max(age) AS tenure,
        count(*) AS orders_total,
        sum(CASE WHEN age <= 7 * 86400000000 THEN 1 ELSE 0 END) AS orders_7d,
        sum(CASE WHEN age <= 14 * 86400000000 THEN 1 ELSE 0 END) AS orders_14d,
        sum(CASE WHEN age <= 30 * 86400000000 THEN 1 ELSE 0 END) AS orders_30d,
        sum(CASE WHEN age <= 60 * 86400000000 THEN 1 ELSE 0 END) AS orders_60d,
        sum(CASE WHEN age <= 90 * 86400000000 THEN 1 ELSE 0 END) AS orders_90d,
        sum(total_amount) AS spend_total,
        sum(CASE WHEN age <= 30 * 86400000000 THEN total_amount ELSE 0 END) AS spend_30d,
        sum(CASE WHEN age <= 90 * 86400000000 THEN total_amount ELSE 0 END) AS spend_90d,
        CAST(sum(gap / 1000000) AS DOUBLE) AS gap_seconds,
        CAST(sum((gap / 1000000) * (gap / 1000000)) AS DOUBLE) AS gap_seconds_squared,
        CAST(count(gap) AS DOUBLE) AS gaps,
        sum(CASE WHEN newest = 1 THEN gap END) AS gap_last,
        count(DISTINCT age / (7 * 86400000000)) AS distinct_weeks
    FROM spaced
    GROUP BY user_id, as_of
),
days AS (
    SELECT
        *,
        CAST(recency AS DOUBLE) / 86400000000.0 AS recency_days,
        CAST(tenure AS DOUBLE) / 86400000000.0 AS tenure_days,
        CASE WHEN gaps > 0 THEN CAST(tenure - recency AS DOUBLE) / gaps / 86400000000.0
             ELSE CAST(tenure AS DOUBLE) / 86400000000.0 END AS gap_mean_days,
        CASE WHEN gaps > 0
             THEN sqrt(greatest(gap_seconds_squared / gaps - (gap_seconds / gaps) * (gap_seconds / gaps), 0.0)) / 86400.0
             ELSE 0.0 END AS gap_std_days,
        CAST(coalesce(gap_last, tenure) AS DOUBLE) / 86400000000.0 AS gap_last_days
    FROM sums
)
SELECT
    user_id,
    as_of AS event_time,
    recency_days,
    tenure_days,
    CAST(orders_total AS DOUBLE) AS orders_total,
    CAST(orders_7d AS DOUBLE) AS orders_7d,
    CAST(orders_14d AS DOUBLE) AS orders_14d,
    CAST(orders_30d AS DOUBLE) AS orders_30d,
    CAST(orders_60d AS DOUBLE) AS orders_60d,
    CAST(orders_90d AS DOUBLE) AS orders_90d,
    CAST(spend_total AS DOUBLE) AS spend_total,
    CAST(spend_30d AS DOUBLE) AS spend_30d,
    CAST(spend_90d AS DOUBLE) AS spend_90d,
    gap_mean_days,
    gap_std_days,
    gap_last_days,
    recency_days / greatest(gap_mean_days, 1.0) AS recency_over_gap,
    CAST(distinct_weeks AS DOUBLE) AS distinct_weeks
FROM days
