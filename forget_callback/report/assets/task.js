// The task's own metric under what was forgotten, over the same axis: what was learned for it.

const TASK_HEIGHT = 0.28;  // of the figure, of which the panel's heading takes a fourth

/** The names of metrics as people read them. */
function taskName(metric) {
  if (metric === "loss") return "Training loss";
  const evaluated = metric.startsWith("eval_");
  const name = (evaluated ? metric.slice(5) : metric).replace(/[_/]/g, " ");
  return evaluated ? `Evaluation ${name}` : name.charAt(0).toUpperCase() + name.slice(1);
}

const taskNumber = (value) => (isNumber(value) ? String(Number(value.toPrecision(4))).replace("-", "−") : "–");

const taskMetrics = () => [...new Set(report.runs.flatMap((run) => Object.keys(run.task.metrics)))];

/** The metric that is drawn, null for none. */
function theTask() {
  if (chosen.task === undefined) chosen.task = report.runs.map((run) => run.task.metric).find((metric) => metric !== null) ?? null;
  return chosen.task;
}

/** A choice, where there are several. */
function taskControl() {
  const names = taskMetrics();
  if (!names.length) return null;
  const options = [...names.map((name) => [name, taskName(name)]), ["", "none"]];
  return select("Task metric", [["", options]], theTask() ?? "", (value) => { chosen.task = value || null; refresh("curves"); });
}

/** A curve a run. */
function taskTraces() {
  const metric = theTask();
  const all = palette(), several = report.runs.length > 1;
  return report.runs.flatMap((run, r) => {
    const curve = metric === null ? undefined : run.task.metrics[metric];
    if (!curve) return [];
    const before = report.pipeline && chosen.axis === "samples" ? run.stage.samples_before ?? 0 : 0;
    const x = curve[chosen.axis].map((value) => (isNumber(value) ? value + before : null));
    const kept = x.map((_, i) => i).filter((i) => isNumber(x[i]) && isNumber(curve.values[i]) && (!chosen.log || x[i] > 0));
    if (!kept.length) return [];
    const line = several ? all[r % all.length] : colour("accent");
    return [{
      x: kept.map((i) => x[i]), y: kept.map((i) => curve.values[i]), yaxis: "y2", showlegend: false, name: plain(run.name), meta: metric,
      mode: kept.length > 40 ? "lines" : "lines+markers", line: { color: line, width: 1.75 }, marker: { color: line, size: 5 }, hoverinfo: "text",
      hovertext: kept.map((i) => `<b>${taskNumber(curve.values[i])}</b> ${plain(taskName(metric))}<br>${several ? plain(run.name) + "<br>" : ""}step ${count(curve.steps[i])}`),
    }];
  });
}

/** The layout with the panel below; the same where there is nothing to show in it. */
function withTask(layout, traces) {
  if (!traces.length) return layout;
  const heading = {
    text: `<b>${plain(taskName(theTask()))}</b>`, x: 0, y: TASK_HEIGHT * 0.76, xref: "paper", yref: "paper", xanchor: "left", yanchor: "bottom",
    showarrow: false, font: { size: 13, color: colour("text") },
  };
  return {
    ...layout,
    height: layout.height + 150,
    xaxis: { ...layout.xaxis, anchor: "y2" },
    yaxis: { ...layout.yaxis, domain: [TASK_HEIGHT + 0.06, 1] },
    yaxis2: { ...layout.yaxis, title: undefined, range: undefined, rangemode: "normal", tickformat: "~g", zeroline: false, nticks: 4, domain: [0, TASK_HEIGHT * 0.75], anchor: "x" },
    annotations: [...layout.annotations, heading],
  };
}

const taskNote = (traces) => (traces.length ? `Below: ${taskName(theTask()).toLowerCase()}, as the trainer logged it.` : "");
