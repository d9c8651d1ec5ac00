// The answer grid: a row per item, a column per checkpoint, a colour per outcome. Drawn on a canvas, only the visible part.

const STATE_COLOURS = ["unscored", "right", "wrong", "unparsed", "truncated"];
const STATE_TEXT = ["not scored", "right", "wrong", "unparsed", "truncated"];
const stateText = (state) => (isText(theProbe()) ? ["not measured", "not worse", "worse than at the baseline"][state] : STATE_TEXT[state]);
const ROW = 14;
let gridAt = { row: 1, name: 0, width: 0 };

function drawGrid() {
  const path = pathOf(theProbe()), run = theRun();
  replace($("#grid-controls"), segments("Rows of the grid", [["all", "Overview"], ["rows", "Row by row"]], chosen.rows ? "rows" : "all", (value) => { chosen.rows = value === "rows"; $("#grid").scrollTop = 0; drawGrid(); }));
  const used = new Set(path.states);
  replace($("#grid-legend"), STATE_TEXT.map((_, s) => (used.has(s) ? el("span", {}, el("i", { style: `background:var(--${STATE_COLOURS[s]})` }), stateText(s)) : null)), el("span", {}, isText(theProbe()) ? "one row per document, the worst on top" : "one row per item, earliest losses on top"));
  const columns = columnsOf(run);
  replace($("#grid-axis"), el("span", {}, columns[0]), columns.length > 1 ? el("span", {}, columns[columns.length - 1]) : null);
  paintGrid();
}

function paintGrid() {
  const grid = $("#grid"), canvas = $("#grid-canvas");
  const probe = theProbe(), items = itemsOf(probe), path = pathOf(probe);
  const n = shown.length;
  const width = grid.clientWidth || 600;
  const high = chosen.rows ? Math.min(420, Math.max(60, n * ROW)) : Math.min(360, Math.max(60, n * 6));
  grid.style.height = `${high + 2}px`;
  const row = chosen.rows ? ROW : n ? high / n : 1;
  const name = chosen.rows ? Math.min(170, width * 0.34, 16 + 7 * longestId(items)) : 0;
  gridAt = { row, name, width };
  $("#grid-space").style.height = `${Math.max(0, Math.round(row * n) - high)}px`;
  const ratio = Math.min(devicePixelRatio || 1, 2);
  canvas.width = width * ratio;
  canvas.height = high * ratio;
  canvas.style.width = `${width}px`;
  canvas.style.height = `${high}px`;
  canvas.setAttribute("aria-label", `${plural(n, "item")} by ${plural(path.columns, "checkpoint")}; the table below holds the same`);
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  const top = grid.scrollTop;
  const from = Math.floor(top / row), to = Math.min(n, Math.ceil((top + high) / row));
  if (to <= from) return;
  const picture = document.createElement("canvas");
  picture.width = path.columns;
  picture.height = to - from;
  const paints = STATE_COLOURS.map((name) => [1, 3, 5].map((i) => Number.parseInt(colour(name).slice(i, i + 2), 16)));
  const pixels = new ImageData(path.columns, to - from);
  for (let r = from, p = 0; r < to; r++) {
    const begin = shown[r] * path.columns;
    for (let c = 0; c < path.columns; c++, p += 4) {
      const [red, green, blue] = paints[path.states[begin + c]];
      pixels.data[p] = red; pixels.data[p + 1] = green; pixels.data[p + 2] = blue; pixels.data[p + 3] = 255;
    }
  }
  picture.getContext("2d").putImageData(pixels, 0, 0);
  context.imageSmoothingEnabled = row * ratio < 1;
  context.imageSmoothingQuality = "high";
  context.drawImage(picture, name, from * row - top, width - name, (to - from) * row);
  if (row >= 5) gridLines(context, path.columns, from, to, top, high);
  if (name) gridNames(context, items, from, to, top);
}

/** Characters of the longest id of the shown items. */
function longestId(items) {
  let longest = 0;
  for (const i of shown) longest = Math.max(longest, items.ids[i].length);
  return longest;
}

/** Thin lines between rows and columns, where there is room for them. */
function gridLines(context, columns, from, to, top, high) {
  const { row, name, width } = gridAt;
  const cell = (width - name) / columns;
  context.fillStyle = colour("raised");
  for (let r = from; r <= to; r++) context.fillRect(name, r * row - top, width, row >= 10 ? 1 : 0.5);
  if (cell >= 6) for (let c = 0; c <= columns; c++) context.fillRect(name + c * cell, 0, 1, high);
}

function gridNames(context, items, from, to, top) {
  const { row, name } = gridAt;
  context.fillStyle = colour("muted");
  context.font = `11px ${colour("mono")}`;
  context.textBaseline = "middle";
  context.save();
  context.beginPath();
  context.rect(0, 0, name - 6, 1e6);
  context.clip();
  for (let r = from; r < to; r++) context.fillText(items.ids[shown[r]], 6, r * row - top + row / 2 + 0.5);
  context.restore();
}

/** The item and column under a pointer. */
function gridCell(event) {
  const { row, name, width } = gridAt;
  const box = $("#grid-canvas").getBoundingClientRect();
  const { columns } = pathOf(theProbe());
  const r = Math.floor((event.clientY - box.top + $("#grid").scrollTop) / row);
  const c = Math.floor(((event.clientX - box.left - name) / (width - name)) * columns);
  if (r < 0 || r >= shown.length || c >= columns) return null;
  return { r, item: shown[r], column: Math.max(0, c) };
}

let gridKey = null;

function gridTip({ item, column }, x, y) {
  const run = theRun(), probe = theProbe(), items = itemsOf(probe), path = pathOf(probe);
  let k = path.begin[item];
  while (k + 1 < path.begin[item + 1] && path.at[k + 1] <= column) k++;
  const answer = answerAt(items, path, item, k);
  const margin = marginAt(path, item, column);
  const lines = [
    items.prompts[item].slice(0, 180), "",
    `${columnsOf(run)[column]}: ${STATE_TEXT[path.states[item * path.columns + column]]}${answer === null ? "" : `, “${answer.trim().slice(0, 80)}”`}`,
    `right answer: ${items.expected[item].map((text) => text.trim().slice(0, 80)).slice(0, MOST_ANSWERS).join(" or ")}`,
    Number.isNaN(margin) ? null : `margin ${decimal(margin)} nats`, trajectoryText(report.trajectories[path.trajectory[item]]),
  ];
  showTip(x, y, items.ids[item], lines.filter((line) => line !== null).join("\n"));
}

function startGrid() {
  const grid = $("#grid");
  grid.setAttribute("role", "group");
  grid.setAttribute("aria-label", "All answers. Arrow keys go from item to item, Enter opens its details");
  grid.addEventListener("pointermove", (event) => {
    const cell = gridCell(event);
    if (cell) gridTip(cell, event.clientX, event.clientY);
    else hideTip();
  });
  grid.addEventListener("pointerleave", hideTip);
  grid.addEventListener("blur", () => { gridKey = null; hideTip(); });
  grid.addEventListener("click", (event) => { const cell = gridCell(event); if (cell) openDetail(cell.item); });
  grid.addEventListener("scroll", () => { hideTip(); requestAnimationFrame(paintGrid); }, { passive: true });
  grid.addEventListener("keydown", (event) => {
    const { columns } = pathOf(theProbe());
    const moves = { ArrowDown: [1, 0], ArrowUp: [-1, 0], ArrowRight: [0, 1], ArrowLeft: [0, -1] };
    if (event.key === "Enter" && gridKey) return openDetail(shown[gridKey.r]);
    if (!moves[event.key] || !shown.length) return undefined;
    event.preventDefault();
    const [down, right] = gridKey ? moves[event.key] : [0, 0];
    const r = Math.min(shown.length - 1, Math.max(0, (gridKey?.r ?? 0) + down));
    const column = Math.min(columns - 1, Math.max(0, (gridKey?.column ?? columns - 1) + right));
    gridKey = { r, item: shown[r], column };
    const { row, name, width } = gridAt;
    if ((r + 1) * row > grid.scrollTop + grid.clientHeight) grid.scrollTop = (r + 1) * row - grid.clientHeight;
    if (r * row < grid.scrollTop) grid.scrollTop = r * row;
    const box = $("#grid-canvas").getBoundingClientRect();
    gridTip(gridKey, box.left + name + ((column + 0.5) * (width - name)) / columns, box.top + (r + 0.5) * row - grid.scrollTop);
    return undefined;
  });
}
