-- The report in Flink SQL, over the topics themselves: what they hold now, in batch mode. For Flink's SQL client with
-- flink-sql-connector-kafka:  sql-client.sh -f report.flink.sql
-- The broker's address is in the options of the first table, the topics' prefix in those of the others. report.sql explains
-- the steps, which are the same.

SET 'execution.runtime-mode' = 'batch';
SET 'sql-client.execution.result-mode' = 'tableau';
SET 'table.local-time-zone' = 'UTC';

-- What the tables of all topics have in common.
CREATE TEMPORARY TABLE topics (
    kafka_partition INT METADATA FROM 'partition' VIRTUAL
) WITH (
    'connector' = 'kafka',
    'properties.bootstrap.servers' = 'localhost:9092',
    'properties.isolation.level' = 'read_committed',
    'scan.startup.mode' = 'earliest-offset',
    'scan.bounded.mode' = 'latest-offset',
    'format' = 'json',
    'json.timestamp-format.standard' = 'ISO-8601'
);

CREATE TEMPORARY TABLE agent_status (
    `type` STRING,
    agent_id STRING,
    stream_id STRING,
    `sequence` BIGINT,
    observed_at TIMESTAMP_LTZ(6),
    status_group STRING,
    last_status_change BIGINT,
    `since` TIMESTAMP_LTZ(6)
) WITH ('topic' = 'asm.agent-status') LIKE topics;

CREATE TEMPORARY TABLE queued_calls (
    agent_id STRING,
    stream_id STRING,
    `sequence` BIGINT,
    observed_at TIMESTAMP_LTZ(6),
    `change` STRING,
    `list` STRING,
    call_sid STRING,
    reason STRING,
    start_date TIMESTAMP_LTZ(6),
    skills ARRAY<STRING>
) WITH ('topic' = 'asm.queued-calls') LIKE topics;

CREATE TEMPORARY TABLE heartbeats (
    `partition` INT,
    observed_until TIMESTAMP_LTZ(6)
) WITH ('topic' = 'asm.heartbeats') LIKE topics;

CREATE TEMPORARY VIEW watermark_of AS
SELECT `partition`, CAST(MAX(observed_until) AS TIMESTAMP(6)) AS complete_until
FROM heartbeats
GROUP BY `partition`;

-- In milliseconds since 1970: TIMESTAMPDIFF counts whole seconds.
CREATE TEMPORARY VIEW shown AS
SELECT
    agent_id,
    stream_id,
    `sequence`,
    `type`,
    status_group,
    last_status_change,
    CAST(TIMESTAMPDIFF(SECOND, TIMESTAMP '1970-01-01 00:00:00', shown_at) AS BIGINT) * 1000
        + EXTRACT(MILLISECOND FROM shown_at) AS shown_ms,
    CAST(TIMESTAMPDIFF(SECOND, TIMESTAMP '1970-01-01 00:00:00', complete_until) AS BIGINT) * 1000
        + EXTRACT(MILLISECOND FROM complete_until) AS complete_ms
FROM (
    SELECT
        *, CAST(CASE `type` WHEN 'AgentObservationLost' THEN `since` ELSE observed_at END AS TIMESTAMP(6)) AS shown_at
    FROM agent_status
    JOIN watermark_of ON kafka_partition = `partition`
    WHERE observed_at < complete_until
);

CREATE TEMPORARY VIEW behind AS
SELECT
    *, CASE WHEN ABS(shown_ms - last_status_change) < 86400000 THEN shown_ms - last_status_change END AS behind_ms
FROM shown;

CREATE TEMPORARY VIEW late AS
SELECT *, behind_ms - MIN(behind_ms) OVER (PARTITION BY stream_id) AS late_ms
FROM behind;

CREATE TEMPORARY VIEW marks AS
SELECT
    agent_id,
    stream_id,
    `sequence`,
    complete_ms,
    shown_ms,
    CASE WHEN late_ms <= 5000 THEN shown_ms - late_ms ELSE shown_ms END AS mark_ms,
    CASE `type`
        WHEN 'AgentStatusChanged' THEN status_group
        WHEN 'AgentObservationResumed' THEN COALESCE(status_group, 'logged out')
        WHEN 'AgentObservationLost' THEN 'unobserved'
        WHEN 'AgentSessionEnded' THEN 'logged out'
        WHEN 'AgentWatchStarted' THEN 'logged out'
        ELSE 'not watched'
    END AS state
FROM late
WHERE `type` IN (
    'AgentStatusChanged', 'AgentObservationResumed', 'AgentObservationLost', 'AgentSessionEnded', 'AgentWatchStarted',
    'AgentWatchEnded'
);

CREATE TEMPORARY VIEW beginnings AS
SELECT
    *,
    CASE
        WHEN mark_ms > LAG(mark_ms) OVER (PARTITION BY stream_id ORDER BY `sequence`) THEN mark_ms
        ELSE shown_ms
    END AS begins_ms
FROM marks;

CREATE TEMPORARY VIEW stays AS
SELECT
    agent_id,
    state,
    begins_ms,
    COALESCE(LEAD(begins_ms) OVER (PARTITION BY stream_id ORDER BY `sequence`), complete_ms) AS ends_ms
FROM beginnings;

-- Seconds in each state, per agent.
SELECT agent_id, state, ROUND(SUM(ends_ms - begins_ms) / 1000.0, 1) AS seconds
FROM stays
WHERE state <> 'not watched' AND ends_ms > begins_ms
GROUP BY agent_id, state
ORDER BY agent_id, state;

CREATE TEMPORARY VIEW resumed AS
SELECT stream_id, observed_at, MIN(`since`) AS left_after
FROM agent_status
WHERE `type` = 'AgentObservationResumed'
GROUP BY stream_id, observed_at;

CREATE TEMPORARY VIEW call_views AS
SELECT *
FROM (
    SELECT
        q.call_sid, q.agent_id, q.`change`, q.reason, q.skills, q.start_date, q.observed_at, r.left_after,
        ROW_NUMBER() OVER (
            PARTITION BY q.call_sid, q.agent_id, q.`list` ORDER BY q.observed_at DESC, q.`sequence` DESC
        ) AS newest
    FROM queued_calls AS q
    JOIN watermark_of AS w ON q.kafka_partition = w.`partition`
    LEFT JOIN resumed AS r ON r.stream_id = q.stream_id AND r.observed_at = q.observed_at
    WHERE q.`list` <> 'on_hold' AND q.observed_at < w.complete_until
)
WHERE newest = 1;

CREATE TEMPORARY VIEW calls AS
SELECT
    call_sid,
    MIN(start_date) AS started,
    MAX(observed_at) FILTER (WHERE reason = 'gone' AND left_after IS NULL) AS ended,
    COUNT(*) FILTER (WHERE `change` <> 'left') AS still_seen_by
FROM call_views
GROUP BY call_sid;

CREATE TEMPORARY VIEW skills_of AS
SELECT DISTINCT call_sid, skill
FROM call_views
CROSS JOIN UNNEST(skills) AS wanted (skill);

-- Calls and waits in seconds, by skill.
SELECT
    skill,
    COUNT(*) AS calls,
    COUNT(*) FILTER (WHERE still_seen_by > 0) AS waiting,
    COUNT(*) FILTER (WHERE still_seen_by = 0 AND ended IS NULL) AS end_unobserved,
    AVG(CAST(TIMESTAMPDIFF(SECOND, started, ended) AS DOUBLE)) FILTER (WHERE still_seen_by = 0) AS mean_wait,
    MAX(TIMESTAMPDIFF(SECOND, started, ended)) FILTER (WHERE still_seen_by = 0) AS longest_wait
FROM calls
JOIN skills_of USING (call_sid)
GROUP BY skill
ORDER BY skill;
