// The live page: one status per second, by server-sent events.

import * as agents from "./agents.js";
import { badge, byId, clock, count, draw, duration, element, facts, rate, setLevel, setText, words } from "./text.js";

const SILENT_AFTER = 4000;
const PARTITION_LEVELS = { watching: "good", opening: "info", handing_over: "info", cannot_commit: "bad" };

const sum = (rates) => Object.values(rates).reduce((total, one) => total + one.per_second, 0);
const fixed = (n) => (n ? rate(n) : "0");

function showVerdict(status) {
  const level = !status.ready ? "bad" : status.notices.length ? "warn" : "good";
  setLevel(byId("verdict"), level);
  setText(byId("verdict-title"), { bad: "Not ready", warn: "Ready, but needs attention", good: "Ready" }[level]);
  setText(byId("verdict-text"), status.reason ?? (level === "good"
    ? `${count(status.agents.total)} agents are watched, and all is well.` : ""));
  draw(byId("notices"), status.notices, (all) => all.map((one) =>
    element("li", "", [element("strong", "", one.text), element("span", "advice", ` – ${one.advice}`)])));
  document.title = `${{ bad: "✕", warn: "!", good: "✓" }[level]} asm-bridge`;
}

function showAbout(status) {
  setText(byId("about"), `${status.process} · version ${status.version} · group ${status.group_id} · up ${duration(status.uptime_seconds)}`);
}

function showAgents({ agents: all, registered, partitions, partitions_total: total }) {
  setText(byId("agents-total"), count(all.total));
  setText(byId("agents-note"), partitions.length < total ? `here, of ${count(registered)} registered` : "watched here");
  const present = Object.entries(all.by_condition).filter(([name, n]) => n || name !== "unknown");
  facts(byId("agents-conditions"), present.map(([name, n]) => [words(name), count(n), "", agents.LEVELS[name]]));
  draw(byId("agents-bar"), present.filter(([, n]) => n), (parts) => parts.map(([name, n]) => {
    const part = element("span", "", null, { "data-level": agents.LEVELS[name] });
    part.style.flexGrow = n;
    return part;
  }));
}

/** Fills from the left until it holds a minute of values. */
function showLine(id, values) {
  const [most, width] = [Math.max(1, ...values), 120 / Math.max(60, values.length - 1)];
  const points = values.map((value, i) => `${(i * width).toFixed(2)},${(26.5 - (value / most) * 25).toFixed(1)}`).join(" ");
  const [area, line] = byId(id).children;
  line.setAttribute("points", points);
  area.setAttribute("points", values.length ? `0,28 ${points} ${((values.length - 1) * width).toFixed(2)},28` : "");
}

function showPolls({ polls, history }) {
  setText(byId("polls"), rate(polls.per_second));
  showLine("polls-line", history.polls);
  const results = Object.entries(polls.by_result).filter(([name, one]) => name === "ok" || one.total);
  facts(byId("polls-results"), [
    ...results.map(([name, one]) => [words(name), `${fixed(one.per_second)}/s`, count(one.total)]),
    ["response time (p99)", duration(polls.seconds.p99)],
  ]);
  setText(byId("late"), duration(polls.lateness.p99));
  facts(byId("late-details"), [
    ["p50", duration(polls.lateness.p50)],
    ...Object.entries(polls.skipped).map(([name, one]) => [`skipped: ${name}`, `${fixed(one.per_second)}/s`, count(one.total)]),
  ]);
}

function showRecords({ records, history }) {
  setText(byId("records"), rate(sum(records)));
  showLine("records-line", history.records);
  facts(byId("records-topics"), Object.entries(records).map(([name, one]) => [name, `${fixed(one.per_second)}/s`, count(one.total)]));
}

function showInbox({ inbox, dead_letters: dead }) {
  setText(byId("inbox"), count(inbox.pending));
  setText(byId("inbox-note"), inbox.pending ? `waiting, the oldest for ${duration(Math.round(inbox.oldest_seconds))}` : "waiting");
  const letters = Object.values(dead).reduce((total, n) => total + n, 0);
  facts(byId("inbox-outcomes"), [
    ...Object.entries(inbox.outcomes).map(([name, n]) => [words(name), count(n)]),
    ["dead letters", count(letters)],
  ]);
}

function showPartitions({ partitions, partitions_total: total, commits }) {
  setText(byId("partitions"), count(partitions.length));
  setText(byId("partitions-note"), `of ${count(total)} owned`);
  const label = (one) => (one.state === "watching" ? String(one.number) : `${one.number} ${words(one.state)}`);
  draw(byId("partitions-list"), partitions, (all) => all.map((one) => {
    const chip = element("li", "", [badge(PARTITION_LEVELS[one.state], label(one))]);
    chip.title = `partition ${one.number}: ${words(one.state)}, ${one.agents} agents`;
    return chip;
  }));
  facts(byId("commits"), [
    ["commits", `${fixed(commits.per_second)}/s`],
    ["commit time (p99)", duration(commits.seconds.p99)],
    ["commits failed", count(commits.failed)],
  ]);
}

function showEvents({ events }) {
  byId("events-none").hidden = events.length > 0;
  draw(byId("events"), events, (all) => all.map((one) => element("li", "", [
    element("time", "muted", clock(one.at), { datetime: one.at }),
    element("span", "mark", null, { role: "img", "aria-label": one.level }),
    element("span", "", one.text),
  ], { "data-level": one.level })));
}

let heard = 0;
let turn = 0;

function show(status) {
  heard = Date.now();
  setLive("good", "live");
  for (const part of [showVerdict, showAbout, showAgents, showPolls, showRecords, showInbox, showPartitions, showEvents]) part(status);
  if (turn++ % 2 === 0) {
    agents.refreshSick(status.agents.sick).catch(() => undefined);
    agents.refresh();
  }
}

function setLive(level, text) {
  setLevel(byId("live"), level);
  setText(byId("live").querySelector(".text"), text);
}

function missing() {
  if (Date.now() - heard < SILENT_AFTER) return;
  setLive("bad", "no contact");
  setLevel(byId("verdict"), "bad");
  setText(byId("verdict-title"), "The bridge does not answer");
  setText(byId("verdict-text"), heard ? `Last heard at ${clock(heard)}; the figures below date from then. Reconnecting.` : "Reconnecting.");
  document.title = "✕ asm-bridge";
}

function listen() {
  const source = new EventSource("api/events");
  source.onmessage = (event) => show(JSON.parse(event.data));
  source.onerror = () => {
    if (source.readyState !== EventSource.CLOSED) return;
    setTimeout(listen, 2000); // a proxy's error page closes the source permanently
  };
}

heard = Date.now();
setInterval(missing, 1000);
agents.start();
listen();
