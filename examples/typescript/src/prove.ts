// Reads every topic that the bridge writes from its beginning to its end, and proves that nothing is missing.
//
// What it relies on is all in schemas/asyncapi.json: `sequence` numbers the records of a stream over all topics, and
// `topic_sequence` those within one topic, 1, 2, 3, ... without gaps. An `AgentState` promises each number up to its own,
// and an `AgentWatchEnded` all of its stream. A topic's end is asked for when what promises its records has been read: in
// the other order, what is written in between would seem to be missing.
import { randomUUID } from "node:crypto";
import { decode, kafka, topics, type AnyRecord } from "./kafka.js";

interface Stream {
  agentId: string;
  seen: Set<number>;
  /** Up to here every number must have been seen. */
  complete: number;
  byTopic: Map<string, number>;
}

const streams = new Map<string, Stream>();
const counts = new Map<string, number>();
const wrong: string[] = [];
let unnumbered = 0;

const promising = [topics["agent-state"]!, topics["agent-status"]!];
for (const name of promising) await readToEnd([name]);
await readToEnd(Object.values(topics).filter((name) => !promising.includes(name)));

for (const [id, { agentId, seen, complete }] of streams) {
  for (let number = 1; number <= complete; number++) {
    if (!seen.has(number)) wrong.push(`${agentId} ${id}: ${number} is missing`);
  }
}
for (const topic of Object.values(topics)) console.log(`${topic}: ${counts.get(topic) ?? 0} records`);
const numbered = [...streams.values()].reduce((sum, stream) => sum + stream.seen.size, 0);
console.log(`${streams.size} streams with ${numbered} numbered records, ${unnumbered} without a stream`);
console.log(wrong.length ? wrong.join("\n") : "nothing is missing, nothing is repeated, and each topic is in order");
process.exitCode = wrong.length ? 1 : 0;

/** Reads these topics from their beginning to where they end now. */
async function readToEnd(names: string[]): Promise<void> {
  const endOf = await ends(names);
  const unread = new Set(endOf.keys());
  if (unread.size === 0) return;
  const consumer = kafka.consumer({ groupId: `example-prove-${randomUUID()}`, sessionTimeout: 6000 });
  await consumer.connect();
  await consumer.subscribe({ topics: names, fromBeginning: true });
  const finished = new Promise<void>((resolve) => {
    // A batch may end with records that no reader sees: the marks of transactions.
    consumer.on(consumer.events.END_BATCH_PROCESS, ({ payload: { topic, partition, lastOffset } }) => {
      const id = `${topic}/${partition}`;
      if (unread.has(id) && BigInt(lastOffset) + 1n >= endOf.get(id)!) unread.delete(id);
      if (unread.size === 0) resolve();
    });
  });
  await consumer.run({
    autoCommit: false,
    eachMessage: async ({ topic, message }) => {
      counts.set(topic, (counts.get(topic) ?? 0) + 1);
      if (topic === topics["dead-letters"]) return; // the original values, of any form
      const record = decode(message.value);
      if (record !== undefined) read(topic, record);
    },
  });
  await finished;
  await consumer.disconnect();
}

function read(topic: string, record: AnyRecord): void {
  if (record.type === "PartitionHeartbeat") return;
  if (record.stream_id == null || record.sequence == null) {
    unnumbered += 1;
    return;
  }
  const id = record.stream_id;
  const stream = streams.get(id) ?? { agentId: record.agent_id, seen: new Set(), complete: 0, byTopic: new Map() };
  streams.set(id, stream);
  if (record.type === "AgentState" || record.type === "AgentWatchEnded") {
    stream.complete = Math.max(stream.complete, record.sequence);
  }
  if (record.type === "AgentState") return;
  if (stream.seen.has(record.sequence)) wrong.push(`${record.agent_id} ${id}: ${record.sequence} is repeated`);
  stream.seen.add(record.sequence);
  const expected = (stream.byTopic.get(topic) ?? 0) + 1;
  if (record.topic_sequence !== expected) {
    wrong.push(`${record.agent_id} ${id}: ${topic} has ${record.topic_sequence} where ${expected} comes next`);
  }
  stream.byTopic.set(topic, record.topic_sequence ?? expected);
}

/** The offset at which each partition that is not empty ends, topic by topic. */
async function ends(names: string[]): Promise<Map<string, bigint>> {
  const admin = kafka.admin();
  await admin.connect();
  const found = new Map<string, bigint>();
  for (const topic of names) {
    for (const { partition, low, high } of await admin.fetchTopicOffsets(topic)) {
      if (BigInt(high) > BigInt(low)) found.set(`${topic}/${partition}`, BigInt(high));
    }
  }
  await admin.disconnect();
  return found;
}
