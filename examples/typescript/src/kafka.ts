// The client, and the topics as schemas/asyncapi.json names them.
import { readFileSync } from "node:fs";
import { Kafka, logLevel } from "kafkajs";
import type { AgentState } from "./generated/AgentState.js";
import type { PartitionHeartbeat } from "./generated/PartitionHeartbeat.js";
import type { Published } from "./generated/Published.js";

/** Whatever stands on the topics that the bridge publishes; `type` tells which it is. */
export type AnyRecord = Published | AgentState | PartitionHeartbeat;

const document = JSON.parse(readFileSync(new URL("../../../schemas/asyncapi.json", import.meta.url), "utf-8"));
const prefix = process.env.ASM_BRIDGE_TOPICS__PREFIX ?? "asm.";

/** Channel (the topic without its prefix) -> topic, of those that the bridge writes. */
export const topics: Record<string, string> = {};
for (const operation of Object.values<any>(document.operations)) {
  const channel = operation.channel.$ref.replace("#/channels/", "");
  if (operation.action === "send") {
    topics[channel] = document.channels[channel].address.replace(/^asm\./, prefix);
  }
}

export const kafka = new Kafka({
  clientId: "example-typescript",
  brokers: (process.env.ASM_BRIDGE_KAFKA__BOOTSTRAP_SERVERS ?? "localhost:9092").split(","),
  logLevel: logLevel.ERROR,
});

// A consumer of a topic that is not there would wait, or create it with other settings than the bridge does.
const admin = kafka.admin();
try {
  await admin.connect();
  const there = new Set(await admin.listTopics());
  const missing = Object.values(topics).filter((name) => !there.has(name));
  if (missing.length) fail(`there is no topic ${missing[0]}: does a bridge run, with this prefix (topics.prefix)?`);
} catch (error) {
  fail(`Kafka does not answer: ${(error as Error).message}`);
}
await admin.disconnect();

function fail(why: string): never {
  console.error(why);
  process.exit(1);
}

/** The record in a message's value, with or without a Schema Registry's five bytes; undefined for a tombstone. */
export function decode(value: Buffer | null): AnyRecord | undefined {
  return value === null ? undefined : (JSON.parse(value.toString("utf-8", value[0] === 0 ? 5 : 0)) as AnyRecord);
}
