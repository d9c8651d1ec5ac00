// The right answer beside the one that was given: where they part is marked, long texts are cut until asked for.

const CUT = 140;  // characters of a text in the table
const BEFORE = 40;  // of them before a mark that comes late
const MOST_ANSWERS = 3;  // accepted ones in the table
// Numbers; scripts written without spaces, a character each; words; any other mark.
const UNITS = /\p{N}+(?:[.,:]\p{N}+)*|[\p{sc=Han}\p{sc=Hiragana}\p{sc=Katakana}\p{sc=Thai}\p{sc=Lao}\p{sc=Khmer}\p{sc=Myanmar}]\p{M}*|[\p{L}\p{M}\p{N}]+(?:['’]\p{L}+)*|[^\s]/gu;

const unitsOf = (text) => Array.from(text.matchAll(UNITS), (found) => ({ text: found[0], from: found.index, to: found.index + found[0].length }));
/** A text as one line; where there is nothing but white space, as a sign for it: a line break may be the wrong token. */
function oneLine(text) {
  return text.replace(/\s+/g, " ").trim() || (text === "" ? "" : text.includes("\n") ? "↵" : "␣");
}

/** Where a wrong answer first leaves the accepted answer that it follows longest, as [from, to); null if it is empty. */
function partsAt(given, accepted, { exact = true } = {}) {
  const same = exact ? (a, b) => a === b : (a, b) => a.toLowerCase() === b.toLowerCase();
  const said = unitsOf(given);
  if (!said.length) return null;
  const alike = Math.max(0, ...accepted.map((answer) => {
    const wanted = unitsOf(answer);
    let k = 0;
    while (k < said.length && k < wanted.length && same(said[k].text, wanted[k].text)) k++;
    return k;
  }));
  const { from, to } = said[Math.min(alike, said.length - 1)];  // one that stops too early is wrong where it stops
  return [from, to + /^[^\s\p{L}\p{N}]*/u.exec(given.slice(to))[0].length];
}

/** The characters from..to of a text, with what lies in `mark` marked. */
function pieces(text, from, to, mark) {
  if (!mark || mark[0] >= to || mark[1] <= from) return [text.slice(from, to)];
  const [a, b] = [Math.max(mark[0], from), Math.min(mark[1], to)];
  return [text.slice(from, a), el("mark", {}, text.slice(a, b)), text.slice(b, to)].filter((part) => part !== "");
}

/** A text, cut if it is long, with a button that shows all of it. */
function longText(text, mark = null) {
  const box = el("span", { class: "text" });
  const whole = (index) => (/[\uDC00-\uDFFF]/.test(text[index] ?? "") ? index + 1 : index);  // never half a character
  const from = mark && mark[0] > CUT - BEFORE ? whole(mark[0] - BEFORE) : 0, to = whole(Math.min(text.length, from + CUT));
  if (from === 0 && to + 12 >= text.length) return fill(box, {}, pieces(text, 0, text.length, mark));
  const show = (all) => {
    const toggle = el("button", { type: "button", class: "more", "aria-expanded": String(all), onclick: (event) => { event.stopPropagation(); show(!all); } }, all ? "show less" : "show all");
    replace(box, all ? pieces(text, 0, text.length, mark) : [from ? "…" : "", ...pieces(text, from, to, mark), to < text.length ? "…" : ""], " ", toggle);
  };
  show(false);
  return box;
}

/** The accepted answers of an item; of a pattern, the pattern. */
function rightAnswer(items, i) {
  const accepted = [...new Set(items.expected[i].map(oneLine))];
  const cell = el("span", { class: "answers" });
  const show = (all) => {
    const shown = all ? accepted : accepted.slice(0, MOST_ANSWERS), rest = accepted.length - shown.length;
    replace(cell, items.match[i] === "regex" ? el("small", { class: "asked" }, "matches ") : null,
      shown.flatMap((answer, k) => [k ? el("span", { class: "or" }, " or ") : null, longText(answer)]),
      rest ? [" ", el("button", { type: "button", class: "more", onclick: (event) => { event.stopPropagation(); show(true); } }, `${count(rest)} more`)] : null);
  };
  show(false);
  return cell;
}

/** Where an answer that came with a change went wrong; null where it did not, or could not be read at all. */
function wrongPart(items, path, i, k, text) {
  const state = STATE_COLOURS[path.state[k]];
  if (state !== "wrong" && state !== "truncated") return null;
  return partsAt(text, items.match[i] === "regex" ? [] : items.expected[i].map(oneLine), { exact: items.match[i] === null });
}

/** The answer that came with a change, marked where it went wrong; a text that could not be read or was cut off says so. */
function givenAnswer(items, path, i, k) {
  const state = STATE_COLOURS[path.state[k]];
  const whole = path.whole[k] >= 0 ? path.texts[path.whole[k]].trim() : null, answer = answerAt(items, path, i, k);
  const said = answer === null || (answer.endsWith("…") && whole?.startsWith(answer.slice(0, -1).trim())) ? whole : answer;
  const label = state === "right" || state === "wrong" ? null : el("small", { class: "asked" }, STATE_TEXT[path.state[k]]);
  if (said === null) return el("span", { class: "answers" }, label ?? "–");
  const text = oneLine(said);
  return el("span", { class: "answers" }, text ? longText(text, wrongPart(items, path, i, k, text)) : el(state === "wrong" ? "mark" : "span", {}, "(empty)"), label ? [" ", label] : null);
}
