// The wall: a row an item, a column a checkpoint, one colour a state. Drawn on a canvas, only the part that is seen.

const STATE_COLOURS = ["unscored", "right", "wrong", "unparsed", "truncated"];
const STATE_TEXT = ["not scored", "right", "wrong", "cannot be read", "cut off"];
const ROW = 14;
let wallAt = { row: 1, name: 0, width: 0 };

function drawWall() {
  const path = pathOf(theProbe()), run = theRun();
  replace($("#wall-controls"), segments("Rows of the wall", [["all", "All at once"], ["rows", "Row by row"]], chosen.rows ? "rows" : "all", (value) => { chosen.rows = value === "rows"; $("#wall").scrollTop = 0; drawWall(); }));
  const used = new Set(path.states);
  replace($("#wall-legend"), STATE_TEXT.map((text, s) => (used.has(s) ? el("span", {}, el("i", { style: `background:var(--${STATE_COLOURS[s]})` }), text) : null)), el("span", {}, "rows: items, those lost first on top"));
  const columns = columnsOf(run);
  replace($("#wall-axis"), el("span", {}, columns[0]), columns.length > 1 ? el("span", {}, columns[columns.length - 1]) : null);
  paintWall();
}

function paintWall() {
  const wall = $("#wall"), canvas = $("#wall-canvas");
  const probe = theProbe(), items = itemsOf(probe), path = pathOf(probe);
  const n = shown.length;
  const width = wall.clientWidth || 600;
  const high = chosen.rows ? Math.min(420, Math.max(60, n * ROW)) : Math.min(360, Math.max(60, n * 6));
  wall.style.height = `${high + 2}px`;
  const row = chosen.rows ? ROW : n ? high / n : 1;
  const name = chosen.rows ? Math.min(170, width * 0.34, 16 + 7 * longestId(items)) : 0;
  wallAt = { row, name, width };
  $("#wall-space").style.height = `${Math.max(0, Math.round(row * n) - high)}px`;
  const ratio = Math.min(devicePixelRatio || 1, 2);
  canvas.width = width * ratio;
  canvas.height = high * ratio;
  canvas.style.width = `${width}px`;
  canvas.style.height = `${high}px`;
  canvas.setAttribute("aria-label", `${plural(n, "item")} by ${plural(path.columns, "checkpoint")}; the table below holds the same`);
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  const top = wall.scrollTop;
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
  if (row >= 5) wallLines(context, path.columns, from, to, top, high);
  if (name) wallNames(context, items, from, to, top);
}

/** Characters of the longest id of the shown items. */
function longestId(items) {
  let longest = 0;
  for (const i of shown) longest = Math.max(longest, items.ids[i].length);
  return longest;
}

/** Thin lines between rows and columns, where there is room for them. */
function wallLines(context, columns, from, to, top, high) {
  const { row, name, width } = wallAt;
  const cell = (width - name) / columns;
  context.fillStyle = colour("raised");
  for (let r = from; r <= to; r++) context.fillRect(name, r * row - top, width, row >= 10 ? 1 : 0.5);
  if (cell >= 6) for (let c = 0; c <= columns; c++) context.fillRect(name + c * cell, 0, 1, high);
}

function wallNames(context, items, from, to, top) {
  const { row, name } = wallAt;
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
function wallCell(event) {
  const { row, name, width } = wallAt;
  const box = $("#wall-canvas").getBoundingClientRect();
  const { columns } = pathOf(theProbe());
  const r = Math.floor((event.clientY - box.top + $("#wall").scrollTop) / row);
  const c = Math.floor(((event.clientX - box.left - name) / (width - name)) * columns);
  if (r < 0 || r >= shown.length || c >= columns) return null;
  return { r, item: shown[r], column: Math.max(0, c) };
}

let wallKey = null;

function wallTip({ item, column }, x, y) {
  const run = theRun(), probe = theProbe(), items = itemsOf(probe), path = pathOf(probe);
  let k = path.begin[item];
  while (k + 1 < path.begin[item + 1] && path.at[k + 1] <= column) k++;
  const answer = answerAt(items, path, item, k);
  const margin = marginAt(path, item, column);
  const lines = [
    items.prompts[item].slice(0, 180), "",
    `${columnsOf(run)[column]}: ${STATE_TEXT[path.states[item * path.columns + column]]}${answer === null ? "" : `, “${answer.trim().slice(0, 80)}”`}`,
    Number.isNaN(margin) ? null : `margin ${decimal(margin)} nats`, fateText(report.fates[path.fate[item]]),
  ];
  showTip(x, y, items.ids[item], lines.filter((line) => line !== null).join("\n"));
}

function startWall() {
  const wall = $("#wall");
  wall.setAttribute("role", "group");
  wall.setAttribute("aria-label", "All answers. Arrow keys go from item to item, Enter opens the story");
  wall.addEventListener("pointermove", (event) => {
    const cell = wallCell(event);
    if (cell) wallTip(cell, event.clientX, event.clientY);
    else hideTip();
  });
  wall.addEventListener("pointerleave", hideTip);
  wall.addEventListener("blur", () => { wallKey = null; hideTip(); });
  wall.addEventListener("click", (event) => { const cell = wallCell(event); if (cell) openStory(cell.item); });
  wall.addEventListener("scroll", () => { hideTip(); requestAnimationFrame(paintWall); }, { passive: true });
  wall.addEventListener("keydown", (event) => {
    const { columns } = pathOf(theProbe());
    const moves = { ArrowDown: [1, 0], ArrowUp: [-1, 0], ArrowRight: [0, 1], ArrowLeft: [0, -1] };
    if (event.key === "Enter" && wallKey) return openStory(shown[wallKey.r]);
    if (!moves[event.key] || !shown.length) return undefined;
    event.preventDefault();
    const [down, right] = wallKey ? moves[event.key] : [0, 0];
    const r = Math.min(shown.length - 1, Math.max(0, (wallKey?.r ?? 0) + down));
    const column = Math.min(columns - 1, Math.max(0, (wallKey?.column ?? columns - 1) + right));
    wallKey = { r, item: shown[r], column };
    const { row, name, width } = wallAt;
    if ((r + 1) * row > wall.scrollTop + wall.clientHeight) wall.scrollTop = (r + 1) * row - wall.clientHeight;
    if (r * row < wall.scrollTop) wall.scrollTop = r * row;
    const box = $("#wall-canvas").getBoundingClientRect();
    wallTip(wallKey, box.left + name + ((column + 0.5) * (width - name)) / columns, box.top + (r + 0.5) * row - wall.scrollTop);
    return undefined;
  });
}
