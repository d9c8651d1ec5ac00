// One item: its prompt, the right answer, and its answer at every checkpoint where it changed.

let detailItem = null;

function openDetail(i) {
  hideTip();
  detailItem = i;
  const dialog = $("#detail");
  replace(dialog, detailBar(i), detailBody(i));
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
}

function detailBar(i) {
  const items = itemsOf(theProbe());
  const order = Array.from(sorted());
  const place = order.indexOf(i);
  const go = (by) => () => { openDetail(order[place + by]); $(`#detail [data-go="${by}"]`)?.focus(); };
  return el("div", { class: "detail-bar" },
    el("h2", { id: "detail-title" }, breakable(items.ids[i])),
    el("button", { type: "button", "data-go": "-1", disabled: place < 1, onclick: go(-1), "aria-label": "Previous item" }, "←"),
    el("button", { type: "button", "data-go": "1", disabled: place < 0 || place >= order.length - 1, onclick: go(1), "aria-label": "Next item" }, "→"),
    el("button", { type: "button", autofocus: true, onclick: () => $("#detail").close() }, "Close"));
}

function detailBody(i) {
  const probe = theProbe(), items = itemsOf(probe), path = pathOf(probe);
  const last = path.begin[i + 1] - 1;
  const trajectory = report.trajectories[path.trajectory[i]];
  const meta = [items.category_names[items.category[i]], items.kinds[i].replace("_", " "), items.match[i] ? `match: ${items.match[i]}` : null].filter(Boolean);
  if (items.kinds[i] === "text") return textBody(i, probe, items, path, trajectory);
  const parts = [
    el("p", { class: "detail-meta" }, el("span", { class: `trajectory ${trajectory.replace(/ /g, "-")}` }, trajectoryText(trajectory)), recheckMark(probe, i), meta.map((text) => el("span", {}, text))),
    ...detailAsked(items, i),
  ];
  if (items.choices[i]) {
    const options = items.choices[i].map((text, c) =>
      el("li", { class: c === items.answer[i] ? "answer" : null },
        c === path.choice[last] ? el("span", { class: "tag now" }, "chosen now") : null,
        c === items.answer[i] ? el("span", { class: "tag" }, "right") : null, text));
    parts.push(detailPart("Options", el("ol", {}, options)));
  } else {
    parts.push(detailPart(items.expected[i].length > 1 ? "Any of these is right" : "Right answer", el("ol", {}, items.expected[i].map((text) => el("li", { class: "answer" }, text)))));
  }
  parts.push(...detailVariants(items, path, i), ...detailStrips(probe, i), marginPicture(path, i), detailTable(items, path, i));
  const whole = path.whole[last] >= 0 ? path.texts[path.whole[last]] : null;
  if (path.why[i]) parts.splice(1, 0, detailPart("Why it is wrong", el("p", {}, path.why[i])));
  if (whole !== null) parts.push(detailPart("Full generation, at the latest change of the answer", el("pre", {}, whole || "(empty)")));
  return el("div", { class: "detail-body" }, parts);
}

/** A document: its bits per byte at every checkpoint. */
function textBody(i, probe, items, path, trajectory) {
  const columns = columnsOf(theRun()), values = Array.from({ length: path.columns }, (_, c) => bitsAt(path, i, c));
  const rows = values.map((value, c) => ({ cells: [columns[c], decimal(value, 3), c ? changeText(value - values[0]) : "–"] }));
  return el("div", { class: "detail-body" },
    el("p", { class: "detail-meta" }, el("span", { class: `trajectory ${trajectory.replace(/ /g, "-")}` }, trajectoryText(trajectory)), [items.category_names[items.category[i]], "document"].filter(Boolean).map((text) => el("span", {}, text))),
    detailPart("Document", el("pre", {}, items.prompts[i])),
    ...detailStrips(probe, i), linePicture(values, "bits per byte", { zero: false }),
    detailPart("Bits per byte", el("div", { class: "scroll" }, table([["checkpoint", ""], ["bits per byte", "n"], ["change", "n"]], rows))));
}

const detailPart = (title, ...content) => el("div", {}, el("h3", {}, title), content);

/** What the item asks: its prompt, or its conversation with the tools that it offers. */
function detailAsked(items, i) {
  const conversation = items.conversations[i];
  if (!conversation) return [detailPart("Prompt", el("pre", {}, items.prompts[i] || "(empty)"))];
  const { tools, turns } = conversation;
  const turn = ([role, text, calls]) => el("div", { class: `turn ${role}` }, el("h4", {}, role),
    text || !calls.length ? el("pre", {}, text || "(empty)") : null, calls.map((call) => el("pre", { class: "call" }, call)));
  const offered = tools.length ? [el("details", { class: "tools" }, el("summary", {}, plural(tools.length, "tool"), " offered"), tools.map((tool) => el("pre", {}, tool)))] : [];
  return [detailPart("Conversation", el("div", { class: "conversation" }, offered, turns.map(turn)))];
}

/** How each variant of the prompt was answered, before and now. */
function detailVariants(items, path, i) {
  const variants = items.variants[i];
  if (!path.variants || !variants.length) return [];
  const columns = columnsOf(theRun());
  const line = (answers) => el("p", { class: "asked" }, path.variants.sides.map((side, s) => {
    const [state, text] = answers(side);
    return el("span", {}, `${s ? "" : "at the baseline, "}${columns[side.column]}: `, el("span", { class: `state s${state}` }, STATE_TEXT[state] ?? "not asked, for the first answer is the baseline's"), text ? ` “${text.trim()}”` : "");
  }));
  const first = (side) => {
    let k = path.begin[i];
    while (k + 1 < path.begin[i + 1] && path.at[k + 1] <= side.column) k++;
    return [path.state[k], answerAt(items, path, i, k)];
  };
  const further = (v) => (side) => {
    const { state, choice, said } = side.answers[v];
    return [state[i], said[i] >= 0 ? path.texts[said[i]] : choice[i] >= 0 ? items.choices[i]?.[choice[i]] : null];
  };
  const how = ({ weak, chat }) => [weak ? "same prompt, framed differently" : null, chat === true ? "with the chat template" : chat === false ? "as plain text" : null].filter(Boolean).join(", ");
  const parts = variants.map((variant, v) => el("div", { class: "variant" },
    el("h3", {}, `Variant ${v + 2}${how(variant) ? `: ${how(variant)}` : ""}`), el("pre", {}, variant.prompt || "(empty)"),
    variant.choices ? el("p", { class: "asked" }, `options: ${variant.choices.map((text) => text.trim()).join(" · ")}`) : null,
    line(further(v))));
  return [detailPart(`Answers to each of the ${variants.length + 1} prompt variants`, el("div", { class: "variant" }, el("h3", {}, "First prompt"), line(first)), ...parts)];
}

/** The item's outcomes in every run that evaluated it. */
function detailStrips(probe, i) {
  const id = itemsOf(probe).ids[i];
  return report.runs.flatMap((run) => {
    const own = probeOf(run, probe.name);
    if (!own || own.items === null || (run !== theRun() && own.items !== probe.items)) return [];
    const path = pathOf(own), at = itemsOf(own).ids[i] === id ? i : itemsOf(own).ids.indexOf(id);
    if (at < 0) return [];
    const columns = columnsOf(run);
    const strip = Array.from({ length: path.columns }, (_, c) => {
      const state = path.states[at * path.columns + c];
      return el("span", { style: `background:var(--${STATE_COLOURS[state]})`, title: `${columns[c]}: ${stateText(state)}` });
    });
    return [detailPart(report.runs.length > 1 ? `Checkpoints of ${run.name}` : "Checkpoints", el("div", { class: "strip" }, strip))];
  });
}

/** The margin over the checkpoints: it falls before the answer does. */
const marginPicture = (path, i) => linePicture(Array.from({ length: path.columns }, (_, c) => marginAt(path, i, c)), "nats", { title: "Margin of the right answer over the best wrong one (the line is zero): " });

/** A line over the checkpoints, with its first and its last value. */
function linePicture(values, unit, { title = "", zero = true } = {}) {
  const known = values.filter((value) => !Number.isNaN(value));
  if (known.length < 2) return null;
  const width = 700, height = 90, edge = 6, said = `${decimal(known[0])} → ${decimal(known[known.length - 1])} ${unit}`;
  const ends = zero ? [0, ...known] : known, low = Math.min(...ends), high = Math.max(...ends), span = high - low || 1;
  const x = (c) => edge + (c / Math.max(1, values.length - 1)) * (width - 2 * edge);
  const y = (value) => edge + ((high - value) / span) * (height - 2 * edge);
  const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, width: "100%", height, preserveAspectRatio: "none", role: "img", "aria-label": (title ? "Margin from " : "From ") + said.replace("→", "to") });
  if (zero) picture.append(svg("line", { x1: 0, x2: width, y1: y(0), y2: y(0), stroke: colour("line-strong"), "vector-effect": "non-scaling-stroke" }));
  let pen = "";
  values.forEach((value, c) => { if (!Number.isNaN(value)) pen += `${pen && !Number.isNaN(values[c - 1]) ? "L" : "M"}${x(c).toFixed(1)},${y(value).toFixed(1)}`; });
  picture.append(svg("path", { d: pen, fill: "none", stroke: colour("accent"), "stroke-width": 2, "vector-effect": "non-scaling-stroke" }));
  return detailPart(title + said, picture);
}

function detailTable(items, path, i) {
  const columns = columnsOf(theRun());
  const rows = [];
  for (let k = path.begin[i]; k < path.begin[i + 1]; k++) {
    const state = path.state[k], margin = marginAt(path, i, path.at[k]), said = answerAt(items, path, i, k), shown = said === null ? "–" : said.trim() || oneLine(said) || "(empty)";
    rows.push({ cells: [columns[path.at[k]], el("span", { class: `state s${state}` }, STATE_TEXT[state]), pieces(shown, 0, shown.length, said === null ? null : wrongPart(items, path, i, k, shown)), Number.isNaN(margin) ? "–" : decimal(margin)] });
  }
  return detailPart("Where the answer changed", el("div", { class: "scroll" }, table([["checkpoint", ""], ["outcome", ""], ["answer", ""], ["margin", "n"]], rows)));
}

function startDetail() {
  const dialog = $("#detail");
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("keydown", (event) => {
    const by = { ArrowRight: "1", ArrowLeft: "-1" }[event.key];
    const button = by && $(`#detail [data-go="${by}"]`);
    if (button && !button.disabled) button.click();
  });
}
