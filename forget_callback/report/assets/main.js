// Reads the data, draws what is on the screen, and keeps all parts on the same run and probe.

function switches() {
  const run = theRun();
  const names = run.probes.map((probe) => [probe.name, probeName(probe.name)]);
  replace(
    $("#switches"),
    report.runs.length > 1 ? select("Run", [["", report.runs.map((one, i) => [String(i), one.name])]], String(chosen.run), chooseRun, { hideLabel: true }) : null,
    names.length > 1 ? (names.length > 4 || innerWidth < 640 ? select("Probe", [["", names]], chosen.probe, chooseProbe, { hideLabel: true }) : segments("Probe", names, chosen.probe, chooseProbe)) : null,
  );
}

function chooseRun(value) {
  chosen.run = Number(value);
  if (!theProbe()) chosen.probe = theRun().probes[0].name;
  choose();
}

function chooseProbe(name) {
  chosen.probe = name;
  choose();
}

/** Brings every part to the chosen run and probe. */
function choose() {
  const known = ["", ...categoriesOf(theProbe())];
  chosen.categories = chosen.categories.filter((name) => known.includes(name));
  if (!chosen.categories.length) chosen.categories = [""];
  Object.assign(chosen, { page: 0, search: "" });
  gridKey = null;
  switches();
  countWarnings();
  return refresh();
}

function startTheme() {
  $("#theme").addEventListener("click", () => {
    const theme = isDark() ? "light" : "dark";
    document.documentElement.dataset.theme = theme;
    colours.clear();
    try { localStorage.setItem("forget-theme", theme); } catch { /* a page from a file may have no storage */ }
    refresh();
  });
}

function startVerdicts() {
  for (const line of document.querySelectorAll(".verdict[data-probe]")) {
    const { run, probe } = line.dataset;
    const name = $(".probe-name", line);
    const open = () => { chosen.run = Number(run); chosen.probe = probe; choose(); $("#curves").scrollIntoView({ block: "start" }); };
    if (report.runs.length > 1 || theRun().probes.length > 1) {
      fill(name, { role: "button", tabindex: "0", style: "cursor:pointer", title: "Show this probe below", onclick: open, onkeydown: (event) => { if (event.key === "Enter") open(); } }, []);
    }
  }
}

/**
 * Keeps the page loading until the returned function is called, so that whoever takes a picture or prints "when it is
 * loaded" gets the charts: a document that is open for writing in a frame holds back the load event of its parent.
 */
function holdLoad() {
  const frame = el("iframe", { hidden: true, title: "loading", "aria-hidden": "true" });
  document.body.append(frame);
  const held = frame.contentDocument;  // null in a sandbox, as W&B shows pages: that one draws as soon as it can
  held?.open();
  return () => { held?.close(); frame.remove(); };
}

/** Prints in light, with details open and charts as wide as paper; afterwards all is as it was. */
function startPrinting() {
  const root = document.documentElement;
  let before = null;
  const turn = (theme) => {
    root.dataset.theme = theme;
    colours.clear();
    for (const section of sections.values()) section.stale = true;
    drawNow();
  };
  const begin = () => {
    if (before) return;
    before = { theme: root.dataset.theme, closed: [...document.querySelectorAll("details:not([open])")] };
    for (const one of before.closed) one.open = true;
    root.classList.add("printing");
    turn("light");
  };
  const end = () => {
    if (!before) return;
    for (const one of before.closed) one.open = false;
    root.classList.remove("printing");
    turn(before.theme);
    before = null;
  };
  addEventListener("beforeprint", begin);
  addEventListener("afterprint", end);
  matchMedia("print").addEventListener("change", ({ matches }) => (matches ? begin() : end()));
  if (matchMedia("print").matches) begin();
}

async function start() {
  fetchPlotly();
  report = JSON.parse(await unpacked("#packed-data"));
  $("#packed-data").remove();
  chosen.probe = theRun().probes[0].name;
  chosen.axis = axesKnown()[0] ?? "steps";
  if (report.trajectories.length && report.states.length !== STATE_COLOURS.length) throw new Error("states differ");
  section("losses", drawLosses);
  section("curves", drawCurves);
  section("runs", drawRuns);
  section("map", drawMap);
  section("flow", drawFlow);
  section("category-numbers", drawCategoryTable);
  section("items", drawItems);
  section("about", drawAbout);
  section("downloads", drawDownloads);
  for (const id of sections.keys()) {
    $(`#${id}`).hidden = id === "runs" && report.runs.length < 2;
  }
  startTheme();
  startVerdicts();
  startGrid();
  startDetail();
  await choose();
  await charts;
  for (const id of sections.keys()) watcher.observe($(`#${id}`));
  startPrinting();
  document.documentElement.dataset.ready = String(Math.round(performance.now()));
  let timer = 0, width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth === width) return;  // a phone's address bar comes and goes
    width = innerWidth;
    clearTimeout(timer);
    timer = setTimeout(() => { switches(); refresh(); }, 150);
  });
}

const loaded = holdLoad();
start().catch((error) => {
  const place = $("#failed");
  place.hidden = false;
  place.textContent = `This page could not be drawn: ${error.message}. It needs a browser of 2023 or later.`;
  throw error;
}).finally(loaded);
