"use strict";
// Shows the data that html_file.py writes. heat.js follows this file and draws the map; then
// events.js reacts to the user.
// Names of files and classes become text nodes, never HTML.
const $ = (id) => document.getElementById(id);
const data = JSON.parse($("data").textContent);
const style = getComputedStyle(document.documentElement);
const colour = (name) => style.getPropertyValue(name).split(" ").map(Number);
const FOR = colour("--for");
const AGAINST = colour("--against");
const STRONGEST = 255 * Number(style.getPropertyValue("--strongest"));
// Two decimals for logits of a few units, more for small ones, and powers of ten beyond that.
const SIZE = Math.floor(Math.log10(Math.max(...data.images.map((image) => image.limit))));
const DECIMALS = Math.max(2, 2 - SIZE);

// The image with its arrays; the chosen class; the patch (row and column in the map); whether the
// patch stays while the pointer moves; and the threshold: 0 for none, k for the k-th of the image.
const now = { number: 0, image: null, class: 0, row: 0, column: 0, held: false, step: 0 };

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function number(value) {
  const text = Math.abs(SIZE) > 4 ? value.toExponential(3) : value.toFixed(DECIMALS);
  return (Number(text) === 0 ? text.replace("-", "") : text).replace(/^-/, "−");
}

function array(base64, Type) {
  const binary = atob(base64);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  return new Type(bytes.buffer);
}

const jpeg = (image) => `data:image/jpeg;base64,${image.jpeg}`;
const isWrong = (image) => image.true !== null && image.true !== image.top[0];
const threshold = () => (now.step ? now.image.thresholds[now.step - 1] : -Infinity);
const counted = (vote, t = threshold()) => (vote >= t ? vote : 0);
const decision = () => (now.step ? now.image.decisions[now.step - 1] : now.image.top[0]);

/** The votes of all patches for a class, row by row; undefined if the page has no map of it. */
function evidence(id) {
  const at = now.image.classes.indexOf(id);
  const size = now.image.rows * now.image.columns;
  return at < 0 ? undefined : now.image.maps.subarray(at * size, (at + 1) * size);
}

/** The mean of a class's votes, where those below t count as 0. */
function score(id, t = threshold()) {
  const votes = evidence(id);
  return votes.reduce((sum, vote) => sum + counted(vote, t), 0) / votes.length;
}

/** A row of a list: name, bar and number. It is a button if there is a map to show. */
function classRow(id, value, largest, tags) {
  const has = now.image.classes.includes(id);
  const row = element(has ? "button" : "div", has ? "" : "plain");
  const name = element("span", "name", data.names[id]);
  row.title = has ? data.names[id] : `${data.names[id]} (this page has no map of it)`;
  if (tags.length) name.append(element("span", "tag", tags.join(", ")));
  const axis = element("span", "axis");
  const bar = element("i", value < 0 ? "below" : "");
  const length = 50 * Math.min(Math.abs(value) / (largest || 1), 1);
  bar.style.width = `${length}%`;
  bar.style.left = `${value < 0 ? 50 - length : 50}%`;
  axis.append(bar);
  row.append(name, axis, element("span", "number", number(value)));
  if (has) {
    row.type = "button";
    row.dataset.class = id;
    row.setAttribute("aria-pressed", id === now.class);
  }
  const item = element("li");
  item.append(row);
  return item;
}

/** Fill a list, and keep the keyboard's focus on its class. */
function fill(list, rows) {
  const focused = list.contains(document.activeElement) && document.activeElement.dataset.class;
  list.replaceChildren(...rows);
  if (focused) list.querySelector(`[data-class="${focused}"]`)?.focus();
}

function showClasses() {
  const { image } = now;
  const extra = [image.true, decision(), now.class].filter((id) => id !== null && id >= 0);
  const ids = [...new Set([...image.top, ...extra])];
  // No threshold gives a larger score, so the scale of the bars stays the same.
  const largest = Math.max(...ids.flatMap((id) => [Math.abs(score(id, -Infinity)), score(id, 0)]));
  fill($("classes"), ids.map((id) => {
    const tags = [];
    if (id === image.top[0]) tags.push("predicted");
    if (now.step && id === decision() && id !== image.top[0]) {
      tags.push("predicted with the threshold");
    }
    if (id === image.true) tags.push("true");
    return classRow(id, score(id), largest, tags);
  }));
  $("score").textContent = now.step
    ? `score: mean of all votes, where those below ${number(threshold())} count as 0`
    : "logit: mean of all votes";
}

function showPatch() {
  const { image, row, column } = now;
  const [left, top] = [data.stride * column, data.stride * row];
  const box = $("box").style;
  box.left = `${(100 * left) / image.width}%`;
  box.top = `${(100 * top) / image.height}%`;
  box.width = `${(100 * data.patch) / image.width}%`;
  box.height = `${(100 * data.patch) / image.height}%`;
  $("box").className = now.held ? "held" : "";
  const last = data.patch - 1;
  $("pixels").textContent = `pixels x ${left} to ${left + last}, y ${top} to ${top + last}`;
  $("hold").textContent = now.held
    ? "held; click or press Esc to release it"
    : "click or tap to hold it";
  const at = row * image.columns + column;
  const vote = evidence(now.class)[at];
  const uncounted = counted(vote) === vote ? "" : ", counted as 0";
  $("vote").textContent = `${number(vote)} for ${data.names[now.class]}${uncounted}`;
  const count = image.patchClasses.length / (image.rows * image.columns);
  const tops = [...image.patchClasses.subarray(at * count, (at + 1) * count)];
  const votes = [...image.patchLogits.subarray(at * count, (at + 1) * count)];
  const largest = Math.max(image.limit, ...votes.map(Math.abs));
  fill($("votes"), tops.map((id, i) => classRow(id, votes[i], largest, [])));
  const crop = $("crop");
  const side = (crop.width = crop.height = data.patch);
  crop.getContext("2d").drawImage($("image"), left, top, side, side, 0, 0, side, side);
  return `row ${row + 1}, column ${column + 1}: ${data.names[tops[0]]} ${number(votes[0])}`;
}

function showThreshold() {
  const { image } = now;
  const t = number(threshold());
  const off = "off: all votes count";
  $("step").setAttribute("aria-valuetext", now.step ? `votes below ${t} count as 0` : off);
  $("rule").textContent = now.step
    ? `t = ${t}: votes below t count as 0; the score of a class is the mean of v·[v ≥ t]`
    : off;
  const [before, after] = [image.top[0], decision()];
  const line = $("decision");
  if (after < 0) {
    line.replaceChildren("No vote reaches t: ", element("b", "", "no prediction"));
    return;
  }
  const name = element("b", after === before ? "" : "bad", data.names[after]);
  line.replaceChildren("Prediction: ", name);
  if (after !== before) line.append(` (changed from ${data.names[before]})`);
  else if (now.step) line.append(" (unchanged)");
}

function showAll() {
  showEvidence();
  showClasses();
  showThreshold();
  return showPatch();
}

function choose(id) {
  now.class = id;
  showAll();
}

function movePatch(row, column, hold) {
  now.row = Math.min(Math.max(row, 0), now.image.rows - 1);
  now.column = Math.min(Math.max(column, 0), now.image.columns - 1);
  now.held = hold;
  return showPatch();
}

function showVerdict() {
  const { image } = now;
  const known = image.true !== null;
  const line = $("verdict");
  const kind = known ? (isWrong(image) ? "bad" : "good") : "";
  line.replaceChildren("predicted ", element("b", kind, data.names[image.top[0]]));
  if (!known) line.append(", true class unknown");
  else if (!isWrong(image)) line.append(" ✓, which is the true class");
  else line.append(" ✗, true class ", element("b", "", data.names[image.true]));
}

function showImage(index) {
  const stored = data.images[index];
  const floats = (text) => array(text, Float32Array);
  now.number = index;
  now.image = {
    ...stored,
    logits: floats(stored.logits),
    maps: floats(stored.maps),
    patchLogits: floats(stored.patchLogits),
    patchClasses: array(stored.patchClasses, Int32Array),
  };
  now.class = stored.top[0];
  // Begin with the patch that has the strongest vote for the prediction.
  const votes = evidence(now.class);
  const strongest = votes.indexOf(votes.reduce((a, b) => Math.max(a, b)));
  now.row = Math.floor(strongest / stored.columns);
  now.column = strongest % stored.columns;
  now.held = false;
  now.step = 0;
  $("step").value = 0;
  $("step").max = stored.thresholds.length;
  $("name").textContent = stored.name;
  $("stage").style.aspectRatio = `${stored.width} / ${stored.height}`;
  $("low").textContent = `≤ ${number(-stored.limit)}`;
  $("high").textContent = `≥ ${number(stored.limit)}`;
  $("image").src = jpeg(stored); // the patch is cut out when it has loaded
  readDense(now.image);
  showVerdict();
  showAll();
  thumbs.forEach((thumb, i) => thumb.setAttribute("aria-current", i === index));
  const [list, item] = [$("thumbs"), thumbs[index].parentElement];
  list.scrollTo(item.offsetLeft - list.clientWidth / 2, item.offsetTop - list.clientHeight / 2);
  const visible = listed();
  $("position").textContent = `${visible.indexOf(index) + 1} of ${visible.length}`;
}
