// Small helpers, the data, and what the reader has chosen. Texts of items only ever become text nodes.

const $ = (selector, root = document) => root.querySelector(selector);
const SVG = "http://www.w3.org/2000/svg";

/** An element; `on...` attributes are listeners, children that are text stay text. */
function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** New children; a control that had the keyboard's focus has it again. */
function replace(node, ...children) {
  const controls = () => [...node.querySelectorAll("select, input, button")];
  const focused = node.contains(document.activeElement) ? controls().indexOf(document.activeElement) : -1;
  node.replaceChildren(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  if (focused >= 0) controls()[focused]?.focus({ preventScroll: true });
}

// ---------------------------------------------------------------- numbers for people

const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

/** A fraction as a percentage with one decimal; never "-0.0%". */
function percent(value, digits = 1) {
  if (!isNumber(value)) return "–";
  const text = (100 * value).toFixed(digits);
  return (Number(text) === 0 ? text.replace("-", "") : text.replace("-", "−")) + "%";
}

function signed(value) {
  const text = percent(value);
  return isNumber(value) && !text.startsWith("−") && Number.parseFloat(text) !== 0 ? "+" + text : text;
}

function interval(low, high) {
  return isNumber(low) && isNumber(high) ? `[${percent(low).replace("%", "")}, ${percent(high).replace("%", "")}]` : "";
}

/** A whole number with commas; by hand, because the first use of Intl costs a tenth of a second. */
function count(value) {
  return isNumber(value) ? String(Math.round(value)).replace(/\B(?=(\d{3})+$)/g, ",").replace("-", "−") : "–";
}

function decimal(value, digits = 2) {
  return isNumber(value) ? value.toFixed(digits).replace("-", "−") : "–";
}

/** A change with its sign and its interval: "+0.08 [0.06, 0.10]". */
function changeText(value, low, high, digits = 3) {
  const ends = isNumber(low) && isNumber(high) ? ` [${decimal(low, digits)}, ${decimal(high, digits)}]` : "";
  return isNumber(value) ? `${value > 0 ? "+" : ""}${decimal(value, digits)}${ends}` : "–";
}

const plural = (n, one, many = one + "s") => `${count(n)} ${n === 1 ? one : many}`;

/** A name that may break after its separators, never within a word. */
const breakable = (name) => name.split(/(?<=[/_.:|\-])(?=[^/_.:|\-])/).flatMap((part, i) => (i ? [document.createElement("wbr"), part] : [part]));

// ---------------------------------------------------------------- packed data

function bytes(base64) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(base64);
  const text = atob(base64);
  const found = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) found[i] = text.charCodeAt(i);
  return found;
}

/** The text in one of the page's packed parts: gzip in base64. */
async function unpacked(id) {
  const stream = new Blob([bytes($(id).textContent)]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
}

/** A vector of little-endian numbers. */
const vector = (base64, type) => new type(bytes(base64).buffer);

// ---------------------------------------------------------------- what is shown

let report = null;
const chosen = {
  run: 0, probe: "", metric: "knowledge_lost", metricChosen: false, axis: "", log: false, fit: true, categories: [""],
  map: "knowledge_lost", mapChosen: false, flow: "", search: "", category: "", trajectory: "", sort: "order", down: false, page: 0, rows: false,
};

const theRun = () => report.runs[chosen.run];
const theProbe = () => probeOf(theRun(), chosen.probe);
const probeOf = (run, name) => run.probes.find((probe) => probe.name === name);
/** Whether a probe is of documents, where nothing is right or wrong. */
const isText = (probe) => probe.headline.ability === "text";
const categoriesOf = (probe) => Object.keys(probe.series).filter((name) => name !== "");
const categoryName = (name) => name || "whole probe";
const probeName = (name) => (name === "all" ? "all probes" : name);
const lastOf = (series, metric) => (series[metric] ? series[metric][series[metric].length - 1] : null);

/** The checkpoints that asked the first prompt alone, as variants="ends" does: knowledge is not known there, raw answers are. */
const rawOnly = (run, series) => run.steps.map((_, i) => i).filter((i) => !isNumber(series.knowledge_lost?.[i]) && isNumber(series.forgetting?.[i]));

/** "1,600 samples · step 50", as far as it is known. */
function whenText(run, i) {
  const samples = run.axes.samples[i];
  const step = `step ${count(run.steps[i])}`;
  return isNumber(samples) ? `${plural(samples, "sample")} · ${step}` : step;
}

/** The same where space is short: "1,600", or "step 50" where samples are not known. */
function whenShort(run, column) {
  const i = column - (run.other_baseline ? 1 : 0);
  if (i < 0) return "before";
  return isNumber(run.axes.samples[i]) ? count(run.axes.samples[i]) : `step ${count(run.steps[i])}`;
}

/** What the columns of a run's item answers are: its baseline, if that is of another run, and its checkpoints. */
function columnsOf(run) {
  const names = run.steps.map((_, i) => whenText(run, i));
  return run.other_baseline ? ["baseline of an earlier run", ...names] : names;
}

// ---------------------------------------------------------------- sections: on the screen first, then all others

const sections = new Map();
const watcher = new IntersectionObserver(
  (entries) => {
    for (const entry of entries) {
      const section = sections.get(entry.target.id);
      section.near = entry.isIntersecting;
      if (section.near && section.stale) drawSection(section);
    }
  },
  { rootMargin: "240px 0px" },
);

/** Registers what draws a section. */
function section(id, draw) {
  sections.set(id, { id, draw, near: false, stale: true });
}

function drawSection(section) {
  section.stale = false;
  section.draw();
}

/** The next task; a timer would wait a second in a tab that is not looked at. */
const task = () => new Promise((done) => {
  const { port1, port2 } = new MessageChannel();
  port1.onmessage = done;
  port2.postMessage(null);
});

let resting = null;

/** Marks sections for drawing; without names, all of them. What is on the screen is drawn now, the rest right after. */
function refresh(...names) {
  for (const section of sections.values()) {
    if (names.length && !names.includes(section.id)) continue;
    section.stale = true;
    if (section.near) drawSection(section);
  }
  resting ??= drawRest().finally(() => { resting = null; });
  return resting;
}

/** Draws what is stale, a section a task, so that the page answers in between; one that fails leaves the others alone. */
async function drawRest() {
  const failures = [];
  for (let next; (next = [...sections.values()].find(({ stale }) => stale)); ) {
    await task();
    try {
      if (next.stale) drawSection(next);
    } catch (error) {
      failures.push(error);
    }
  }
  if (failures.length) throw failures[0];
}

/** Draws all that is stale at once. */
function drawNow() {
  for (const section of sections.values()) if (section.stale) drawSection(section);
}

// ---------------------------------------------------------------- controls

function select(label, options, value, change, { hideLabel = false } = {}) {
  const control = el("select", { "aria-label": label, onchange: () => change(control.value) });
  for (const [group, entries] of options) {
    const made = entries.map(([name, text]) => el("option", { value: name, selected: name === value }, text));
    control.append(...(group ? [el("optgroup", { label: group }, made)] : made));
  }
  return hideLabel ? control : el("label", { class: "field" }, label, control);
}

function checkbox(label, value, change, { disabled = false } = {}) {
  const control = el("input", { type: "checkbox", checked: value, disabled, onchange: () => change(control.checked) });
  return el("label", { class: "check" }, control, label);
}

/** A row of exclusive choices: radio buttons, so that arrow keys work. */
function segments(label, options, value, change) {
  const name = `segments-${label}`.replace(/\W+/g, "-");
  return el(
    "fieldset",
    { class: "segments" },
    el("legend", {}, label),
    options.map(([key, text]) =>
      el("label", {}, el("input", { type: "radio", name, value: key, checked: key === value, onchange: () => change(key) }), text),
    ),
  );
}

/** The arguments of a table without the columns in which no row has a value. */
function withValues(head, rows) {
  const blank = (cell) => [cell].flat().every((part) => ["–", ""].includes((part?.textContent ?? part ?? "").trim()));
  const kept = head.map((_, i) => i).filter((i) => !rows.every(({ cells }) => blank(cells[i])));
  const pick = (list) => kept.map((i) => list[i]);
  return [pick(head), rows.map((row) => ({ ...row, cells: pick(row.cells) }))];
}

/** A table; on a phone each row is a card, with the column's name above each cell. */
function table(head, rows, { caption = null } = {}) {
  return el(
    "table",
    { class: "stacked" },
    caption ? el("caption", {}, caption) : null,
    el("thead", {}, el("tr", {}, head.map(([text, kind]) => el("th", { class: kind, scope: "col" }, text)))),
    el("tbody", {}, rows.map(({ cells, kind = null }) => el("tr", { class: kind }, cells.map((cell, i) => el("td", { class: head[i][1], "data-label": head[i][0] }, cell))))),
  );
}

// Differences of shares, which may be below 0; the last ones only where the method is "net".
const SIGNED = ["net_change", "knowledge_lost_net"];
const NET = ["knowledge_lost", "knowledge_gained", "known_lost", "spurious_forgetting", "macro_knowledge_lost", "stage_knowledge_lost"];

/** A share, or an end of its interval, as it is shown: cut off where no share can be. Estimates are kept unclipped. */
function possible(series, metric, value) {
  const net = SIGNED.includes(metric) || (NET.includes(metric) && lastOf(series, "knowledge_method") === "net");
  return isNumber(value) ? Math.min(Math.max(value, net ? -1 : 0), 1) : null;
}

const shareOf = (series, metric, i = series.n.length - 1, digits = 1) => percent(possible(series, metric, series[metric]?.[i]), digits);

/** The interval of a share within what is possible, "" where all of it is beyond. */
function endsOf(series, metric, i = series.n.length - 1) {
  const [low, high] = ["_low", "_high"].map((end) => series[metric + end]?.[i]);
  const [from, to] = [low, high].map((end) => possible(series, metric, end));
  return low < high && from === to ? "" : interval(from, to);
}

// Metrics that are no shares, by the tone of their curves: what stands behind the number.
const MEASURES = { nats: " nats", bits: " bits per byte", score: "" };

/** A metric for people at a checkpoint, whatever it is measured in; `tone` as in `METRICS`. */
const shownOf = (series, metric, tone, i = series.n.length - 1) => (tone in MEASURES ? decimal(series[metric]?.[i], 3) : shareOf(series, metric, i));

/** Its interval, "" where it has none. */
function shownEnds(series, metric, tone, i = series.n.length - 1) {
  const [low, high] = ["_low", "_high"].map((end) => series[metric + end]?.[i]);
  return !(tone in MEASURES) ? endsOf(series, metric, i) : isNumber(low) && isNumber(high) ? `[${decimal(low, 3)}, ${decimal(high, 3)}]` : "";
}

/** A share and its interval, for a table cell. */
const estimateOf = (series, metric, i = series.n.length - 1) => [shareOf(series, metric, i) + " ", el("span", { class: "ci" }, endsOf(series, metric, i))];
const withInterval = (value, low, high) => [percent(value) + " ", el("span", { class: "ci" }, interval(low, high))];

// ---------------------------------------------------------------- the tip beside the pointer

const tip = () => $("#tip");

function showTip(x, y, title, text) {
  const box = tip();
  replace(box, el("b", {}, title), text);
  box.hidden = false;
  const { width, height } = box.getBoundingClientRect();
  box.style.left = `${Math.max(8, Math.min(x + 14, innerWidth - width - 8))}px`;
  box.style.top = `${y + 18 + height > innerHeight ? y - height - 12 : y + 18}px`;
}

const hideTip = () => { tip().hidden = true; };
