// Where it happened: the map of categories, the flow between baseline and last checkpoint.

const MAPS = [
  ["knowledge_lost", "Lost"], ["forgetting", "Forgetting (1→0)"],
  ["backward_transfer", "Backward transfer (0→1)"], ["accuracy_after", "Accuracy"], ["bits_per_byte_change", "Change in bits per byte"],
];

const MOST = 0.3;  // the colours end there in every run: a scale that follows the numbers paints noise as strongly as loss
const PALE = 0.16;

const ruler = document.createElement("canvas").getContext("2d");

/** How wide a text is in a chart, in pixels. */
function textWidth(text, size) {
  ruler.font = `${size}px ${colour("sans")}`;
  return ruler.measureText(text).width;
}

/** As much of a name as `most` pixels hold. */
function fitting(name, size, most) {
  if (textWidth(name, size) <= most) return name;
  const signs = Array.from(name);
  while (signs.length > 1 && textWidth(signs.join("") + "…", size) > most) signs.length -= Math.max(1, Math.floor(signs.length / 8));
  return signs.join("") + "…";
}

/** A category's name where space is short. */
const short = (name, length = 26) => (name.length > length ? name.slice(0, length - 1) + "…" : name);

function drawMap() {
  const run = theRun(), probe = theProbe();
  const maps = MAPS.filter(([name]) => probe.series[""][name]);
  if (!chosen.mapChosen || !maps.some(([name]) => name === chosen.map)) chosen.map = isText(probe) ? "bits_per_byte_change" : rawOnly(run, probe.series[""]).length >= run.steps.length / 2 ? "forgetting" : "knowledge_lost";
  replace($("#map-controls"), select("Metric", [["", maps]], chosen.map, (value) => { Object.assign(chosen, { map: value, mapChosen: true }); refresh("map"); }));
  const names = categoriesOf(probe);
  if (!names.length) return noMap("The items of this probe have no categories.");
  if (run.steps.length < 2) return noMap("There is only one checkpoint so far: the map starts with the second.");
  const text = new Map(MAPS).get(chosen.map);
  const worst = (name) => lastOf(probe.series[name], chosen.map) ?? -9;
  const sign = chosen.map === "accuracy_after" ? -1 : 1;
  const rows = names.sort((a, b) => sign * (worst(a) - worst(b)));  // plotly draws the last one on top
  const tone = METRIC.get(chosen.map)?.tone, marked = ["knowledge_lost", "bits_per_byte_change"].includes(chosen.map);
  const values = rows.map((name) => run.steps.map((_, i) => probe.series[name][chosen.map]?.[i] ?? null));
  const hover = rows.map((name, r) =>
    run.steps.map((_, i) => {
      const series = probe.series[name];
      const ends = series[`${chosen.map}_low`] ? " " + shownEnds(series, chosen.map, tone, i) : "";
      return `<b>${shownOf(series, chosen.map, tone, i)}</b>${plain(ends)}${marked ? (isSignificant(probe, name, i) ? ", significant" : ", not significant") : ""}<br>${plain(name)} · ${plural(series.n[i] ?? 0, "item")}<br>${plain(whenText(run, i))}`;
    }),
  );
  const empty = emptyMap(text, rows, values.flat().filter(isNumber), marked);
  if (empty) return noMap(empty);
  const ground = colour("sunken");
  const warm = [[0, ground], [1, colour("lost")]], cool = [[0, ground], [1, colour("gained")]];
  const scale = {
    knowledge_lost: { colorscale: [[0, colour("gained")], [0.5, ground], [1, colour("lost")]], zmin: -MOST, zmax: MOST },
    forgetting: { colorscale: warm, zmin: 0, zmax: MOST },
    backward_transfer: { colorscale: cool, zmin: 0, zmax: MOST },
    accuracy_after: { colorscale: cool, zmin: 0, zmax: 1 },
    bits_per_byte_change: { colorscale: [[0, colour("gained")], [0.5, ground], [1, colour("lost")]], zmin: -MOST, zmax: MOST },
  }[chosen.map];
  const narrow = innerWidth < 640;
  const every = Math.ceil(run.steps.length / (narrow ? 5 : 16));
  const ticks = run.steps.map((_, i) => i).filter((i) => i % every === 0);
  const x = run.axes[chosen.axis];
  const height = Math.max(180, rows.length * (rows.length > 40 ? 16 : 24) + 70);
  const cells = { type: "heatmap", ...scale, hoverinfo: "text", hovertext: hover, xgap: run.steps.length > 60 ? 0 : 2, ygap: 2, hoverongaps: false };
  const colorbar = { tickformat: tone in MEASURES ? ".1f" : ".0%", thickness: 10, outlinewidth: 0, len: 1, x: 1.01, tickfont: { size: 11 } };
  const sure = (name, i) => !marked || isSignificant(probe, name, i);
  const pick = (keep) => rows.map((name, r) => run.steps.map((_, i) => (keep(name, i) ? values[r][i] : null)));
  const traces = [{ ...cells, z: pick(sure), colorbar }];
  if (marked) {
    const label = rows.map((name, r) => run.steps.map((_, i) => (!sure(name, i) ? "" : run.steps.length > (narrow ? 6 : 14) ? "●" : tone in MEASURES ? decimal(probe.series[name][chosen.map]?.[i]) : shareOf(probe.series[name], chosen.map, i, 0))));
    Object.assign(traces[0], { text: label, texttemplate: "%{text}", textfont: { size: 11 } });
    traces.unshift({ ...cells, z: pick((name, i) => !sure(name, i)), showscale: false, opacity: PALE });
  }
  const size = rows.length > 40 ? 10.5 : 12.5, labels = rows.map((name) => fitting(name, size, narrow ? 100 : 190));
  const layout = chartLayout({
    height, margin: { l: 10 + Math.max(...labels.map((name) => textWidth(name, size))), r: 10, t: 6, b: 46 },
    xaxis: { tickvals: ticks, ticktext: ticks.map((i) => shortCount(x[i])), title: AXES[chosen.axis], showgrid: false },
    yaxis: { tickvals: rows.map((_, i) => i), ticktext: labels.map(plain), showgrid: false, tickfont: { size } },
  });
  $("#map-chart").style.minHeight = `${height}px`;
  draw("#map-chart", traces, layout, `${text} of each category at each checkpoint; the table of categories has the last one`);
  const found = rows.filter((name) => isSignificant(probe, name, run.steps.length - 1)).length;
  const everSure = rows.some((name) => run.steps.some((_, i) => isSignificant(probe, name, i)));
  const none = `No category's loss is significant at any checkpoint (Holm-corrected over the ${count(rows.length)} categories of each): all cells are pale.`;
  const holm = !everSure ? none : `Strong cells with a number or dot are significant losses (Holm-corrected over the ${count(rows.length)} categories of a checkpoint), pale ones are not. Significant at the last checkpoint: ${found ? plural(found, "category", "categories") : "none"}.`;
  replace($("#map-note"), `${marked ? holm : "Raw answers, guesses included: a single cell says little."} `, el("span", { class: "screen" }, "Hover for intervals; click a row for its items."));
  withPlotly().then(() => {
    const place = $("#map-chart");
    place.removeAllListeners?.("plotly_click");
    place.on("plotly_click", ({ points }) => showItems({ category: rows[points[0].y] }));
  });
}

/** Why a map of these cells would show nothing, "" if it shows something; with too few items no loss is significant. */
function emptyMap(text, names, values, marked) {
  if (!values.length) return `${text}: not known of any category.`;
  const most = (name) => Math.max(...theProbe().series[name].n);
  if (marked && names.every((name) => most(name) < report.min_items)) {
    return `Too few items: no category has ${report.min_items} scored ones, and fewer do not tell how much was lost. The other metrics show raw answers.`;
  }
  return values.some((value) => value !== 0) ? "" : `${text}: 0${isText(theProbe()) ? "" : "%"} in every category at every checkpoint.`;
}

/** Whether the loss of a category at a checkpoint is significant among all categories of that checkpoint. */
const isSignificant = (probe, name, i) => probe.significant[name]?.[i] === 1;

function noMap(why) {
  noChart("#map-chart", why);
  replace($("#map-note"));
}

const shortCount = (value) => (value >= 1e6 ? `${+(value / 1e6).toPrecision(3)}M` : value >= 10_000 ? `${+(value / 1e3).toPrecision(3)}k` : count(value));

// ---------------------------------------------------------------- the flow

function drawFlow() {
  const probe = theProbe();
  const names = categoriesOf(probe);
  if (!probe.series[chosen.flow]) chosen.flow = "";
  replace($("#flow-controls"), names.length ? select("Category", [["", ["", ...names].map((name) => [name, short(categoryName(name))])]], chosen.flow, (value) => { chosen.flow = value; refresh("flow"); }, { hideLabel: true }) : null);
  const series = probe.series[chosen.flow];
  const [n, n11, n10, n01, n00] = ["n", "n11", "n10", "n01", "n00"].map((name) => lastOf(series, name) ?? 0);
  if (!n) {
    replace($("#flow-chart"), el("p", { class: "empty" }, "No item was scored both at the baseline and at the last checkpoint."));
    replace($("#flow-counts"));
    return replace($("#flow-note"));
  }
  const documents = isText(probe);
  replace($("#flow-chart"), documents ? [] : flowPicture({ n, n11, n10, n01, n00 }));
  const has = probe.items !== null;
  const one = (value, text, colours, trajectories) =>
    el("button", { type: "button", disabled: !has, onclick: () => showItems({ trajectory: trajectories, category: chosen.flow }) },
      el("span", { class: "swatch", style: `background:${colours}` }), el("b", {}, `${percent(value / n)} `), text,
      el("small", {}, `${plural(value, documents ? "document" : "item")} of ${count(n)}`));
  replace(
    $("#flow-counts"),
    one(n11, documents ? "about the same" : "stayed right (1→1)", FLOW.n11(), "1→1"), one(n10, documents ? "got worse" : "forgetting (1→0)", FLOW.n10(), "1→0"),
    one(n01, documents ? "got better" : "backward transfer (0→1)", FLOW.n01(), "0→1"), documents ? null : one(n00, "stayed wrong (0→0)", FLOW.n00(), "0→0"),
  );
  const unscored = lastOf(series, "n_unscored") ?? 0;
  replace($("#flow-note"), `${documents ? "By more than the floor, from the baseline to the last checkpoint." : "Raw answers to the first prompt, lucky guesses included."}${unscored ? ` ${plural(unscored, "item")} ${unscored === 1 ? "was" : "were"} not scored at both checkpoints.` : ""}`);
}

const FLOW = { n11: () => faded(colour("gained"), 0.35), n10: () => colour("lost"), n01: () => colour("gained"), n00: () => colour("line-strong") };

/** Two columns of nodes and four ribbons, as wide as the place it is in. */
function flowPicture({ n, n11, n10, n01, n00 }) {
  const width = Math.max(260, $("#flow-chart").clientWidth || 480), height = 230, node = 10, gap = 18, top = 26;
  const inner = height - top - gap;
  const y = (value) => (inner * value) / n;
  const edge = 2, right = width - node - 2;
  const picture = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Of ${n} items ${n11} stayed right, ${n10} went from right to wrong, ${n01} from wrong to right, ${n00} stayed wrong` });
  const at = {
    left: { right: top, wrong: top + y(n11 + n10) + gap },
    now: { right: top, wrong: top + y(n11 + n01) + gap },
  };
  const ribbon = (value, from, to, name, label) => {
    if (!value) return;
    const h = Math.max(y(value), 0.75), x0 = edge + node, x1 = right, mid = (x0 + x1) / 2;
    const d = `M${x0},${from} C${mid},${from} ${mid},${to} ${x1},${to} L${x1},${to + h} C${mid},${to + h} ${mid},${from + h} ${x0},${from + h} Z`;
    picture.append(svg("path", { d, fill: FLOW[name](), class: "ribbon", opacity: name === "n10" || name === "n01" ? 0.5 : 0.6 }, svg("title", {}, `${label}: ${count(value)} (${percent(value / n)})`)));
  };
  ribbon(n11, at.left.right, at.now.right, "n11", "stayed right");
  ribbon(n00, at.left.wrong + y(n01), at.now.wrong + y(n10), "n00", "stayed wrong");
  ribbon(n01, at.left.wrong, at.now.right + y(n11), "n01", "backward transfer (0→1)");
  ribbon(n10, at.left.right + y(n11), at.now.wrong, "n10", "forgetting (1→0)");
  const block = (x, from, value, paint) => picture.append(svg("rect", { x, y: from, width: node, height: Math.max(y(value), 0.75), rx: 2, fill: paint }));
  block(edge, at.left.right, n11 + n10, colour("gained"));
  block(edge, at.left.wrong, n01 + n00, colour("faint"));
  block(right, at.now.right, n11 + n01, colour("gained"));
  block(right, at.now.wrong, n10 + n00, colour("faint"));
  const label = (x, yy, text, anchor, paint = "text") => picture.append(svg("text", { x, y: yy, "text-anchor": anchor, "font-size": 13, fill: colour(paint), "dominant-baseline": "middle" }, text));
  const head = (x, text, anchor) => picture.append(svg("text", { x, y: 12, "text-anchor": anchor, "font-size": 12.5, fill: colour("muted") }, text));
  head(edge, "baseline", "start");
  head(width - 2, "last checkpoint", "end");
  const middle = (from, value) => from + Math.max(y(value) / 2, 7);
  if (n11 + n10) label(edge + node + 6, middle(at.left.right, n11 + n10), `right ${percent((n11 + n10) / n)}`, "start");
  if (n01 + n00) label(edge + node + 6, Math.min(middle(at.left.wrong, n01 + n00), height - 8), `wrong ${percent((n01 + n00) / n)}`, "start");
  if (n11 + n01) label(right - 6, middle(at.now.right, n11 + n01), `right ${percent((n11 + n01) / n)}`, "end");
  if (n10 + n00) label(right - 6, Math.min(middle(at.now.wrong, n10 + n00), height - 8), `wrong ${percent((n10 + n00) / n)}`, "end");
  return picture;
}

// ---------------------------------------------------------------- the table of categories

function drawCategoryTable() {
  const probe = theProbe();
  const names = categoriesOf(probe);
  if (isText(probe)) return drawTextTable(probe, names);
  const raw = !isNumber(lastOf(probe.series[""], "knowledge_lost"));
  const loss = (name) => lastOf(probe.series[name], raw ? "forgetting" : "knowledge_lost") ?? -9;
  const rows = ["", ...names.sort((a, b) => loss(b) - loss(a))].map((name) => {
    const last = (metric) => lastOf(probe.series[name], metric);
    const series = probe.series[name];
    const sure = name && isSignificant(probe, name, series.n.length - 1);
    const unproven = name ? null : doubt(probe, "knowledge_lost") || null;
    const other = lostText(series) === lostText(probe.series[""]) ? "" : ` (${lostText(series).toLowerCase()})`;
    return {
      kind: name ? null : "whole",
      cells: [
        categoryName(name) + other,
        [sure ? el("span", { class: "down", title: "significant after Holm correction" }, "● ") : null, estimateOf(series, "knowledge_lost"), unproven && el("div", { class: "ci" }, unproven)].flat(),
        shareOf(series, "knowledge_gained"), `${percent(last("accuracy_before"))} → ${percent(last("accuracy_after"))}`,
        percent(last("forgetting")), percent(last("backward_transfer")), count(last("n")),
      ],
    };
  });
  const head = [["category", ""], [`${lostText(probe.series[""]).toLowerCase()} [95%]`, "n"], ["gained", "n"], ["accuracy", "n"], ["forgetting (1→0)", "n"], ["backward transfer (0→1)", "n"], ["items", "n"]];
  const marked = names.some((name) => isSignificant(probe, name, probe.series[name].n.length - 1));
  const legend = marked ? "●: significant loss (Holm-corrected over all categories). Differences among the others may be noise."
    : raw ? "Raw answers to the first prompt, lucky guesses included: differences may be noise."
    : !names.length ? null
    : "No category's loss is significant (Holm-corrected over all categories). Differences may be noise.";
  replace($("#category-table"), table(...withValues(head, rows)), legend && el("p", { class: "note" }, legend));
}

/** Kinds of text at the last checkpoint, those that got worse by most first. */
function drawTextTable(probe, names) {
  const worse = (name) => lastOf(probe.series[name], "bits_per_byte_change") ?? -9;
  const rows = ["", ...names.sort((a, b) => worse(b) - worse(a))].map((name) => {
    const series = probe.series[name], last = (metric) => lastOf(series, metric);
    const sure = name && isSignificant(probe, name, series.n.length - 1);
    return {
      kind: name ? null : "whole",
      cells: [
        categoryName(name),
        [sure ? el("span", { class: "down", title: "significant after Holm correction" }, "● ") : null, changeText(last("bits_per_byte_change"), last("bits_per_byte_change_low"), last("bits_per_byte_change_high"))],
        `${decimal(last("bits_per_byte_before"))} → ${decimal(last("bits_per_byte_after"))}`, percent(last("forgetting")), percent(last("backward_transfer")), count(last("n")),
      ],
    };
  });
  const head = [["category", ""], ["change [95%]", "n"], ["bits per byte", "n"], ["got worse", "n"], ["got better", "n"], ["documents", "n"]];
  replace($("#category-table"), table(...withValues(head, rows)), el("p", { class: "note" }, "●: significantly worse (Holm-corrected over all categories). Fewer bits per byte are better."));
}
