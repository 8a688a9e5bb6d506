-- The report, as tables: run it in a folder that to_parquet.py has filled.
-- Times are UTC. The bridge's clock, but start_date, which is the vendor's.

-- -- how far the data is complete, and whether any of it is missing

-- Nothing that was observed before observed_until is published after it: a report up to there is final.
CREATE OR REPLACE TABLE watermark AS
SELECT _partition, max(observed_until) AS until
FROM read_parquet('heartbeats/*.parquet')
GROUP BY _partition;
SET VARIABLE until = (SELECT min(until) FROM watermark);

-- Each number of a stream once: a broker without transactions (at_least_once) may hold a number twice after a crash, and
-- the later one holds.
CREATE OR REPLACE TABLE status AS
SELECT records.*
FROM read_parquet('agent-status/*.parquet', union_by_name = true) AS records -- older files lack last_status_change
JOIN watermark USING (_partition)
WHERE observed_at < until
QUALIFY row_number() OVER (PARTITION BY stream_id, sequence ORDER BY observed_at DESC, _offset DESC) = 1;

CREATE OR REPLACE TABLE queued AS
SELECT records.*
FROM read_parquet('queued-calls/*.parquet') AS records
JOIN watermark USING (_partition)
WHERE observed_at < until
QUALIFY row_number() OVER (PARTITION BY stream_id, sequence ORDER BY observed_at DESC, _offset DESC) = 1;

-- topic_sequence has no gaps: a row here is lost data. (What retention has deleted lies before the smallest number.)
CREATE OR REPLACE TABLE missing AS
SELECT topic, agent_id, stream_id, max(topic_sequence) - min(topic_sequence) + 1 - count(*) AS records
FROM (
    SELECT 'agent-status' AS topic, agent_id, stream_id, topic_sequence FROM status
    UNION ALL
    SELECT 'queued-calls', agent_id, stream_id, topic_sequence FROM queued
)
GROUP BY ALL
HAVING records > 0;

-- -- agents

-- What each agent was, from when to when. A status holds until the next record of the stream that says otherwise; what was
-- published before an AgentObservationLost holds until its `since`, and from there to the AgentObservationResumed
-- the agent is `unobserved`: its status is not known.
--
-- A change is seen with the next answer, up to a poll interval later. last_status_change says when it was, by the
-- vendor's clock: `difference` is that of the clocks, and how late the change was seen. Its least in a stream is nearly the
-- first alone, so what another one has beyond that is the second, `late`. It counts if it can be true: it is
-- shorter than the time after which there is an AgentObservationLost, and the status before began earlier. Otherwise a
-- status begins when it was seen.
CREATE OR REPLACE TABLE stays AS
WITH seen AS (
    SELECT
        *,
        CASE type WHEN 'AgentObservationLost' THEN since ELSE observed_at END AS shown,
        epoch_ms(observed_at) - last_status_change AS difference, -- in milliseconds, if the vendor's time is
        if(abs(difference) < 86400000, difference, NULL) AS behind, -- a clock that is a day off is none
        behind - min(behind) OVER (PARTITION BY stream_id) AS late
    FROM status
),
marks AS (
    SELECT
        agent_id, stream_id, sequence, _partition, status_desc,
        if(late <= 5000, shown - to_milliseconds(late), shown) AS mark,
        if(mark > lag(mark) OVER (PARTITION BY stream_id ORDER BY sequence), mark, shown) AS begins,
        CASE type
            WHEN 'AgentStatusChanged' THEN status_group
            WHEN 'AgentObservationResumed' THEN coalesce(status_group, 'logged out')
            WHEN 'AgentObservationLost' THEN 'unobserved'
            WHEN 'AgentSessionEnded' THEN 'logged out'
            WHEN 'AgentWatchStarted' THEN 'logged out'
            WHEN 'AgentWatchEnded' THEN 'not watched'
        END AS state
    FROM seen
    WHERE type IN (
        'AgentStatusChanged', 'AgentObservationResumed', 'AgentObservationLost', 'AgentSessionEnded',
        'AgentWatchStarted', 'AgentWatchEnded'
    )
)
SELECT
    agent_id, stream_id, state, status_desc, begins,
    coalesce(lead(begins) OVER (PARTITION BY stream_id ORDER BY sequence), until) AS ends
FROM marks
JOIN watermark USING (_partition)
QUALIFY state <> 'not watched' AND ends > begins;

CREATE OR REPLACE TABLE time_in_state AS
SELECT agent_id, state, sum(epoch(ends) - epoch(begins)) AS seconds, count(*) AS stays
FROM stays
GROUP BY agent_id, state;

-- Occupancy: the share of the time at work (available or with a caller) that was spent with callers.
CREATE OR REPLACE TABLE agents AS
SELECT
    agent_id,
    sum(seconds) FILTER (state NOT IN ('logged out', 'offline', 'unobserved')) AS staffed,
    sum(seconds) FILTER (state IN ('ringing', 'talking', 'hold', 'transfer', 'wrap_up')) AS handling,
    sum(seconds) FILTER (state = 'available') AS available,
    sum(seconds) FILTER (state = 'unobserved') AS unobserved,
    round(100 * coalesce(handling, 0) / nullif(coalesce(handling, 0) + coalesce(available, 0), 0), 1) AS occupancy
FROM time_in_state
GROUP BY agent_id;

-- -- calls

-- A waiting call is seen by each agent with its skills. This is each agent's last word on it. If the agent was not observed
-- just before the call left its view, the call left at some time since `left_after`.
CREATE OR REPLACE TABLE views AS
WITH resumed AS (
    SELECT stream_id, observed_at, min(since) AS since
    FROM status
    WHERE type = 'AgentObservationResumed'
    GROUP BY stream_id, observed_at
)
SELECT
    call_sid, queued.agent_id, list, change, reason, skills, call_type, start_date, queued.observed_at,
    min(queued.observed_at) OVER (PARTITION BY call_sid) AS first_seen,
    resumed.since AS left_after
FROM queued
LEFT JOIN resumed ON resumed.stream_id = queued.stream_id AND resumed.observed_at = queued.observed_at
WHERE list <> 'on_hold'
QUALIFY row_number() OVER (PARTITION BY call_sid, queued.agent_id, list ORDER BY queued.observed_at DESC, sequence DESC) = 1;

-- One row per call. It waits as long as it is in any agent's view. Only `gone` says that it left the queue: an agent who
-- logged out left it there.
CREATE OR REPLACE TABLE calls AS
SELECT
    call_sid,
    any_value(skills) AS skills,
    any_value(call_type) AS call_type,
    coalesce(min(start_date), min(first_seen)) AS started,
    count(DISTINCT agent_id) AS agents,
    CASE
        WHEN bool_or(change <> 'left') THEN 'waiting'
        WHEN bool_or(reason = 'gone' AND left_after IS NULL) THEN 'ended'
        WHEN bool_or(reason = 'gone') THEN 'ended unobserved'
        ELSE 'unknown'
    END AS state,
    CASE state
        WHEN 'waiting' THEN getvariable('until')
        WHEN 'ended' THEN max(observed_at) FILTER (reason = 'gone' AND left_after IS NULL)
        WHEN 'ended unobserved' THEN max(left_after)
        ELSE max(observed_at)
    END AS seen_until,
    CASE state WHEN 'ended unobserved' THEN max(observed_at) END AS ended_before,
    CASE WHEN state = 'ended' THEN epoch(seen_until) - epoch(started) END AS waited
FROM views
GROUP BY call_sid;

CREATE OR REPLACE TABLE waits AS
SELECT
    skill,
    count(*) AS calls,
    count(*) FILTER (state = 'waiting') AS waiting,
    count(*) FILTER (state NOT IN ('waiting', 'ended')) AS end_unobserved,
    round(avg(waited), 1) AS mean_wait,
    round(quantile_cont(waited, 0.5), 1) AS median_wait,
    round(quantile_cont(waited, 0.95), 1) AS p95_wait,
    round(max(waited), 1) AS longest_wait
FROM (SELECT unnest(skills) AS skill, * EXCLUDE (skills) FROM calls)
GROUP BY skill;

-- How many calls wait for a skill, from when to when.
CREATE OR REPLACE TABLE queue_length AS
WITH steps AS (
    SELECT unnest(skills) AS skill, started AS begins, 1 AS step FROM calls WHERE started < seen_until
    UNION ALL
    SELECT unnest(skills), seen_until, -1 FROM calls WHERE started < seen_until AND state <> 'waiting'
),
changes AS (SELECT skill, begins, sum(step) AS step FROM steps GROUP BY skill, begins)
SELECT
    skill, begins, sum(step) OVER (PARTITION BY skill ORDER BY begins) AS length,
    coalesce(lead(begins) OVER (PARTITION BY skill ORDER BY begins), getvariable('until')) AS ends
FROM changes;

CREATE OR REPLACE TABLE queues AS
SELECT
    waits.*,
    round(sum(length * (epoch(ends) - epoch(begins))) / sum(epoch(ends) - epoch(begins)), 2) AS mean_length,
    max(length)::INTEGER AS longest_queue
FROM waits
JOIN queue_length USING (skill)
GROUP BY ALL;
