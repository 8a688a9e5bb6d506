// Numbers and elements as the page writes them. All text is inserted as text, never as markup: agent ids and errors come from outside.

export const byId = (id) => document.getElementById(id);

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const tenths = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });

export const count = (n) => whole.format(n);
export const rate = (n) => (Math.abs(n) >= 100 ? whole : tenths).format(n);

/** 0.0042 -> "4.2 ms", 75 -> "1 min 15 s"; null -> "–". */
export function duration(s) {
  if (s === null || s === undefined) return "–";
  if (s < 1) return `${s < 0.01 ? tenths.format(s * 1000) : whole.format(s * 1000)} ms`;
  if (s < 60) return `${s < 10 ? tenths.format(s) : whole.format(s)} s`;
  const [d, h, m, rest] = [Math.floor(s / 86400), Math.floor(s / 3600) % 24, Math.floor(s / 60) % 60, Math.floor(s) % 60];
  if (d) return `${d} d ${h} h`;
  return h ? `${h} h ${m} min` : `${m} min ${rest} s`;
}

export const clock = (time) => new Date(time).toLocaleTimeString([], { hour12: false });
export const words = (name) => name.replaceAll("_", " ");

/** An element with a class, text or children, and attributes. */
export function element(name, className, content, attributes = {}) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (Array.isArray(content)) made.append(...content.filter((one) => one !== null));
  else if (content !== undefined && content !== null) made.textContent = content;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

export const badge = (level, text) =>
  element("span", "badge", [element("span", "mark", null, { "aria-hidden": "true" }), element("span", "text", text)], { "data-level": level });

/** Change the page only where its text changes: a selection stays, and a screen reader announces nothing twice. */
export function setText(target, text) {
  if (target.textContent !== text) target.textContent = text;
}

export function setLevel(target, level) {
  if (target.dataset.level !== level) target.dataset.level = level;
}

const drawn = new WeakMap();

/** Replace the children if `data`, from which they are made, has changed. */
export function draw(target, data, make) {
  const key = JSON.stringify(data);
  if (drawn.get(target) === key) return;
  drawn.set(target, key);
  target.replaceChildren(...make(data));
}

/** A list of names and values; `rows` are [name, value, aside, level]. */
export function facts(target, rows) {
  draw(target, rows, (all) => all.map(([name, value, aside, level]) => {
    const shown = element("dd", "", [document.createTextNode(value), aside ? element("span", "muted", aside) : null]);
    return element("div", value === "0" && !aside ? "none" : "", [element("dt", "", name), shown], level ? { "data-level": level } : {});
  }));
}
