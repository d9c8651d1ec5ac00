// How it was measured: warnings, noise, cost, versions, fingerprints; and the downloads.

const SCORED = {
  likelihood: "likelihoods", generation: "generation", dtype: "precision", batch_tokens: "tokens per forward pass", processes: "world size", model: "model",
  overdue: "answers that took too long to judge",
};

function drawAbout() {
  const run = theRun(), probe = theProbe();
  const advice = warningsOf(run);
  const box = ({ title, text }) => el("div", { class: "advice" }, el("b", {}, title), withCode(text));
  replace($("#warnings"), advice.length ? advice.map(box) : el("p", { class: "empty" }, "No warnings."));
  const training = run.training.described.length ? facts("Training", run.training.described) : null;
  replace($("#facts"), training, costFacts(run), probe.items === null ? null : probeFacts(probe), probe.items === null ? null : scoredFacts(probe), versionFacts(run));
}

/** What there is to know about a run's record, and about each of its probes. */
const warningsOf = (run) => [
  ...run.incomplete.map((text) => ({ title: "not a whole run", text })),
  ...run.probes.flatMap((one) => (one.advice ?? []).map(({ key, text }) => ({ title: `${one.name} · ${key.replace(/_/g, " ")}`, text }))),
];

/** A text whose `names` are set as code. */
const withCode = (text) => text.split("`").map((part, i) => (i % 2 ? el("code", {}, part) : part));

const facts = (title, entries, ...more) =>
  el("div", {}, el("h3", {}, title), el("dl", {}, entries.filter(([, value]) => value !== null && value !== undefined && value !== "").flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)])), more);

function costFacts(run) {
  const seconds = run.seconds.filter(isNumber);
  if (!seconds.length) return facts("Cost of probing", [["time", "not recorded"]]);
  const total = seconds.reduce((a, b) => a + b, 0);
  const middle = [...seconds].sort((a, b) => a - b)[Math.floor(seconds.length / 2)];
  return facts("Cost of probing", [
    ["evaluations", count(run.steps.length)], ["total time", time(total)], ["median evaluation", time(middle)], ["longest evaluation", time(Math.max(...seconds))],
  ]);
}

const time = (seconds) => (seconds < 100 ? `${seconds.toFixed(1)} s` : `${(seconds / 60).toFixed(1)} min`);

function probeFacts(probe) {
  const flips = probe.series[""].rescored_flips?.[0];
  const persistence = lastOf(probe.series[""], "guess_persistence");
  const { normalization, chat, temperature, scorer } = probe.settings;
  const kinds = Object.entries(probe.kinds).map(([kind, n]) => `${count(n)} ${kind.replace("_", " ")}`).join(", ");
  return facts(`Probe ${probe.name}`, [
    ["items", kinds], ["fingerprint", el("code", { title: probe.fingerprint }, probe.fingerprint.slice(0, 12) + "…")], ["prompt format", chat ? "chat template" : "plain text"],
    ["choice scoring", probe.kinds.multiple_choice && { sum: "summed log-probability", length: "log-probability per byte", token: "log-probability per token" }[normalization]],
    ["decoding", probe.kinds.generation ? (temperature > 0 ? `sampled at temperature ${temperature}` : "greedy") : null],
    ["texts judged by", scorer ? el("code", {}, scorer) : null],
    ["variants of the prompt", count(lastOf(probe.series[""], "variants"))],
    ["numerical reproducibility", isNumber(flips) ? `${percent(flips)} of the items flip when the same model is scored again` : null],
    ["guess persistence", isNumber(persistence) ? `${decimal(persistence)} beyond chance` : null],
    ["estimate", report.methods[lastOf(probe.series[""], "knowledge_method")] ?? null],
  ]);
}

function scoredFacts(probe) {
  const [first, last] = [probe.scored[0] ?? {}, probe.scored[probe.scored.length - 1] ?? {}];
  const show = (value) => (typeof value === "object" ? JSON.stringify(value) : String(value));
  const entries = Object.entries(last).filter(([name]) => name !== "run").map(([name, value]) => {
    const before = first[name];
    const changed = before !== undefined && JSON.stringify(before) !== JSON.stringify(value);
    return [SCORED[name] ?? name.replace(/_/g, " "), changed ? `${show(before)}, at the end ${show(value)}` : show(value)];
  });
  return facts("How it was scored", entries.length ? entries : [["method", "not recorded"]]);
}

function versionFacts(run) {
  return facts("Run", [
    ["name", run.name], ["started", run.created.replace("T", " ").replace("+00:00", " UTC")], ["directory", el("code", {}, run.path)],
    ["stage", report.pipeline || run.stage.number > 1 ? `${run.stage.number}, after ${plural(run.stage.samples_before ?? 0, "sample")}` : null],
    ...Object.entries(run.versions),
  ]);
}

/** The numbers of warnings, beside the verdict. */
function countWarnings() {
  const n = warningsOf(theRun()).length;
  const link = $("#warning-count");
  link.hidden = n === 0;
  replace(link, `${plural(n, "warning")} about these numbers`);
}

// ---------------------------------------------------------------- downloads

/**
 * The run's history as the CSV that pandas would write: fractions, nothing where there is no number. A name that a
 * spreadsheet would take for a formula begins with an apostrophe.
 */
function historyCsv(run) {
  const inert = (text) => (/^[=+\-@\t\r]/.test(text) ? `'${text}` : text);
  const quote = (text) => (/[",\n\r]/.test(text) ? `"${inert(text).replace(/"/g, '""')}"` : inert(text));
  const lines = [report.columns.join(",")];
  run.steps.forEach((_, i) => {
    for (const [probe, category] of run.order) {
      const series = probeOf(run, probe).series[category];
      const cell = (name) => (name === "probe" ? quote(probe) : name === "category" ? quote(category) : series[name]?.[i] ?? "");
      lines.push(report.columns.map(cell).join(","));
    }
  });
  return lines.join("\n") + "\n";
}

function save(name, text, type) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  el("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

function drawDownloads() {
  const run = theRun();
  const name = run.name.replace(/[^\w.-]+/g, "-");
  replace(
    $("#download-buttons"),
    el("button", { type: "button", id: "save-csv", onclick: () => save(`${name}.csv`, historyCsv(run), "text/csv") }, "History as CSV"),
    el("button", { type: "button", id: "save-json", onclick: () => save(`${name}.json`, run.compare + "\n", "application/json") }, "First vs. last as JSON"),
    report.runs.length > 1 ? el("span", { class: "note" }, `of ${run.name}`) : null,
  );
}
