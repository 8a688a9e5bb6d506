// A wallboard in a terminal: what each agent does and how many calls it sees, kept up to date.
//
//     SECONDS=10    stop after so long
import { randomUUID } from "node:crypto";
import { decode, kafka, topics } from "./kafka.js";
import type { AgentState } from "./generated/AgentState.js";

const agents = new Map<string, AgentState>();

// agent-state holds the latest picture of each agent and is compacted, so a reader that joins late begins there. The group
// is new each time: this program keeps nothing. kafkajs reads committed records only unless it is told otherwise.
const consumer = kafka.consumer({ groupId: `example-wallboard-${randomUUID()}`, sessionTimeout: 6000 });
await consumer.connect();
await consumer.subscribe({ topic: topics["agent-state"]!, fromBeginning: true });
await consumer.run({
  autoCommit: false,
  eachMessage: async ({ message }) => {
    const agentId = message.key!.toString("utf-8");
    const record = decode(message.value);
    if (record === undefined) {
      agents.delete(agentId);
    } else if (record.type === "AgentState") {
      agents.set(agentId, record);
    }
  },
});

const refresh = setInterval(show, 1000);
await new Promise<void>((resolve) => {
  process.once("SIGINT", resolve);
  if (process.env.SECONDS) setTimeout(resolve, Number(process.env.SECONDS) * 1000);
});
clearInterval(refresh);
await consumer.disconnect();

function show(): void {
  if (process.stdout.isTTY) console.clear();
  for (const state of [...agents.values()].sort((a, b) => a.agent_id.localeCompare(b.agent_id))) {
    console.log(line(state));
  }
  console.log();
}

function line(state: AgentState): string {
  const group = state.lost != null ? `? (${state.lost.reason})` : (state.status_group ?? "logged out");
  const since = state.status_since == null ? "" : seconds(state.status_since);
  const waiting = (state.calls ?? []).filter((call) => call.list === "agent_queue");
  return [state.agent_id.padEnd(12), group.padEnd(14), since.padStart(7), `${waiting.length} calls`.padStart(10)].join(" ");
}

function seconds(time: string): string {
  return `${Math.max(0, (Date.now() - Date.parse(time)) / 1000).toFixed(0)} s`;
}
