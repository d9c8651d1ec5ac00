// Several runs side by side: what each lost, and whether one lost more than another.

function drawRuns() {
  $("#runs").hidden = report.runs.length < 2;
  if (report.runs.length < 2) return;
  const rows = report.runs.flatMap((run) => {
    const probe = probeOf(run, chosen.probe);
    if (!probe) return [{ cells: [run.name, "not evaluated", "", "", "", "", "", ""] }];
    const last = (metric) => lastOf(probe.series[""], metric);
    return [{
      cells: [
        run.name, whenText(run, run.steps.length - 1), count(last("n")), `${percent(last("accuracy_before"))} → ${percent(last("accuracy_after"))}`,
        percent(last("forgetting")), estimateOf(probe.series[""], "knowledge_lost"), rangeText(probe.series[""]).replace("range ", ""), probe.headline.verdict,
      ],
    }];
  });
  const head = [["run", ""], ["last checkpoint", ""], ["items", "n"], ["accuracy", "n"], ["forgetting (1→0)", "n"], ["lost [95%]", "n"], ["range", "n"], ["verdict", ""]];
  replace($("#runs-table"), table(...withValues(head, rows), { caption: `${probeName(chosen.probe)}, each run at its last checkpoint` }));
  drawDifferences();
}

function drawDifferences() {
  const found = report.differences.flatMap(({ first, second, probes }) => {
    const own = probes.find(({ probe }) => probe === chosen.probe);
    return own ? [{ first: report.runs[first].name, second: report.runs[second].name, ...own }] : [];
  });
  const rows = found.map(({ first, second, lost, low, high, finding, paired, between }) => {
    const sure = finding.startsWith("lost");
    return {
      cells: [
        `${second} minus ${first}`,
        [el("span", { class: sure ? (lost > 0 ? "down" : "up") : null }, signed(within(lost)) + " "), el("span", { class: "ci" }, interval(within(low), within(high)))],
        finding,
        paired && between ? `${count(between.n01)} vs. ${count(between.n10)}` : "different items",
        paired && between ? withInterval(between.net_change, between.net_change_low, between.net_change_high) : "–",
        paired && between ? pText(between.p_value) : "–",
      ],
    };
  });
  const head = [["difference", ""], ["difference in loss [95%]", "n"], ["verdict", ""], ["right in only one", "n"], ["difference in accuracy [95%]", "n"], ["p", "n"]];
  replace($("#differences-table"), rows.length ? table(head, rows, { caption: "Differences at the last checkpoints" }) : el("p", { class: "empty" }, "The runs share no probe of this name."));
  const paired = found.some((one) => one.paired);
  replace($("#differences-note"), rows.length ? `${paired ? "Runs that answered the same items are compared item by item (paired); right in only one: items right in the first-named run only vs. in the other only. " : ""}p is McNemar's mid-p test of equal accuracy, one pair at a time.` : "");
}

/** A difference of two shares within what is possible. */
const within = (value) => (isNumber(value) ? Math.min(Math.max(value, -1), 1) : value);

const pText = (p) => (!isNumber(p) ? "–" : p < 0.001 ? "< 0.001" : p.toFixed(3));
