-- What has been seen stands in the row whose lock is the claim: it comes with the claim and is never older than it.

-- The last sequence of each source, as JSON.
ALTER TABLE progress ADD COLUMN seen TEXT NOT NULL DEFAULT '{}';
INSERT INTO progress (consumer, topic, partition, next_offset, seen)
    SELECT consumer, topic, partition, 0, json_object_agg(source, last_sequence)::text FROM seen GROUP BY consumer, topic, partition
    ON CONFLICT (consumer, topic, partition) DO UPDATE SET seen = excluded.seen;
DROP TABLE seen;

CREATE VIEW seen AS
    SELECT p.consumer, p.topic, p.partition, each.key AS source, each.value::bigint AS last_sequence
    FROM progress p CROSS JOIN LATERAL json_each_text(p.seen::json) AS each;
