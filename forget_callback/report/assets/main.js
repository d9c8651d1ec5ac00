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
  refresh();
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
  for (const line of document.querySelectorAll(".verdict")) {
    const { run, probe } = line.dataset;
    const name = $(".probe-name", line);
    const open = () => { chosen.run = Number(run); chosen.probe = probe; choose(); $("#curves").scrollIntoView({ block: "start" }); };
    if (report.runs.length > 1 || theRun().probes.length > 1) {
      fill(name, { role: "button", tabindex: "0", style: "cursor:pointer", title: "Show this probe below", onclick: open, onkeydown: (event) => { if (event.key === "Enter") open(); } }, []);
    }
  }
}

/** Once the first screen stands, the rest is drawn as it comes near. */
function ready() {
  if (document.documentElement.dataset.ready) return;
  document.documentElement.dataset.ready = String(Math.round(performance.now()));
  for (const id of sections.keys()) watcher.observe($(`#${id}`));
}

async function start() {
  fetchPlotly();
  report = JSON.parse(await unpacked("#packed-data"));
  $("#packed-data").remove();
  chosen.probe = theRun().probes[0].name;
  chosen.axis = axesKnown()[0] ?? "steps";
  if (report.trajectories.length && report.states.length !== STATE_COLOURS.length) throw new Error("states differ");
  section("curves", drawCurves, { soon: true });
  section("losses", drawLosses, { soon: true });
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
  choose();
  let timer = 0, width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth === width) return;  // a phone's address bar comes and goes
    width = innerWidth;
    clearTimeout(timer);
    timer = setTimeout(() => { switches(); refresh(); }, 150);
  });
  addEventListener("beforeprint", () => { for (const one of sections.values()) if (one.stale) drawSection(one); });
}

start().catch((error) => {
  const place = $("#failed");
  place.hidden = false;
  place.textContent = `This page could not be drawn: ${error.message}. It needs a browser of 2023 or later.`;
  throw error;
});
