(() => {
"use strict";
// Everything is on the page without this script; it adds pointing, choosing and moving about.
const data = JSON.parse(document.getElementById("data").textContent);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const byId = id => document.getElementById(id);
const percent = (value, digits = 1) => (100 * value).toFixed(digits) + "\u202f%";

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

// ---- theme: a choice for this view; storage is not to be had in MLflow's frame ----
const themes = {automatic: "light dark", light: "light", dark: "dark"};
function startTheme() {
  const button = byId("theme"), names = Object.keys(themes);
  let at = 0;
  button.hidden = false;
  button.addEventListener("click", () => {
    at = (at + 1) % names.length;
    document.documentElement.style.colorScheme = themes[names[at]];
    button.textContent = "Theme: " + names[at];
    document.dispatchEvent(new Event("themechange"));
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => document.dispatchEvent(new Event("themechange")));
}

// ---- links and commands ----
// MLflow shows artifacts in a sandboxed frame, where links lead nowhere: ids are there to be copied.
const sandboxed = window.origin === "null" && location.protocol !== "file:";
function startLinks() {
  if (!sandboxed) return;
  for (const link of all("a.page")) {
    const id = link.textContent;
    link.replaceWith(make("code", {class: "whole"}, id), copyButton(id, "Copy the id"));
  }
}
function copyButton(text, name) {
  const button = make("button", {type: "button", class: "copy", "aria-label": name + ": " + text}, "Copy");
  button.addEventListener("click", async () => {
    button.textContent = await copied(text, button) ? "Copied" : "Press Ctrl+C";
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
  return button;
}
async function copied(text, button) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const code = button.parentElement.querySelector("code");
    if (code) getSelection().selectAllChildren(code);
    return false;
  }
}
function startCommands() {
  for (const command of all(".command")) {
    const code = command.querySelector("code");
    command.append(copyButton(code.textContent, "Copy the command"));
  }
}

// ---- tabs and filter: what is not chosen is hidden ----
function startTabs() {
  for (const tabs of all(".tabs")) {
    const show = () => {
      const chosen = tabs.querySelector(":scope > .chips input:checked");
      for (const tab of all(":scope > .tab", tabs)) tab.classList.toggle("off", !!chosen && tab.dataset.tab !== chosen.value);
    };
    tabs.addEventListener("change", show);
    show();
  }
}
function startFilter() {
  for (const form of all(".filter")) {
    form.hidden = false;
    form.addEventListener("change", () => {
      const kind = form.elements.verdict.value;
      for (const row of all(".scorecard tbody tr")) row.hidden = !!kind && !row.classList.contains(kind);
    });
  }
}

// ---- curves: the numbers of an epoch, by pointer or arrow keys ----
const PLOT = {left: 46, right: 332, width: 340};
function startCurves() {
  for (const panel of all("figure[data-readout]")) {
    const lines = JSON.parse(panel.dataset.readout), count = lines.mean.length;
    const svg = panel.querySelector("svg"), cursor = svg.querySelector(".cursor"), output = panel.querySelector("output");
    const shares = panel.closest(".tab").dataset.tab.endsWith("accuracy");
    const say = value => shares ? percent(value, 2) : value.toFixed(4);
    let epoch = count;
    const show = number => {
      epoch = Math.min(count, Math.max(1, number));
      const x = PLOT.left + (epoch - 1) / Math.max(1, count - 1) * (PLOT.right - PLOT.left);
      cursor.setAttribute("x1", x);
      cursor.setAttribute("x2", x);
      cursor.style.visibility = "visible";
      const [mean, theirs] = [lines.mean[epoch - 1], lines.published[epoch - 1]];
      output.textContent = `epoch ${epoch}: ${say(mean)}` + (theirs === null ? "" : `; published ${say(theirs)}`);
    };
    const hide = () => { cursor.style.visibility = "hidden"; output.textContent = ""; };
    svg.setAttribute("tabindex", "0");
    svg.addEventListener("pointermove", event => {
      const box = svg.getBoundingClientRect();
      const x = (event.clientX - box.left) / box.width * PLOT.width;
      show(1 + Math.round((x - PLOT.left) / (PLOT.right - PLOT.left) * (count - 1)));
    });
    svg.addEventListener("pointerleave", hide);
    svg.addEventListener("focus", () => show(epoch));
    svg.addEventListener("blur", hide);
    svg.addEventListener("keydown", event => {
      const steps = {ArrowLeft: -1, ArrowRight: 1, Home: -count, End: count};
      if (!(event.key in steps)) return;
      event.preventDefault();
      show(epoch + steps[event.key]);
    });
  }
}

// ---- images: all in one sheet, the index of an image is its place ----
const sheet = byId("sheet");
function thumb(image, name) {
  const canvas = make("canvas", {class: "thumb", width: 28, height: 28, role: "img", "aria-label": name});
  if (sheet) sheet.decode().then(() => drawImage(canvas.getContext("2d"), image, 0, 0, 28), () => {});
  return canvas;
}
function drawImage(context, image, x, y, side) {
  const column = image % data.columns, row = Math.floor(image / data.columns);
  context.drawImage(sheet, 28 * column, 28 * row, 28, 28, x, y, side, side);
}

// ---- confusion: a cell's images, those that most models confuse first ----
const SHOWN = 60;
function startConfusion() {
  const gallery = byId("gallery");
  if (!gallery) return;
  const open = button => {
    const matrix = data.matrices[+button.closest("table").dataset.matrix];
    const [truth, guess] = [button.dataset.true, button.dataset.guess];
    for (const other of all(".matrix button[aria-pressed]")) other.removeAttribute("aria-pressed");
    button.setAttribute("aria-pressed", "true");
    const found = [];
    for (let image = 0; image < data.labels.length; image++) {
      if (data.labels[image] !== truth) continue;
      const models = matrix.reduce((sum, predicted) => sum + (predicted[image] === guess), 0);
      if (models) found.push([image, models]);
    }
    found.sort((a, b) => b[1] - a[1] || a[0] - b[0]);
    const [is, as] = [data.classes[truth], data.classes[guess]];
    const title = truth === guess ? `${is}, classified correctly` : `${is}, taken for ${as}`;
    const limit = found.length > SHOWN ? `, of which ${SHOWN} are shown` : "";
    const list = make("ul", {}, ...found.slice(0, SHOWN).map(([image, models]) =>
      make("li", {}, thumb(image, `Test image ${image}: ${is}`), `${models} of ${matrix.length}`)));
    gallery.replaceChildren(
      make("h4", {}, `${title}: ${found.length.toLocaleString("en")} image${found.length === 1 ? "" : "s"}${limit}`),
      make("p", {class: "note"}, "Below each image: how many of the models say so."), list);
  };
  for (const button of all(".matrix button")) button.addEventListener("click", () => open(button));
  for (const table of all(".matrix")) table.addEventListener("keydown", event => moveInMatrix(event, table));
}
function moveInMatrix(event, table) {
  const steps = {ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0]};
  if (!(event.key in steps) || !event.target.dataset.true) return;
  event.preventDefault();
  let [row, column] = [+event.target.dataset.true, +event.target.dataset.guess];
  const count = data.classes.length, [down, across] = steps[event.key];
  for (let i = 0; i < count; i++) {
    [row, column] = [row + down, column + across];
    const next = table.querySelector(`button[data-true="${row}"][data-guess="${column}"]`);
    if (next) { next.focus(); return; }
  }
}

// ---- map: t-SNE on a canvas ----
function unpack(text, Kind) {
  const bytes = Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
  return new Kind(bytes.buffer);
}
function startMap() {
  const canvas = byId("map-canvas");
  if (!canvas || !data.map) return;
  const place = unpack(data.map.coordinates, Uint16Array), sure = unpack(data.map.probabilities, Uint8Array);
  const predicted = data.map.predicted, count = predicted.length, card = byId("map-card"), box = byId("map-wrong");
  const context = canvas.getContext("2d"), frame = byId("map-frame");
  const points = Array.from({length: count}, (_, image) => ({
    image, x: place[2 * image] / 65535, y: place[2 * image + 1] / 65535, wrong: predicted[image] !== data.labels[image]}));
  let chosen = null, side = 0, visible = points;
  frame.querySelector("img").hidden = true;
  canvas.hidden = false;
  box.parentElement.hidden = false;

  const at = share => (0.03 + 0.94 * share) * side;
  const colour = name => getComputedStyle(document.body).getPropertyValue(name);
  const swatches = () => all(".classes .swatch").map(swatch => getComputedStyle(swatch).backgroundColor);
  const ground = document.createElement("canvas");

  function paint() {
    const ratio = devicePixelRatio || 1;
    side = canvas.clientWidth;
    if (!side) return;
    for (const surface of [canvas, ground]) surface.width = surface.height = Math.round(side * ratio);
    const pen = ground.getContext("2d"), colours = swatches(), radius = Math.max(1.2, side / 420);
    pen.scale(ratio, ratio);
    for (const point of visible) {
      pen.fillStyle = colours[data.labels[point.image]];
      pen.globalAlpha = 0.7;
      pen.beginPath();
      pen.arc(at(point.x), at(point.y), radius, 0, 7);
      pen.fill();
    }
    pen.globalAlpha = 1;
    pen.strokeStyle = getComputedStyle(card).color;
    pen.lineWidth = 0.9;
    pen.beginPath();
    for (const point of visible) if (point.wrong) cross(pen, at(point.x), at(point.y), radius * 1.7);
    pen.stroke();
    write(pen);
    refresh();
  }
  function cross(pen, x, y, r) {
    pen.moveTo(x - r, y - r);
    pen.lineTo(x + r, y + r);
    pen.moveTo(x - r, y + r);
    pen.lineTo(x + r, y - r);
  }
  function write(pen) {
    pen.font = `600 ${Math.max(11, side / 48)}px ${getComputedStyle(document.body).fontFamily}`;
    pen.textAlign = "center";
    pen.lineWidth = 4;
    pen.lineJoin = "round";
    pen.strokeStyle = getComputedStyle(frame).backgroundColor;
    pen.fillStyle = getComputedStyle(card).color;
    data.classes.forEach((name, label) => {
      const own = points.filter(point => +data.labels[point.image] === label);
      if (!own.length) return;
      const middle = axis => own.map(point => point[axis]).sort((a, b) => a - b)[own.length >> 1];
      const half = pen.measureText(name).width / 2 + 4;
      const x = Math.min(side - half, Math.max(half, at(middle("x")))), y = at(middle("y"));
      pen.strokeText(name, x, y);
      pen.fillText(name, x, y);
    });
  }
  function refresh() {
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.drawImage(ground, 0, 0);
    if (!chosen) return;
    const ratio = canvas.width / side;
    context.save();
    context.scale(ratio, ratio);
    const x = at(chosen.x), y = at(chosen.y);
    context.strokeStyle = getComputedStyle(card).color;
    context.lineWidth = 2;
    context.beginPath();
    context.arc(x, y, 6, 0, 7);
    context.stroke();
    if (sheet && sheet.complete) {
      const size = 56, left = x + 10 + size > side ? x - 10 - size : x + 10, top = Math.min(side - size - 2, Math.max(2, y - size / 2));
      context.imageSmoothingEnabled = false;
      drawImage(context, chosen.image, left, top, size);
      context.strokeRect(left, top, size, size);
    }
    context.restore();
  }
  function choose(point) {
    if (!point || point === chosen) return;
    chosen = point;
    const truth = data.classes[data.labels[point.image]], guess = data.classes[predicted[point.image]];
    const verdict = point.wrong ? `✗ taken for ${guess}` : "✓ classified correctly";
    card.replaceChildren(thumb(point.image, `Test image ${point.image}`), make("div", {},
      make("p", {}, make("b", {}, truth)), make("p", {}, `${verdict}, ${percent(sure[point.image] / 255, 0)} sure`),
      make("p", {}, make("small", {}, `test image ${point.image}`))));
    refresh();
  }
  function nearest(x, y, keep = () => true) {
    let best = null, least = Infinity;
    for (const point of visible) {
      const distance = (point.x - x) ** 2 + (point.y - y) ** 2;
      if (distance < least && keep(point)) [best, least] = [point, distance];
    }
    return best;
  }
  const inverse = value => (value / side - 0.03) / 0.94;
  const point = event => {
    const edge = canvas.getBoundingClientRect();
    choose(nearest(inverse(event.clientX - edge.left), inverse(event.clientY - edge.top)));
  };
  canvas.addEventListener("pointermove", point);
  canvas.addEventListener("pointerdown", point);
  canvas.addEventListener("focus", () => choose(chosen || nearest(0.5, 0.5)));
  canvas.addEventListener("keydown", event => {
    const steps = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]};
    if (event.key === "Home") choose(visible.find(each => each.wrong));
    else if (event.key in steps && chosen) {
      const [dx, dy] = steps[event.key];
      // Within 45 degrees of the key's direction, so that every image can be reached.
      choose(nearest(chosen.x, chosen.y, each => {
        const along = (each.x - chosen.x) * dx + (each.y - chosen.y) * dy;
        const aside = Math.abs((each.x - chosen.x) * dy) + Math.abs((each.y - chosen.y) * dx);
        return along > 0 && aside <= along;
      }));
    } else return;
    event.preventDefault();
  });
  box.addEventListener("change", () => {
    visible = box.checked ? points.filter(each => each.wrong) : points;
    paint();
  });
  document.addEventListener("themechange", paint);
  new ResizeObserver(paint).observe(frame);
  choose(points.find(each => each.wrong) || points[0]);
}

for (const start of [startTheme, startLinks, startCommands, startTabs, startFilter, startCurves, startConfusion, startMap]) start();
})();
