// The sick agents and the table: the server searches and pages, so that thousands of agents cost no more than a page.

import { badge, byId, count, draw, duration, element, setLevel, setText, words } from "./text.js";

const LIMIT = 25;
const SICK_SHOWN = 6;
export const LEVELS = { in_session: "good", no_session: "info", lost: "bad", unknown: "warn" };

let offset = 0;
let asked = 0;

async function sessions(parameters) {
  const answer = await fetch(`api/sessions?${new URLSearchParams(parameters)}`);
  if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
  return answer.json();
}

const answered = (agent) => (agent.last_answer_seconds === null ? "" : `${duration(Math.round(agent.last_answer_seconds))} ago`)
  .replace("0 ms ago", "now");

function row(agent) {
  const cell = (label, content, className) => element("td", className, content, { "data-label": label });
  const labels = Object.entries(agent.labels).map(([name, value]) => `${name}=${value}`).join(", ");
  const condition = [badge(LEVELS[agent.condition], words(agent.condition)), agent.reason ? element("span", "why", words(agent.reason)) : null];
  return element("tr", "", [
    cell("Agent", agent.agent_id),
    cell("Condition", [element("div", "", condition)]),
    cell("Status", agent.status_desc ?? ""),
    cell("Session", agent.asm_session_sid ?? ""),
    cell("Answered", answered(agent), "number"),
    cell("Waiting", agent.pending ? count(agent.pending) : "", "number"),
    cell("Partition", String(agent.partition), "number"),
    cell("Labels", labels),
  ]);
}

function sickItem(agent) {
  const silent = agent.last_answer_seconds === null ? "" : ` No answer for ${duration(Math.round(agent.last_answer_seconds))}.`;
  return element("li", "", [
    element("div", "who", [element("span", "", agent.agent_id), badge("bad", words(agent.reason ?? agent.condition))]),
    element("div", "", [element("p", "why", `${agent.why ?? words(agent.reason ?? "")}.${silent}`), agent.advice ? element("p", "advice", agent.advice) : null]),
  ]);
}

async function refreshTable() {
  const mine = ++asked;
  const page = await sessions({ search: byId("search").value, condition: byId("condition").value, limit: LIMIT, offset });
  if (mine !== asked) return;
  if (page.sessions.length === 0 && offset > 0) {
    offset = Math.max(0, Math.floor((page.total - 1) / LIMIT) * LIMIT);
    return refreshTable();
  }
  draw(byId("rows"), page.sessions, (agents) => agents.map(row));
  const last = page.offset + page.sessions.length;
  setText(byId("range"), page.total ? `${count(page.offset + 1)}–${count(last)} of ${count(page.total)}` : "no matching agents");
  byId("previous").disabled = page.offset === 0;
  byId("next").disabled = last >= page.total;
}

/** The sick agents; `total` is their number in the status. */
export async function refreshSick(total) {
  setText(byId("sick-count"), count(total));
  setLevel(byId("sick-count"), total ? "bad" : "good");
  byId("sick-none").hidden = total > 0;
  const page = total ? await sessions({ condition: "sick", limit: SICK_SHOWN }) : { total: 0, sessions: [] };
  draw(byId("sick"), page.sessions, (agents) => agents.map(sickItem));
  byId("sick-all").hidden = page.total <= SICK_SHOWN;
  setText(byId("sick-all"), `Show all ${count(page.total)} in the table`);
}

// The connection's mark shows that a refresh failed; the next one tries again.
export const refresh = () => (document.hidden ? undefined : refreshTable().catch(() => undefined));

function fromStart() {
  offset = 0;
  refresh();
}

export function start() {
  let waiting;
  byId("search").addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(fromStart, 150);
  });
  byId("condition").addEventListener("change", fromStart);
  byId("find").addEventListener("submit", (event) => event.preventDefault());
  byId("previous").addEventListener("click", () => { offset = Math.max(0, offset - LIMIT); refresh(); });
  byId("next").addEventListener("click", () => { offset += LIMIT; refresh(); });
  byId("sick-all").addEventListener("click", () => {
    byId("search").value = "";
    byId("condition").value = "sick";
    fromStart();
    byId("t-table").scrollIntoView();
    byId("condition").focus();
  });
  document.addEventListener("visibilitychange", refresh);
  refresh();
}
