// What all charts share: plotly.js, loaded from this file when it is first needed, the theme's colours, escaping.

let plotly = null;
let plotlyText = null;

/** Begins to unpack plotly.js, beside everything else. */
function fetchPlotly() {
  plotlyText ??= unpacked("#packed-plotly");
  return plotlyText;
}

/** plotly.js, once. */
function withPlotly() {
  plotly ??= fetchPlotly().then(async (text) => {
    await new Promise((done) => setTimeout(done, 20));  // what stands so far is painted before a second of parsing
    const script = document.createElement("script");
    script.textContent = text;
    document.head.append(script);
    $("#packed-plotly").remove();
    return window.Plotly;
  });
  return plotly;
}

/** plotly reads a little markup in its texts: what is data must show as it is. */
function plain(text) {
  return String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;").replace(/\$/g, "&#36;");
}

const colours = new Map();

/** A colour of the theme; read once, for each reading makes the browser lay out the page. */
function colour(name) {
  if (!colours.has(name)) colours.set(name, getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim());
  return colours.get(name);
}

const isDark = () => document.documentElement.dataset.theme === "dark";

/** Okabe and Ito's colours, told apart by all; a little lighter on dark ground. */
function palette() {
  return isDark()
    ? ["#74b0ea", "#f08a4b", "#3fc39b", "#e39ac4", "#e5b84a", "#8fd0f2", "#c3a6e0", "#b9b9b0"]
    : ["#0072b2", "#d55e00", "#009e73", "#b8538f", "#b98300", "#3f9bd1", "#7a5aa6", "#6d6d66"];
}

/** `#rrggbb` with an alpha. */
function faded(hex, alpha) {
  const [r, g, b] = [1, 3, 5].map((i) => Number.parseInt(hex.slice(i, i + 2), 16));
  return `rgba(${r},${g},${b},${alpha})`;
}

function chartLayout(extra = {}) {
  const axis = {
    gridcolor: colour("line"), linecolor: colour("line-strong"), zeroline: false, tickcolor: colour("line-strong"), ticks: "",
    ticklabeloverflow: "allow",
  };
  return {
    font: { family: colour("sans"), size: 12.5, color: colour("muted") },
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", margin: { l: 60, r: 12, t: 10, b: 46 },
    hoverlabel: {
      bgcolor: colour("raised"), bordercolor: colour("line-strong"), align: "left",
      font: { color: colour("text"), size: 13, family: colour("sans") },
    },
    legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", bgcolor: "rgba(0,0,0,0)" },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("faint"), activecolor: colour("accent") }, dragmode: false, ...extra,
    xaxis: { ...axis, ...extra.xaxis, title: axisText(extra.xaxis) }, yaxis: { ...axis, ...extra.yaxis, title: axisText(extra.yaxis) },
  };
}

const axisText = (axis) => (axis?.title ? { text: axis.title, font: { size: 13 } } : undefined);

let charts = Promise.resolve();  // settled once every chart that was asked for stands

/** Draws or redraws a chart; of two calls for one place the later one stays. */
function draw(id, traces, layout, label) {
  const drawn = drawChart(id, traces, layout, label)
    .catch((error) => { noChart(id, `This chart cannot be drawn: ${error.message}`); });
  charts = Promise.all([charts, drawn]);
}

async function drawChart(id, traces, layout, label) {
  const place = $(id);
  const turn = (place.turn = (place.turn ?? 0) + 1);
  const Plotly = await withPlotly();
  if (place.turn !== turn) return;
  for (const text of place.querySelectorAll(":scope > .empty")) text.remove();
  place.setAttribute("aria-label", label);
  const width = place.clientWidth || undefined;  // as it is now: plotly's own measuring comes too late for a printer
  await Plotly.react(place, traces, { ...layout, width }, {
    displaylogo: false, responsive: true, scrollZoom: false,
    modeBarButtons: [["toImage", "zoom2d", "resetScale2d"]].map((names) => (layout.polar ? ["toImage"] : names)),
  });
}

/** Says why there is no chart. */
function noChart(id, text) {
  const place = $(id);
  place.turn = (place.turn ?? 0) + 1;
  if (place.data) window.Plotly.purge(place);
  place.style.minHeight = "0";
  replace(place, el("p", { class: "empty" }, text));
}
