// The curves over training: any metric, on any axis, of any categories and all runs, with the fit and its forecast.

const METRICS = [
  ["Corrected for guessing, all variants", [
    ["knowledge_lost", "Lost", "lost"],
    ["known_lost", "Lost, as a share of what was known", "lost"],
    ["knowledge_gained", "Gained", "gained"],
    ["knowledge_lost_net", "Lost less gained", "lost"],
    ["macro_knowledge_lost", "Lost, mean over probes", "lost"],
    ["stage_knowledge_lost", "Lost in this stage", "lost"],
  ]],
  ["Form and access", [
    ["spurious_forgetting", "Lost in this prompt alone", "lost"],
    ["recall_lost", "No longer recalled", "lost"],
    ["recall_still_chosen", "Of those, still answered right as a choice", "gained"],
  ]],
  ["Text", [
    ["bits_per_byte_change", "Change in bits per byte", "bits"],
    ["bits_per_byte_after", "Bits per byte", "bits"],
    ["kl", "KL to the baseline, per token", "nats"],
    ["top1_agreement", "Same most likely token as the baseline", "gained"],
  ]],
  ["Graded scores", [
    ["score_after", "Mean score", "score"],
    ["score_change", "Change of the mean score", "score"],
  ]],
  ["Raw answers, first prompt", [
    ["forgetting", "Forgetting (1→0)", "lost"],
    ["backward_transfer", "Backward transfer (0→1)", "gained"],
    ["shares", "All four shares", "shares"],
    ["net_change", "Net change of accuracy", "gained"],
    ["accuracy_after", "Accuracy", "gained"],
    ["stage_forgetting", "Forgetting in this stage", "lost"],
    ["stage_backward_transfer", "Backward transfer in this stage", "gained"],
  ]],
  ["As in the paper (arXiv 2510.17776)", [
    ["forgetting_adjusted", "Forgetting, adjusted", "lost"],
    ["backward_transfer_adjusted", "Backward transfer, adjusted", "gained"],
  ]],
  ["Item trajectories", [
    ["ever_forgotten", "Ever forgotten", "lost"],
    ["recovered", "Of those, recovered", "gained"],
    ["churn", "Changed since the last checkpoint", "lost"],
    ["unparsed", "Unparsed answers", "lost"],
    ["format_loss", "Right at the baseline, unparsed now", "lost"],
    ["margin", "Margin of the right answer", "nats"],
    ["drift", "Drift from the baseline (KL)", "nats"],
  ]],
];
const METRIC = new Map(METRICS.flatMap(([, entries]) => entries.map(([name, text, tone]) => [name, { text, tone }])));
const AXES = { samples: "samples seen", steps: "steps", tokens: "tokens seen" };
const SHARES = [["n11", "stayed right (1→1)"], ["n10", "forgetting (1→0)"], ["n01", "backward transfer (0→1)"], ["n00", "stayed wrong (0→0)"]];
const MOST_CURVES = 8;
const CHANCE = ["ever_forgotten", "churn"];  // what grows with looks has its expectation by chance beside it

/** The axes that every run knows at every checkpoint. */
function axesKnown() {
  return Object.keys(AXES).filter((axis) => report.runs.every((run) => run.axes[axis].every(isNumber)));
}

/** x of a run's checkpoints: after the earlier stages if the runs are one pipeline. */
function places(run) {
  const before = report.pipeline && chosen.axis === "samples" ? run.stage.samples_before ?? 0 : 0;
  return run.axes[chosen.axis].map((value) => value + before);
}

const axisTitle = () => (report.pipeline && chosen.axis === "samples" ? "samples seen in all stages" : AXES[chosen.axis]);

/** What is drawn: a curve a run and chosen category. */
function curvesShown() {
  const found = [];
  report.runs.forEach((run, r) => {
    const probe = probeOf(run, chosen.probe);
    if (!probe) return;
    for (const category of chosen.categories) {
      const series = probe.series[category];
      if (series) found.push({ run, r, probe, category, series });
    }
  });
  return found;
}

function curveControls() {
  const probe = theProbe();
  const canFit = chosen.metric === "knowledge_lost" && chosen.categories.some(isFitted);
  const known = METRICS.map(([group, entries]) => [
    group,
    entries.filter(([name]) => name === "shares" || probe.series[""][name]),
  ]).filter(([, entries]) => entries.length);
  replace(
    $("#curve-controls"),
    select("Metric", known, chosen.metric, (value) => { Object.assign(chosen, { metric: value, metricChosen: true }); refresh("curves"); }),
    select("Over", [["", axesKnown().map((axis) => [axis, AXES[axis]])]], chosen.axis, (value) => { chosen.axis = value; refresh("curves"); }),
    taskControl(),
    checkbox("Log axis", chosen.log, (value) => { chosen.log = value; refresh("curves"); }),
    checkbox("Fit and forecast", chosen.fit && canFit, (value) => { chosen.fit = value; refresh("curves"); }, { disabled: !canFit }),
  );
}

function curveChips() {
  const names = ["", ...categoriesOf(theProbe())];
  const colours = curveColours();
  $("#curve-categories").hidden = names.length < 3;
  replace(
    $("#curve-categories"),
    names.map((name) => {
      const on = chosen.categories.includes(name);
      const dot = el("span", { class: "dot", style: on ? `background:${colours.get(name)}` : null });
      return el("button", { type: "button", class: "chip", "aria-pressed": String(on), "data-category": name, onclick: () => toggleCategory(name) }, dot, categoryName(name));
    }),
  );
}

function toggleCategory(name) {
  const on = chosen.categories.includes(name);
  const rest = chosen.categories.filter((other) => other !== name);
  chosen.categories = on ? (rest.length ? rest : [""]) : [...rest, name].slice(-MOST_CURVES);
  refresh("curves");
}

/** Colour by category; with one category, of what it tells. */
function curveColours() {
  const { tone } = METRIC.get(chosen.metric);
  const one = chosen.categories.length === 1 ? { lost: colour("lost"), gained: colour("gained") }[tone] : null;
  const all = palette();
  return new Map(chosen.categories.map((name, i) => [name, one ?? all[i % all.length]]));
}

/** Knowledge lost, unless it is known at the baseline alone, or nowhere: then what the first prompts show. */
function defaultMetric() {
  if (isText(theProbe()) && theProbe().series[""].bits_per_byte_change) return "bits_per_byte_change";
  const later = (name) => report.runs.some((run) => probeOf(run, chosen.probe)?.series[""][name]?.slice(1).some(isNumber));
  return theProbe().series[""].knowledge_lost && (later("knowledge_lost") || !later("forgetting")) ? "knowledge_lost" : "forgetting";
}

function drawCurves() {
  if (!chosen.metricChosen || (chosen.metric !== "shares" && !theProbe().series[""][chosen.metric])) chosen.metric = defaultMetric();
  curveControls();
  curveChips();
  const shares = chosen.metric === "shares";
  const curves = shares ? curvesShown().filter(({ r }) => r === chosen.run).slice(0, 1) : curvesShown();
  const title = METRIC.get(chosen.metric);
  const traces = shares ? shareTraces(curves[0]) : curves.flatMap((curve) => curveTraces(curve, curves.length));
  const fitted = fitTraces(), task = taskTraces();
  const several = traces.concat(fitted.traces).filter((trace) => trace.showlegend !== false).length > 1;
  const far = Math.max(...report.runs.flatMap(places).filter(isNumber), ...fitted.traces.flatMap((trace) => trace.x));
  const layout = withTask(chartLayout({
    xaxis: { title: axisTitle(), type: chosen.log ? "log" : "linear", rangemode: "tozero", tickformat: far < 100_000 ? "," : "~s" },
    yaxis: {
      title: shares ? "Share of items" : title.text, tickformat: title.tone in MEASURES ? "~g" : ".1~%",
      zeroline: true, zerolinecolor: colour("line-strong"), zerolinewidth: 1, rangemode: shares || chosen.metric === "bits_per_byte_after" ? "normal" : "tozero",
      ...(shares ? { range: [0, 1] } : fitted.most > 1 ? { range: [Math.min(0, ...traces.flatMap((trace) => trace.y)), 1.02] } : {}),
    },
    margin: { l: 60, r: 12, t: several ? 34 : 10, b: 46 },
    showlegend: several,
    shapes: stageShapes(),
    annotations: stageLabels(),
    height: (innerWidth < 640 ? 340 : 400) + legendHeight(traces),
  }), task);
  draw("#curve-chart", [...fitted.traces.slice(0, 2), ...traces, ...fitted.traces.slice(2), ...task], layout, `${title.text} of ${probeName(chosen.probe)}${task.length ? `, and below it ${taskName(theTask()).toLowerCase()},` : ""} over ${axisTitle()}; the numbers follow as a table`);
  replace($("#curve-note"), [curveNotes(curves), taskNote(task), fitted.hint].filter(Boolean).join(" "));
  $("#curve-fit").hidden = fitted.note === "";
  replace($("#curve-fit summary"), fitted.traces.length ? "About the fitted curve" : "Why no curve is fitted");
  replace($("#fit-note"), fitted.note);
  replace($("#curve-table"), curveTable(curves));
}

/** What the rows of the legend after the first take, so that many curves with long names leave the plot its room. */
function legendHeight(traces) {
  const shown = traces.filter((trace) => trace.showlegend === true).length;
  const widest = Math.max(0, ...traces.filter((trace) => trace.showlegend === true).map((trace) => textWidth(trace.name, 12.5) + 60));
  const across = Math.max(1, Math.floor(($("#curve-chart").clientWidth - 80) / widest));
  return shown ? 28 * (Math.ceil(shown / across) - 1) : 0;
}

function curveTraces({ run, r, category, series }, n) {
  const { tone, text } = METRIC.get(chosen.metric);
  const values = series[chosen.metric] ?? [];
  const [low, high] = ["low", "high"].map((end) => series[`${chosen.metric}_${end}`]);
  const x = places(run);
  const kept = values.map((_, i) => i).filter((i) => isNumber(values[i]) && (!chosen.log || x[i] > 0));
  const several = report.runs.length > 1;
  const all = palette();
  const single = chosen.categories.length === 1;
  const line = several && single ? all[r % all.length] : curveColours().get(category);
  const name = [several ? run.name : null, single && several ? null : categoryName(category)].filter(Boolean).join(" · ");
  const show = (i) => shownOf(series, chosen.metric, tone, i) + (MEASURES[tone] ?? "");
  const hover = kept.map((i) => {
    const ends = low && isNumber(low[i]) ? ` ${plain(shownEnds(series, chosen.metric, tone, i))}` : "";
    const span = chosen.metric === "knowledge_lost" && rangeText(series, i) ? `<br>${rangeText(series, i)}` : "";
    return `<b>${show(i)}</b>${ends}${span}<br>${plain(name)}<br>${plain(whenText(run, i))}<br>${plain(plural(series.n[i] ?? 0, "item"))}`;
  });
  const pick = (list) => kept.map((i) => list[i]);
  const traces = [];
  const band = { x: pick(x), mode: "lines", line: { width: 0 }, hoverinfo: "skip", showlegend: false, legendgroup: name };
  const between = (from, to, alpha) => traces.push({ ...band, y: pick(from) }, { ...band, y: pick(to), fill: "tonexty", fillcolor: faded(line, alpha) });
  if (n === 1 && kept.length > 1 && series[`${chosen.metric}_range_high`]) between(series[`${chosen.metric}_range_low`], series[`${chosen.metric}_range_high`], 0.07);
  if (low && kept.length > 1) between(low, high, n > 3 ? 0.07 : 0.15);
  const chance = n === 1 && CHANCE.includes(chosen.metric) ? series[`${chosen.metric}_chance`] : null;
  if (chance) {
    traces.push({ ...band, y: pick(chance), line: { width: 1.5, dash: "dot", color: colour("faint") }, name: "expected by chance", showlegend: true });
  }
  const raw = n === 1 && chosen.metric === "knowledge_lost" && rawOnly(run, series).length > 0;
  if (raw) {
    const at = x.map((_, i) => i).filter((i) => isNumber(series.forgetting?.[i]) && (!chosen.log || x[i] > 0));
    traces.push({
      x: at.map((i) => x[i]), y: at.map((i) => series.forgetting[i]), mode: "markers+lines", name: "forgetting (1→0), first prompt only", showlegend: true,
      line: { color: colour("faint"), width: 1.5, dash: "dot" }, marker: { color: colour("faint"), size: 4 }, hoverinfo: "text",
      hovertext: at.map((i) => `<b>${percent(series.forgetting[i])}</b> right at the baseline, wrong now<br>${plain(whenText(run, i))}`),
    });
  }
  traces.push({
    x: pick(x), y: pick(values), mode: "lines+markers", name: plain(raw ? "lost in all prompt variants" : fitting(name || text, 12.5, Math.min(320, innerWidth - 150))), legendgroup: name, showlegend: n > 1 || raw,
    line: { color: line, width: 2, dash: several && !single ? ["solid", "dot", "dash", "dashdot"][r % 4] : "solid" },
    marker: { color: line, size: kept.length > 60 ? 3 : 6 }, hoverinfo: "text", hovertext: hover,
  });
  return traces;
}

function shareTraces(curve) {
  if (!curve) return [];
  const { run, series } = curve;
  const fills = [faded(colour("gained"), 0.3), faded(colour("lost"), 0.75), faded(colour("gained"), 0.75), faded(colour("lost"), 0.15)];
  const x = places(run);
  const kept = x.map((_, i) => i).filter((i) => series.n[i] > 0 && (!chosen.log || x[i] > 0));
  return SHARES.map(([name, text], s) => ({
    x: kept.map((i) => x[i]), y: kept.map((i) => series[name][i] / series.n[i]), stackgroup: "shares", name: text, mode: "lines",
    line: { width: 0.5, color: colour("raised") }, fillcolor: fills[s], hoverinfo: "text",
    hovertext: kept.map((i) => `<b>${percent(series[name][i] / series.n[i])}</b> ${text}<br>${plural(series[name][i], "item")} of ${count(series.n[i])}<br>${plain(whenText(run, i))}`),
  }));
}

/** The fitted curve as a formula. */
function lawOf({ family, parameters: { a, b, c, m, s, h } }) {
  if (family === "power") return `${a.toPrecision(3)} · D^${b.toFixed(2)}, D in samples`;
  if (family === "exponential") return `${decimal(a, 3)} · (1 − exp(−D / ${count(c)})), D in samples`;
  if (family === "log-sigmoid") return `${decimal(a, 3)} / (1 + (${count(m)} / D)^${h.toFixed(1)}), D in samples`;
  return `a sigmoid, steepest at ${plural(Math.round(m), "sample")} (scale ${count(s)})`;
}

/** Whether the chosen run has a curve fitted for a category of the chosen probe. */
const isFitted = (category) => theProbe().fits[category]?.reason === "";

/** The fit of the chosen run and its only chosen category: band first, then curve; how to get one, and what there is to say. */
function fitTraces() {
  const none = { traces: [], hint: "", note: "", most: 0 };
  if (chosen.metric !== "knowledge_lost") return none;
  if (chosen.categories.length > 1) return chosen.fit && chosen.categories.some(isFitted) ? { ...none, hint: "Choose one category to see its fit and forecast." } : none;
  const [category] = chosen.categories;
  const fit = theProbe().fits[category];
  if (!fit) return { ...none, hint: "No curve was fitted for this category: only the first 40 are." };
  if (fit.reason) return { ...none, note: `No fit: ${fit.reason}.` };
  if (!chosen.fit) return none;
  if (chosen.axis !== "samples") return { ...none, hint: "The fit is over samples seen: choose that axis to see it." };
  const before = report.pipeline ? theRun().stage.samples_before ?? 0 : 0;
  const kept = fit.samples.map((_, i) => i).filter((i) => !chosen.log || fit.samples[i] + before > 0);
  const x = kept.map((i) => fit.samples[i] + before);
  const ink = colour("faint");
  const band = { x, mode: "lines", line: { width: 0 }, hoverinfo: "skip", showlegend: false };
  const law = lawOf(fit);
  const end = fit.samples.length - 1;
  return {
    hint: `Fit: at ${plural(Math.round(x[x.length - 1]), "sample")}, twice the data seen, ${percent(fit.knowledge_lost[end])} ${interval(fit.low[end], fit.high[end])} would be lost.`,
    most: fit.high[end],
    traces: [
      { ...band, y: kept.map((i) => fit.low[i]) },
      { ...band, y: kept.map((i) => fit.high[i]), fill: "tonexty", fillcolor: faded(ink, 0.14) },
      {
        x, y: kept.map((i) => fit.knowledge_lost[i]), mode: "lines", name: "fit and forecast", line: { color: ink, width: 1.5, dash: "dash" },
        hoverinfo: "text", hovertext: kept.map((i, k) => `<b>${percent(fit.knowledge_lost[i])}</b> ${plain(interval(fit.low[i], fit.high[i]))}<br>fit at ${plain(plural(Math.round(x[k]), "sample"))}`),
      },
    ],
    note: `The curve is ${law}, with a ${percent(fit.confidence, 0)} bootstrap band over items; it cannot pass what was known at the baseline.`,
  };
}

/** Where one stage of a pipeline ends and the next begins. */
function stageStarts() {
  if (!report.pipeline || chosen.axis !== "samples") return [];
  return report.runs.map((run) => ({ x: places(run)[0], name: run.name })).filter(({ x }) => !chosen.log || x > 0);
}

function stageShapes() {
  return stageStarts().filter(({ x }) => x > 0).map(({ x }) => ({
    type: "line", x0: x, x1: x, y0: 0, y1: 1, yref: "paper", line: { color: colour("line-strong"), width: 1, dash: "dot" },
  }));
}

function stageLabels() {
  return stageStarts().map(({ x, name }) => ({
    x: chosen.log ? Math.log10(x) : x, y: 1, yref: "paper", xanchor: "left", yanchor: "top", showarrow: false, text: plain(name), font: { size: 12, color: colour("muted") }, xshift: 4,
  }));
}

function curveNotes(curves) {
  const notes = [];
  if (curves.some(({ series }) => series[`${chosen.metric}_low`])) notes.push("Bands are 95% intervals.");
  if (curves.length === 1 && curves[0].series[`${chosen.metric}_range_high`]) notes.push("The wide pale band is the range from “at least” to “at most”.");
  if (curves.length === 1 && lastOf(curves[0].series, "knowledge_method") === "exact" && chosen.metric === "knowledge_lost") notes.push("Items are open-ended: this counts those no longer answered correctly.");
  const fewer = curves.length && chosen.metric.startsWith("know") ? curves[0].run.steps.filter((_, i) => curves[0].series.n[i] > 0 && !isNumber(curves[0].series[chosen.metric]?.[i])).length : 0;
  if (fewer) notes.push(`${plural(fewer, "checkpoint")} asked only some of the prompt variants and ${fewer === 1 ? "has" : "have"} raw numbers only.`);
  if (chosen.log) notes.push("A log axis cannot show the baseline at 0.");
  if (chosen.metric === "shares" && report.runs.length > 1) notes.push(`Shares of ${theRun().name}.`);
  if (report.pipeline && report.runs.some((run) => run.stage.number > 1 && !run.other_baseline)) notes.push("A stage without a baseline of an earlier one counts from its own first checkpoint.");
  return notes.join(" ");
}

function curveTable(curves) {
  const shares = chosen.metric === "shares";
  const { tone } = METRIC.get(chosen.metric);
  const head = [["run", ""], ["category", ""], ["checkpoint", ""], ["items", "n"], ...(shares ? SHARES.map(([, text]) => [text, "n"]) : [[METRIC.get(chosen.metric).text, "n"]])];
  const beside = curves.some(({ run }) => run.task.metrics[theTask()]) ? theTask() : null;
  if (beside !== null) head.push([taskName(beside), "n"]);
  const rows = curves.flatMap(({ run, category, series }) =>
    run.steps.map((_, i) => ({
      cells: [
        run.name, categoryName(category), whenText(run, i), count(series.n[i]),
        ...(shares
          ? SHARES.map(([name]) => percent(series[name][i] / series.n[i]))
          : [tone in MEASURES ? `${shownOf(series, chosen.metric, tone, i)} ${shownEnds(series, chosen.metric, tone, i)}`.trim() : estimateOf(series, chosen.metric, i)]),
        ...(beside === null ? [] : [taskNumber(run.task.metrics[beside]?.at[i])]),
      ],
    })),
  );
  return table(head, rows);
}
