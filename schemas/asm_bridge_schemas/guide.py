"""What the readers of all topics must know: the introduction of the AsyncAPI document, in Markdown."""

from asm_bridge_schemas.topics import PARTITIONS, RETENTION_DAYS

GUIDE = f"""\
Records that asm-kafka-bridge publishes to Apache Kafka, and those that it accepts. It polls the *vendor's* service, a
contact-centre platform, for each agent, by default once per second (the agent's *interval*), and publishes every
change.

The document is written from the bridge's side: it *sends* what you read, and *receives* what you write (`asm.inject`,
`asm.sessions`). The operator can change each *setting*; the values given are the defaults.

## Topics

- Their names begin with a prefix (setting `topics.prefix`), here `asm.`.
- Each has {PARTITIONS} partitions (setting `topics.partitions`; take the number from Kafka's metadata), which never
  changes; only `asm.sessions` has one. All records about one agent are in the same partition of each of the other
  topics: `(murmur2(key) & 0x7fffffff) % partitions`, as with Java's default partitioner (but not with librdkafka's or
  Sarama's): with {PARTITIONS} partitions, `agent-0` is in 3, `agent-7` in 2.
- The description of each channel says what its keys and Kafka's timestamps are, and how long it keeps records.

## Reading

- **Read with `isolation.level=read_committed`**, which is not Kafka's default: the bridge writes in transactions, and
  a reader without it sees records of transactions that were aborted. With it you see each record exactly once.
- Transactions take offsets of their own, and so do records that were aborted: a partition's offsets have gaps, and its
  last record may be before its end. You have read up to an offset when your *position*, the next offset that you would
  fetch, has reached it.
- A value is JSON in UTF-8, or MessagePack with the same fields if the header `content-type` says so (setting
  `records.encoding`). If a Schema Registry is used (setting `schema_registry.url`), five bytes precede it: 0, and the
  schema's id (Confluent's wire format), except in `asm.dead-letters`.
- Headers are CloudEvents 1.0 in Kafka's binary mode; their values are UTF-8. `ce_type` and the value's `type` both name
  the record.
- Batches are compressed with gzip (setting `kafka.compression`), which every Kafka client reads as installed.
- Every field in `required` is always written; null says that there is nothing. Ignore fields, types and topics that you
  do not know, and expect other values in open lists (`anyOf` of known names and any text): later releases add some.
- Identifiers (`..._sid`) are strings of digits, because they exceed 2^53. Other numbers are integers of at most 64
  bits.
- Times are RFC 3339 in UTC, with a `Z`. Times by the bridge's clock have six digits after the point, so that their
  texts sort in the order of time; the vendor's have none to nine.
- A record that is larger than its topic accepts, or that a rule in Kafka refuses, is shortened: its texts end with `…`,
  its lists are cut. A refused record is whole in a dead letter, `unwritable`.
- Operators may leave personal data out (setting `records.omit`; fields with `x-pii`): such a text is empty.

## Streams and steps

An agent's records form a *stream* (`stream_id`), from `AgentWatchStarted`, its number 1, to `AgentWatchEnded`, across
all restarts and moves in between. `sequence` numbers them across all topics, `topic_sequence` within one, both 1, 2, 3,
... without gaps: a consumer that has seen 1..n has missed nothing.

The records that follow from one answer are a *step*. They share `observed_at`, have consecutive numbers, and are
written in one transaction together with the agent's `AgentState`. Order records by (`stream_id`, `sequence`), never by
time alone. Within a topic they are in this order; between topics Kafka keeps no order: you may read number 7 before
number 6 of another topic.

## To prove that nothing is missing

For each partition *p*, in this order:

1. Read partition *p* of `asm.heartbeats`, and keep the newest `observed_until`.
2. *Then* ask for the ends of partition *p* of the other topics: the high watermarks (`ListOffsets` with
   read_uncommitted). A transaction is committed in one partition a moment before it is in another, and until then the
   last stable offset, which read_committed asks for, lies before records that the heartbeat speaks of.
3. Read up to these ends. You have every record with an `observed_at` before `observed_until`, and the numbers of each
   stream up to the last of these are complete, except for those in dead letters that are `unwritable`. For a window of
   time, wait for a heartbeat beyond its end.

In the other order, records that are written between the two requests would seem to be missing. You can use
`AgentState.sequence` like a heartbeat's `observed_until`: once you have read a state, every record up to its number is
below the high watermarks.

## To join late

A topic keeps its records for {RETENTION_DAYS} days, so it may lack the beginning of a stream; `asm.agent-state` has a
picture of each agent.

1. Assign the event topics at their end for read_committed (the last stable offset), or anywhere earlier.
2. *Then* ask for the high watermarks of `asm.agent-state`, and read it from its beginning up to these. Each state is
   the picture after record `sequence` of `stream_id`; a key with a tombstone has none.
3. Read the events. Leave out those whose `sequence` is not above that of the picture; apply the one that comes next;
   keep others until those before them have arrived, from another topic or with a later state.

## Clocks

- *bridge*: Kafka's own clock, to a second. `observed_at` is later than the change by at most one interval and the time
  that the service took to answer: each duration in state is accurate to that. The clock never goes back within a
  partition, except for a step of more than a minute.
- *vendor*: compare the vendor's times with each other; they may differ from the bridge's by seconds.
- *broker*: that of Kafka's timestamps on `asm.inject`.

## What cannot be known

The service shows lists and statuses, not events. No record shows what came and went between two requests. It is not
known why a call left its list (answered, abandoned, transferred), and which agent answered it. Each agent with its
skills sees a waiting call: count calls by `call_sid`, not records.

## Without transactions

With `kafka.delivery=at_least_once`, for brokers that have none, the last step of an agent may appear again after a
crash, with different content under the same numbers: use the one with the later `observed_at`. It also replaces the
records with higher numbers that were observed before it, as the new step may be shorter. Records are written before the
state that contains them.
"""
