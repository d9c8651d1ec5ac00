// The items: read from their packed form, filtered for the grid and the table, and the table itself.

const PAGE = 25;
const TRANSITIONS = { "1→1": ["kept", "recovered"], "1→0": ["lost", "format loss"], "0→1": ["gained"], "0→0": ["came and went", "never known"] };
const TRAJECTORY_TEXT = { lost: "forgotten", gained: "newly right", kept: "stayed right", "came and went": "right in between", "never known": "never right" };
const TEXT_TRAJECTORY = { lost: "got worse", gained: "got better", kept: "about the same", recovered: "worse in between", "not scored": "not measured" };
const trajectoryText = (name) => (isText(theProbe()) ? TEXT_TRAJECTORY : TRAJECTORY_TEXT)[name] ?? name;
const VARIANTS = ["lost in all", "lost in this prompt alone"];
const readPaths = new WeakMap();
const readItems = new Map();

/** The items of a probe: texts, and categories and answers as vectors. */
function itemsOf(probe) {
  if (!readItems.has(probe.items)) {
    const packed = report.items[probe.items];
    readItems.set(probe.items, { ...packed, n: packed.ids.length, category: vector(packed.category, Uint16Array), answer: vector(packed.answer, Int16Array) });
  }
  return readItems.get(probe.items);
}

/** Every item's answers in one run; `begin[i]` is where the changes of item i begin. */
function pathOf(probe) {
  if (!readPaths.has(probe)) {
    const p = probe.path;
    const counts = vector(p.counts, Uint16Array);
    const begin = new Uint32Array(counts.length + 1);
    counts.forEach((value, i) => { begin[i + 1] = begin[i] + value; });
    const at = vector(p.at, Uint16Array), state = vector(p.state, Uint8Array);
    const states = new Uint8Array(counts.length * p.columns);
    for (let i = 0; i < counts.length; i++) {
      for (let k = begin[i]; k < begin[i + 1]; k++) states.fill(state[k], i * p.columns + at[k], (i + 1) * p.columns);
    }
    readPaths.set(probe, {
      columns: p.columns, begin, at, state, states, texts: p.texts, unit: p.margin_unit, n: counts.length,
      choice: vector(p.choice, Int16Array), said: vector(p.said, Int32Array), whole: vector(p.whole, Int32Array),
      margin: vector(p.margin, Int16Array), trajectory: vector(p.trajectory, Uint8Array), lostAt: vector(p.lost_at, Int16Array),
      order: vector(p.order, Uint32Array), variants: variantsOf(p.variants), why: p.why,
      bits: p.bits === null ? null : vector(p.bits, Uint16Array), bitsUnit: p.bits_unit,
    });
  }
  return readPaths.get(probe);
}

/** The answers to further variants of the prompts, at the first and the last checkpoint that asked them; null without. */
function variantsOf(packed) {
  if (!packed) return null;
  const read = ({ state, choice, said }) => ({ state: vector(state, Uint8Array), choice: vector(choice, Int16Array), said: vector(said, Int32Array) });
  return {
    asked: vector(packed.asked, Uint8Array),
    sides: packed.sides.map(({ column, right, asked, answers }) => ({ column, right: vector(right, Uint8Array), asked: vector(asked, Uint8Array), answers: answers.map(read) })),
  };
}

/** What a lost item is called after it was asked again with help, "" where it was not. */
const RECHECKED = { gone: "gone", there: "there, but not said" };
const MARKS = [...VARIANTS, ...Object.values(RECHECKED)];
const rechecked = (probe, i) => RECHECKED[theRun().recheck?.labels[probe.name]?.[itemsOf(probe).ids[i]]] ?? "";

/** The mark of that, for people. */
function recheckMark(probe, i) {
  const text = rechecked(probe, i);
  return text ? el("small", { class: "asked recheck", title: `asked again with help, at step ${theRun().recheck.step}` }, text) : null;
}

/** What the variants say of an item: lost in all of them, in the first prompt alone, or neither. */
function inVariants(path, i) {
  if (!path.variants || path.variants.asked[i] < 2) return "";
  const [before, after] = path.variants.sides, asked = path.variants.asked[i];
  if (before.right[i] === asked && after.right[i] === 0) return "lost in all";
  const first = (side) => path.states[i * path.columns + side.column] === 1;
  return first(before) && !first(after) ? "lost in this prompt alone" : "";
}

/** The answer that came with a change, as text; null if there was none. */
function answerAt(items, path, i, k) {
  if (path.said[k] >= 0) return path.texts[path.said[k]];
  return items.choices[i] && path.choice[k] >= 0 ? items.choices[i][path.choice[k]] : null;
}

function marginAt(path, i, column) {
  const value = path.margin[i * path.columns + column];
  return value === -32768 ? NaN : value * path.unit;
}

/** Bits per byte of a document at a column; NaN where it was not measured. */
function bitsAt(path, i, column) {
  const value = path.bits === null ? 65535 : path.bits[i * path.columns + column];
  return value === 65535 ? NaN : value * path.bitsUnit;
}

/** How much a document's bits per byte rose since the baseline. */
const riseOf = (path, i) => bitsAt(path, i, path.columns - 1) - bitsAt(path, i, 0);

const lastAnswer = (items, path, i) => answerAt(items, path, i, path.begin[i + 1] - 1);

/** All that search looks through, in small letters; made when the first search comes. */
function haystack(items, path) {
  path.haystack ??= items.ids.map((id, i) => {
    const answers = [];
    for (let k = path.begin[i]; k < path.begin[i + 1]; k++) answers.push(answerAt(items, path, i, k) ?? "");
    return [id, items.prompts[i], ...items.expected[i], ...new Set(answers)].join("\n").toLowerCase();
  });
  return path.haystack;
}

/** The items that pass the filters, in the grid's order. */
function filtered() {
  const probe = theProbe(), items = itemsOf(probe), path = pathOf(probe);
  const words = chosen.search.toLowerCase().split(/\s+/).filter(Boolean);
  const hay = words.length ? haystack(items, path) : null;
  const place = chosen.category === "" ? -1 : items.category_names.indexOf(chosen.category);
  const marked = MARKS.includes(chosen.trajectory) ? chosen.trajectory : null;
  const wanted = chosen.trajectory && !marked ? new Set((TRANSITIONS[chosen.trajectory] ?? [chosen.trajectory]).map((name) => report.trajectories.indexOf(name))) : null;
  return path.order.filter((i) => (place < 0 || items.category[i] === place) && (!wanted || wanted.has(path.trajectory[i])) && (!marked || inVariants(path, i) === marked || rechecked(probe, i) === marked) && (!hay || words.every((word) => hay[i].includes(word))));
}

let shown = new Uint32Array();

function drawItems() {
  const probe = theProbe();
  const has = probe.items !== null;
  for (const id of ["#item-filters", "#grid-part", "#item-table", "#item-pager"]) $(id).hidden = !has;
  if (!has) return replace($("#item-count"), "All probes are pooled here: choose one of them at the top to see its items.");
  itemFilters();
  showFiltered();
}

function itemFilters() {
  const probe = theProbe(), items = itemsOf(probe), path = pathOf(probe);
  const change = (name) => (value) => { chosen[name] = value; chosen.page = 0; showFiltered(); };
  let timer = 0;
  const search = el("input", { type: "search", placeholder: "Search prompts, answers and ids", "aria-label": "Search items", id: "item-search", value: chosen.search });
  search.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(() => change("search")(search.value), 120); });
  const names = items.category_names.filter(Boolean);
  if (!names.includes(chosen.category)) chosen.category = "";
  const tally = new Map(report.trajectories.map((name) => [name, 0]));
  for (const code of path.trajectory) tally.set(report.trajectories[code], tally.get(report.trajectories[code]) + 1);
  const trajectories = [...tally].filter(([, n]) => n).map(([name, n]) => [name, `${trajectoryText(name)} (${count(n)})`]);
  const counted = (entries) => entries.map(([name, n]) => [name, `${name} (${count(n)})`]);
  const flows = Object.entries(TRANSITIONS).map(([name, parts]) => [name, `${name} (${count(parts.reduce((sum, part) => sum + tally.get(part), 0))})`]);
  const countOf = (mark) => (name) => [name, path.trajectory.reduce((sum, _, i) => sum + (mark(i) === name), 0)];
  const both = VARIANTS.map(countOf((i) => inVariants(path, i))).filter(([, n]) => n);
  const again = Object.values(RECHECKED).map(countOf((i) => rechecked(probe, i))).filter(([, n]) => n);
  if (chosen.trajectory && !tally.get(chosen.trajectory) && !TRANSITIONS[chosen.trajectory] && ![...both, ...again].some(([name]) => name === chosen.trajectory)) chosen.trajectory = "";
  replace(
    $("#item-filters"), search,
    names.length ? select("Category", [["", [["", "all categories"], ...names.map((name) => [name, name])]]], chosen.category, change("category"), { hideLabel: true }) : null,
    select("Trajectory", [["", [["", "all trajectories"]]], ["Trajectory", trajectories], ["Prompt variants", counted(both)], ["Asked again with help", counted(again)], ["Baseline → last checkpoint", flows]].filter(([, entries]) => entries.length), chosen.trajectory, change("trajectory"), { hideLabel: true }),
    el("button", { type: "button", id: "item-clear", onclick: () => showItems({}, { scroll: false }) }, "Clear"),
  );
}

function showFiltered() {
  shown = filtered();
  const all = itemsOf(theProbe()).n;
  replace($("#item-count"), shown.length === all ? plural(all, "item") : `${count(shown.length)} of ${plural(all, "item")}`);
  $("#item-clear").disabled = !(chosen.search || chosen.category || chosen.trajectory);
  drawGrid();
  drawItemTable();
}

/** Goes to the items with these filters and no others. */
function showItems({ category = "", trajectory = "" }, { scroll = true } = {}) {
  Object.assign(chosen, { category, trajectory, search: "", page: 0 });
  refresh("items");
  if (scroll) $("#items").scrollIntoView({ block: "start" });
}

const COLUMNS = [
  ["id", "item", 19], ["prompt", "prompt", 24], ["right", "right answer", 15], ["answer", "answer now", 15],
  ["trajectory", "trajectory", 13], ["lost", "lost at", 7], ["margin", "margin", 7],
];

// What the columns hold where items are documents.
const TEXT_COLUMNS = { prompt: "document", right: "bits per byte before", answer: "bits per byte now", lost: "worse at", margin: "change" };

/** The filtered items in the table's order. */
function sorted() {
  if (chosen.sort === "order") return shown;
  const probe = theProbe(), items = itemsOf(probe), path = pathOf(probe);
  const last = path.columns - 1;
  const key = {
    id: (i) => items.ids[i], prompt: (i) => items.prompts[i], right: (i) => items.expected[i].join("\n"),
    trajectory: (i) => path.trajectory[i], lost: (i) => (path.lostAt[i] < 0 ? Infinity : path.lostAt[i]),
    answer: (i) => lastAnswer(items, path, i) ?? "", ...(isText(probe) ? { right: (i) => bitsAt(path, i, 0), answer: (i) => bitsAt(path, i, last) } : {}),
    margin: isText(probe) ? (i) => riseOf(path, i) : (i) => { const m = marginAt(path, i, last); return Number.isNaN(m) ? Infinity : m; },
  }[chosen.sort];
  const pairs = Array.from(shown, (i) => [key(i), i]);
  const text = pairs.length && typeof pairs[0][0] === "string";
  const sort = text ? new Intl.Collator("en", { numeric: true }).compare : (a, b) => (a === b ? 0 : a - b);
  pairs.sort((a, b) => (chosen.down ? -1 : 1) * sort(a[0], b[0]) || a[1] - b[1]);
  return pairs.map(([, i]) => i);
}

/** "right in 2 → 0 of 2" variants, for an item that was asked in several; "right in 2 of 2 → 1 of 1" where not in all now. */
function variantCount(path, i) {
  if (!path.variants || path.variants.asked[i] < 2) return null;
  const [before, after] = path.variants.sides, fewer = before.asked[i] === after.asked[i] ? "" : ` of ${before.asked[i]}`;
  return el("small", { class: "asked", title: "prompt variants answered right, at the baseline and now" }, `right in ${before.right[i]}${fewer} → ${after.right[i]} of ${after.asked[i]}`);
}

function drawItemTable() {
  const run = theRun(), probe = theProbe(), items = itemsOf(probe), path = pathOf(probe);
  const order = sorted(), pages = Math.max(1, Math.ceil(order.length / PAGE));
  chosen.page = Math.min(chosen.page, pages - 1);
  const columns = columnsOf(run);
  const head = el("tr", {}, COLUMNS.map(([name, text]) => {
    const on = chosen.sort === name;
    const arrow = on ? (chosen.down ? " ↓" : " ↑") : "";
    const sort = () => {
      chosen.down = on && !chosen.down;
      chosen.sort = on && !chosen.down ? "order" : name;
      chosen.page = 0;
      drawItemTable();
      $(`#item-table [data-sort="${name}"]`).focus();
    };
    return el("th", { scope: "col", "aria-sort": on ? (chosen.down ? "descending" : "ascending") : "none", class: name === "margin" || name === "lost" ? "n hide" : null }, el("button", { type: "button", "data-sort": name, onclick: sort }, ((isText(probe) && TEXT_COLUMNS[name]) || text) + arrow));
  }));
  const body = Array.from(order.slice(chosen.page * PAGE, (chosen.page + 1) * PAGE), (i) => {
    const trajectory = report.trajectories[path.trajectory[i]];
    const category = items.category_names[items.category[i]];
    const lost = path.lostAt[i];
    return el("tr", { onclick: () => openDetail(i), "data-item": items.ids[i] },
      el("td", { class: "id" }, el("button", { type: "button", class: "open", title: items.ids[i], "aria-label": `Details of ${items.ids[i]}` }, breakable(items.ids[i])), category ? el("small", { class: "category", title: category }, category) : null),
      el("td", { class: "wide" }, longText(oneLine(items.prompts[i]))),
      ...(items.kinds[i] === "text" ? [el("td", { class: "half", "data-label": "before" }, decimal(bitsAt(path, i, 0), 3)), el("td", { class: "half", "data-label": "now" }, decimal(bitsAt(path, i, path.columns - 1), 3))] : [
        el("td", { class: "half", "data-label": "right answer" }, rightAnswer(items, i)),
        el("td", { class: "half", "data-label": "answer now" }, givenAnswer(items, path, i, path.begin[i + 1] - 1), path.why[i] ? el("small", { class: "asked why" }, path.why[i]) : null)]),
      el("td", { class: "became" }, el("span", { class: `trajectory ${trajectory.replace(/ /g, "-")}` }, trajectoryText(trajectory)), variantCount(path, i), recheckMark(probe, i)),
      el("td", { class: "n hide", title: lost < 0 ? null : columns[lost] }, lost < 0 ? "–" : whenShort(run, lost)),
      el("td", { class: "n hide" }, items.kinds[i] === "text" ? changeText(riseOf(path, i)) : decimal(marginAt(path, i, path.columns - 1))));
  });
  if (!body.length) body.push(el("tr", {}, el("td", { colspan: COLUMNS.length, class: "wide" }, "No item matches these filters.")));
  replace($("#item-table"), el("colgroup", {}, COLUMNS.map(([, , width]) => el("col", { style: `width:${width}%` }))), el("thead", {}, head), el("tbody", {}, body));
  const turn = (by) => () => { chosen.page += by; drawItemTable(); };
  replace(
    $("#item-pager"),
    `${order.length ? count(chosen.page * PAGE + 1) : 0} to ${count(Math.min(order.length, (chosen.page + 1) * PAGE))} of ${count(order.length)}`,
    el("button", { type: "button", disabled: chosen.page === 0, onclick: turn(-1) }, "Previous"),
    el("button", { type: "button", disabled: chosen.page >= pages - 1, onclick: turn(1) }, "Next"),
  );
}
