// Draws the map over the image: the votes of the patches, or the evidence around every pixel.

const ZERO = 128; // the level of no evidence, as in dense.py

/** Read the levels of an image's maps around every pixel, if it has any, and then show them. */
function readDense(image) {
  if (!image.dense) return;
  const picture = new Image();
  picture.addEventListener("load", () => {
    const canvas = element("canvas");
    canvas.width = picture.width;
    canvas.height = picture.height;
    const context = canvas.getContext("2d");
    context.drawImage(picture, 0, 0);
    const grey = context.getImageData(0, 0, picture.width, picture.height).data;
    image.levels = grey.filter((_, i) => i % 4 === 0);
    image.denseColumns = picture.width;
    if (image === now.image) showEvidence();
  });
  picture.src = `data:image/png;base64,${image.dense.png}`;
}

/** The map of the chosen class around every pixel; undefined if it is not wanted or there is none. */
function denseMap() {
  const { dense, levels, denseColumns, limit } = now.image;
  const at = dense ? dense.classes.indexOf(now.class) : -1;
  if (!$("dense").checked || at < 0 || !levels) return undefined;
  const size = levels.length / dense.classes.length;
  const own = levels.subarray(at * size, (at + 1) * size);
  return {
    values: Float32Array.from(own, (level) => ((level - ZERO) / 127) * limit),
    columns: denseColumns,
    inset: 0,
    cell: dense.step,
    mean: dense.means[at],
  };
}

/** The votes of all patches for the chosen class. */
function nativeMap() {
  const inset = (data.patch - data.stride) / 2;
  return { values: evidence(now.class), columns: now.image.columns, inset, cell: data.stride };
}

function drawHeat({ values, columns, inset, cell }) {
  const { width, height, limit } = now.image;
  const rows = values.length / columns;
  const cells = new ImageData(columns, rows);
  values.forEach((vote, i) => {
    const value = counted(vote);
    const [red, green, blue] = value < 0 ? AGAINST : FOR;
    cells.data[4 * i] = red;
    cells.data[4 * i + 1] = green;
    cells.data[4 * i + 2] = blue;
    cells.data[4 * i + 3] = Math.round(STRONGEST * Math.min(Math.abs(value) / limit, 1));
  });
  const small = element("canvas");
  small.width = columns;
  small.height = rows;
  small.getContext("2d").putImageData(cells, 0, 0);
  const heat = $("heat");
  heat.width = 2 * width; // a cell may begin at half a pixel
  heat.height = 2 * height;
  const context = heat.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.drawImage(small, 2 * inset, 2 * inset, 2 * cell * columns, 2 * cell * rows);
}

function showEvidence() {
  const dense = denseMap();
  drawHeat(dense ?? nativeMap());
  const logit = now.image.logits[now.image.classes.indexOf(now.class)];
  $("shown").textContent = data.names[now.class];
  $("caption").textContent = dense
    ? `mean over all pixels = ${number(dense.mean)}, logit = mean of the votes = ${number(logit)}`
    : `mean of the shown evidence = ${number(score(now.class))}, logit = ${number(logit)}`;
  if (now.step) $("caption").append(" (of all votes)");
  $("rim").textContent = dense
    ? "The first is not the logit, because patches at the rim see the image's padding." +
      (dense.cell > 1 ? ` Shown: one of ${dense.cell} × ${dense.cell} pixels.` : "")
    : $("dense").checked && !now.image.dense.classes.includes(now.class)
      ? "These are the votes: only the predicted and the true class have a map at every pixel."
      : "";
}
