-- Activity at each moment and what came of it: label 1 = no order placed after the moment and up to label_at that was
-- still kept at label_at.
WITH returned AS (
    SELECT DISTINCT m.as_of, o.user_id
    FROM orders o
    CROSS JOIN moments m
    WHERE o.created_at > m.as_of
      AND o.created_at <= m.label_at
      AND (o.cancelled_at IS NULL OR o.cancelled_at > m.label_at)
      AND (o.returned_at IS NULL OR o.returned_at > m.label_at)
)
SELECT
    a.*,
    CASE WHEN r.user_id IS NULL THEN 1 ELSE 0 END AS label
FROM user_activity a
LEFT JOIN returned r ON r.user_id = a.user_id AND r.as_of = a.event_time
