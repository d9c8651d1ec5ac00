// Kinds of loss side by side: knowledge, form and access are told apart, and the raw answers stand beside them.

const isBehaviour = () => theProbe().headline.ability === "behaviour";

/** What a lost item of a series is called: an open-ended one is no longer answered, whatever the model knows, or no longer done. */
const lostText = (series) => (lastOf(series, "knowledge_method") !== "exact" ? "Lost" : isBehaviour() ? "No longer done" : "No longer answered");

/** "range 4.8 to 22.4%" of a checkpoint, "" where there is none. */
function rangeText(series, i = series.n.length - 1) {
  const low = series.knowledge_lost_range_low?.[i], high = series.knowledge_lost_range_high?.[i];
  return isNumber(low) && isNumber(high) ? `range ${percent(low).replace("%", "")} to ${percent(high)}` : "";
}

/** "not established" for a loss at the last checkpoint whose interval is above 0 while the verdict, which asks for more, claims none. */
function doubt(probe, metric) {
  const claimed = !["knowledge_lost", "known_lost", "knowledge_lost_net"].includes(metric) || probe.headline.verdict === "lost";
  return !claimed && lastOf(probe.series[""], `${metric}_low`) > 0 ? "not established" : "";
}

function drawLosses() {
  const probe = theProbe(), series = probe.series[""];
  if (isText(probe)) return drawTextLosses(probe, series);
  const last = (metric) => lastOf(series, metric);
  const variants = last("variants") ?? 1;
  const where = variants === 2 ? "in both prompt variants" : variants > 2 ? `in all ${variants} prompt variants` : "in the only prompt that was asked";
  const tile = (title, metric, text, kind = null) =>
    isNumber(last(metric)) ? el("div", { class: kind ? `tile ${kind}` : "tile" }, el("h3", {}, title),
      el("b", {}, estimateOf(series, metric)), el("p", {}, [doubt(probe, metric), text].filter(Boolean).join("; "))) : null;
  const net = last("knowledge_method") === "net", exact = last("knowledge_method") === "exact";
  const could = isBehaviour() ? "did" : exact ? "answered" : "knew";
  const lost = probe.headline.verdict === "lost" ? "lost" : null;
  const byScore = last("score_change_high") < 0 && !(last("knowledge_lost_low") > 0);
  const tiles = [
    isNumber(last("score_change")) ? el("div", { class: lost && byScore ? "tile lost" : "tile" }, el("h3", {}, "Mean score"),
      el("b", {}, [`${decimal(last("score_before"))} → ${decimal(last("score_after"))} `, el("span", { class: "ci" }, changeText(last("score_change")), " ", shownEnds(series, "score_change", "bits"))]),
      el("p", {}, "in the first prompt, with the 95% interval of the change")) : null,
    tile(net ? "Lost less gained" : lostText(series), "knowledge_lost", [where, rangeText(series)].filter(Boolean).join("; "), byScore ? null : lost),
    tile(`Share of what it ${could}`, "known_lost", `${lostText(series).toLowerCase()}, of what it ${could} at the baseline`),
    net ? null : tile(exact ? (isBehaviour() ? "Newly done" : "Newly answered") : "Gained", "knowledge_gained", where),
    net || exact ? null : tile("Lost less gained", "knowledge_lost_net", "losses minus gains"),
    variants > 1 ? tile("Lost in this prompt alone", "spurious_forgetting", "form or access: still right in another variant") : null,
    exact ? null : tile("No longer recalled", "recall_lost", isNumber(last("recall_still_chosen")) ? `access: ${percent(last("recall_still_chosen"), 0)} of them still right as a choice` : "access: it may still be known in another form"),
    tile("Forgetting (1→0)", "forgetting", "right at the baseline, wrong now; first prompt, guesses included"),
    tile("Backward transfer (0→1)", "backward_transfer", "wrong at the baseline, right now; first prompt, guesses included"),
  ];
  replace($("#loss-tiles"), tiles);
  const macro = last("macro_knowledge_lost");
  replace($("#loss-note"), [
    isNumber(last("knowledge_lost")) ? "" : "The last checkpoint did not ask all prompt variants: there are raw numbers only.",
    `At the last checkpoint, as shares of the items of ${probeName(probe.name)}.`,
    isNumber(macro) ? `Mean over the probes: ${shareOf(series, "macro_knowledge_lost")} lost.` : "",
  ].filter(Boolean).join(" "));
}

/** Documents have no right and wrong: bits per byte, and how many got worse. */
function drawTextLosses(probe, series) {
  const last = (metric) => lastOf(series, metric);
  const tile = (title, shown, text, kind = null) => el("div", { class: kind ? `tile ${kind}` : "tile" }, el("h3", {}, title), el("b", {}, shown), el("p", {}, text));
  const known = (metric, made) => (isNumber(last(metric)) ? made() : null);
  replace($("#loss-tiles"), [
    known("bits_per_byte_change", () => tile("Change in bits per byte", [changeText(last("bits_per_byte_change")) + " ", el("span", { class: "ci" }, shownEnds(series, "bits_per_byte_change", "bits"))], "mean over the documents, with its 95% interval", probe.headline.verdict === "lost" ? "lost" : null)),
    known("bits_per_byte_after", () => tile("Bits per byte", `${decimal(last("bits_per_byte_before"))} → ${decimal(last("bits_per_byte_after"))}`, "at the baseline and now; fewer are better")),
    known("forgetting", () => tile("Documents that got worse", estimateOf(series, "forgetting"), "by more than the floor")),
    known("backward_transfer", () => tile("Documents that got better", estimateOf(series, "backward_transfer"), "by more than the floor")),
    known("kl", () => tile("KL to the baseline", `${decimal(last("kl"), 3)} nats`, "mean per token, on the same text")),
    known("top1_agreement", () => tile("Same most likely token", percent(last("top1_agreement")), "as the baseline, of all tokens")),
  ]);
  replace($("#loss-note"), `At the last checkpoint, over the documents of ${probeName(probe.name)}.`);
}
