// Reacts to the user: the list of images, pointer, keys. Follows report.js.

const isListed = (i) => !$("errors").checked || isWrong(data.images[i]);
const listed = () => [...thumbs.keys()].filter(isListed);

function turn(by) {
  const visible = listed();
  const next = visible[visible.indexOf(now.number) + by];
  if (next !== undefined) showImage(next);
}

const thumbs = data.images.map((image, index) => {
  const button = element("button");
  button.type = "button";
  button.title = image.name;
  const picture = element("img");
  picture.src = jpeg(image);
  const verdict = image.true === null ? "" : isWrong(image) ? ", wrong" : ", right";
  picture.alt = image.name + verdict;
  button.append(picture);
  if (verdict) {
    const [kind, sign] = isWrong(image) ? ["bad", "✗"] : ["good", "✓"];
    const mark = element("span", `mark ${kind}`, sign);
    mark.setAttribute("aria-hidden", "true");
    button.append(mark);
  }
  button.addEventListener("click", () => showImage(index));
  const item = element("li");
  item.append(button);
  $("thumbs").append(item);
  return button;
});

function follow(event, hold) {
  const area = $("stage").getBoundingClientRect();
  const inset = (data.patch - data.stride) / 2;
  const cell = (at, size, pixels) => Math.floor(((at / size) * pixels - inset) / data.stride);
  movePatch(
    cell(event.clientY - area.top, area.height, now.image.height),
    cell(event.clientX - area.left, area.width, now.image.width),
    hold,
  );
}

$("image").addEventListener("load", showPatch);
$("stage").addEventListener("pointermove", (event) => {
  if (event.pointerType !== "mouse" || !now.held) follow(event, event.pointerType !== "mouse");
});
$("stage").addEventListener("pointerdown", (event) => {
  follow(event, event.pointerType !== "mouse" || !now.held);
});
for (const list of [$("classes"), $("votes")]) {
  list.addEventListener("click", (event) => {
    const row = event.target.closest("[data-class]");
    if (row) choose(Number(row.dataset.class));
  });
}
$("step").addEventListener("input", () => {
  now.step = Number($("step").value);
  showAll();
});
$("view").addEventListener("change", (event) => {
  document.body.dataset.view = event.target.value;
});
$("map").addEventListener("change", showEvidence);
$("errors").addEventListener("change", () => {
  thumbs.forEach((thumb, i) => { thumb.parentElement.hidden = !isListed(i); });
  showImage(isListed(now.number) ? now.number : listed()[0]);
});

const ARROWS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
const TURNS = { n: 1, PageDown: 1, p: -1, PageUp: -1 };
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  // These controls need some of the keys themselves.
  const own = event.target.matches("input[type=range], input[type=radio]");
  if (event.key in ARROWS && !own) {
    const [down, right] = ARROWS[event.key];
    $("spoken").textContent = movePatch(now.row + down, now.column + right, true);
  } else if (event.key in TURNS && !(own && event.key.length > 1)) turn(TURNS[event.key]);
  else if (event.key === "Escape") movePatch(now.row, now.column, false);
  else return;
  event.preventDefault();
});

const wrong = data.images.filter(isWrong).length;
const judged = data.images.filter((image) => image.true !== null).length;
$("summary").textContent =
  `${data.checkpoint}: a BagNet that sees patches of ${data.patch}×${data.patch} pixels, ` +
  `one every ${data.stride}. ` +
  `${data.images.length} images (${data.seen}), ${data.names.length} classes` +
  (judged ? `; ${judged - wrong} of ${judged} right.` : "; true classes unknown.");
$("filter").hidden = !wrong;
for (const each of document.querySelectorAll(".dense")) each.hidden = !data.images[0].dense;
document.body.dataset.view = "both";
showImage(0);
