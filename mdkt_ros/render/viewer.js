// The page: state, controls, and what is drawn again when one of them changes.

const $ = (id) => document.getElementById(id);
const meta = JSON.parse($("meta").textContent);
const sources = [...document.querySelectorAll("script.frame")];
const decoded = new Map();
const state = { frame: 0, mode: null, playing: null, turning: false };
const GROUND = [13 / 255, 17 / 255, 23 / 255];

function frameAt(index) {
  if (!decoded.has(index)) {
    decoded.set(index, decodeFrame(sources[index]));
    sources[index].textContent = "";
  }
  return decoded.get(index);
}

const current = () => frameAt(state.frame);
const canvas = $("cloud");
let renderer = null, scheduled = false, colors = null;

function redraw() {
  if (scheduled || !renderer) return;
  scheduled = true;
  requestAnimationFrame(() => {
    scheduled = false;
    renderer.draw(camera.matrix(), Number($("size").value), GROUND);
    if (state.turning) camera.orbit(0.25, 0);
  });
}

const camera = new OrbitCamera(canvas, redraw);
const strip = new ImageStrip($("images"), $("strip"));

function classesOnPage() {
  const totals = new Map();
  for (let i = 0; i < sources.length; i++) {
    const text = sources[i].dataset.counts;
    for (const [id, count] of Object.entries(JSON.parse(text))) totals.set(Number(id), (totals.get(Number(id)) || 0) + count);
  }
  return [...totals.keys()].sort((a, b) => (a === IGNORE) - (b === IGNORE) || totals.get(b) - totals.get(a));
}

function recolor() {
  if (state.mode === null) return;
  const frame = current();
  const colorsOf = (points) => pointColors(points, state.mode, legend.visible, meta.palette);
  colors = colorsOf(frame);
  renderer?.setColors(colors);
  strip.paint(frame, Number($("alpha").value), colorsOf);
  redraw();
}

const legend = new Legend(meta, classesOnPage(), recolor);

function setMode(mode) {
  state.mode = mode;
  for (const button of $("modes").children) {
    const chosen = button.dataset.mode === mode;
    button.setAttribute("aria-checked", chosen);
    button.tabIndex = chosen ? 0 : -1;
  }
  const frame = current();
  showKey($("key"), frame, mode);
  legend.setCounts(activeCounts(frame, mode));
  recolor();
}

// A scan may lack what another has (truth, say): the choice is kept where it can be, the first possible one otherwise.
function setFrame(index) {
  state.frame = Math.min(Math.max(index, 0), sources.length - 1);
  const frame = current();
  const possible = MODES.filter((mode) => mode.needs.every((column) => frame[column]));
  $("modes").replaceChildren(...possible.map((mode) => {
    const button = document.createElement("button");
    button.type = "button";
    button.setAttribute("role", "radio");
    button.dataset.mode = mode.id;
    button.textContent = mode.name;
    button.addEventListener("click", () => setMode(mode.id));
    return button;
  }));
  $("frame").value = state.frame;
  $("frame").setAttribute("aria-valuetext", `${state.frame + 1} of ${sources.length}: ${frame.name}`);
  $("name").textContent = sources.length > 1 ? `${state.frame + 1} / ${sources.length} · ${frame.name}` : frame.name;
  const seconds = Number(BigInt(frame.stamp) - BigInt(frameAt(0).stamp)) / 1e9;
  $("when").textContent = sources.length > 1 ? `${seconds >= 0 ? "+" : ""}${seconds.toFixed(2)} s` : "";
  const all = frame.total.toLocaleString("en");
  $("count").textContent = frame.n < frame.total ? `${frame.n.toLocaleString("en")} of ${all} points drawn` : `${all} points`;
  $("readout").hidden = true;
  renderer?.setPoints(frame.xyz);
  strip.show(frame);
  setMode(possible.some((mode) => mode.id === state.mode) ? state.mode : possible[0].id);
}

function play(on) {
  clearInterval(state.playing);
  state.playing = on ? setInterval(() => setFrame((state.frame + 1) % sources.length), 250) : null;
  $("play").setAttribute("aria-pressed", on);
  $("play").setAttribute("aria-label", on ? "Pause" : "Play");
  $("play").textContent = on ? "❚❚" : "▶";
}

// The nearest point within a finger's width of (x, y), or -1.
function pick(x, y) {
  const { matrix: m } = camera.matrix(), frame = current();
  const w = canvas.clientWidth, h = canvas.clientHeight;
  let best = -1, bestScore = Infinity;
  for (let i = 0; i < frame.n; i++) {
    if (!colors[4 * i + 3]) continue;
    const a = frame.xyz[3 * i], b = frame.xyz[3 * i + 1], c = frame.xyz[3 * i + 2];
    const depth = m[3] * a + m[7] * b + m[11] * c + m[15];
    if (depth < 0.2) continue;
    const u = ((m[0] * a + m[4] * b + m[8] * c + m[12]) / depth + 1) * w / 2 - x;
    const v = (1 - (m[1] * a + m[5] * b + m[9] * c + m[13]) / depth) * h / 2 - y;
    const off = u * u + v * v;
    if (off > 100) continue;
    const score = depth * (1 + off / 20);
    if (score < bestScore) [best, bestScore] = [i, score];
  }
  return best;
}

function describe(i) {
  const box = $("readout"), frame = current();
  box.hidden = i < 0;
  if (i < 0) return;
  const [x, y, z] = frame.xyz.subarray(3 * i, 3 * i + 3);
  const labels = activeLabels(frame, state.mode), lines = [];
  if (frame.prediction && frame.truth) {
    lines.push(`prediction ${legend.name(frame.prediction[i])}`, `truth ${legend.name(frame.truth[i])}`);
  }
  if (frame.probability) lines.push(`probability ${(frame.probability[i] / 255).toFixed(2)}`);
  lines.push(`x ${x.toFixed(2)}  y ${y.toFixed(2)}  z ${z.toFixed(2)} m`, `range ${Math.hypot(x, y, z).toFixed(1)} m`);
  const head = document.createElement("b"), swatch = document.createElement("i");
  if (labels) {
    swatch.className = `swatch c${labels[i]}`;
    head.append(swatch, legend.name(labels[i]));
  }
  box.replaceChildren(head, ...lines.map((text) => Object.assign(document.createElement("div"), { textContent: text })));
}

camera.onPick = (x, y) => describe(pick(x, y));
canvas.addEventListener("dblclick", (event) => {
  const i = pick(event.offsetX, event.offsetY);
  if (i < 0) return;
  camera.target = [...current().xyz.subarray(3 * i, 3 * i + 3)];
  camera.zoom(0.7);
});

function turn(on) {
  state.turning = on;
  $("turn").setAttribute("aria-pressed", on);
  redraw();
}

function key(event) {
  const inField = event.target instanceof HTMLInputElement || event.target instanceof HTMLButtonElement;
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const modes = [...$("modes").children];
  const radio = event.target.parentElement === $("modes") && { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  if (radio) {
    const next = (modes.indexOf(event.target) + radio + modes.length) % modes.length;
    modes[next].click();
    modes[next].focus();
  } else if (event.target === canvas && camera.key(event)) {
    // moved
  } else if (/^[1-6]$/.test(event.key) && modes[event.key - 1]) modes[event.key - 1].click();
  else if (event.key === "r" || event.key === "R") camera.look("behind");
  else if (event.key === "t" || event.key === "T") camera.look("top");
  else if (event.key === "[") setFrame(state.frame - 1);
  else if (event.key === "]") setFrame(state.frame + 1);
  else if (event.key === " " && !inField && sources.length > 1) play(!state.playing);
  else return;
  event.preventDefault();
}

document.addEventListener("keydown", key);
for (const button of document.querySelectorAll("[data-view]")) button.addEventListener("click", () => camera.look(button.dataset.view));
$("turn").addEventListener("click", () => turn(!state.turning));
$("play").addEventListener("click", () => play(!state.playing));
$("frame").addEventListener("input", () => setFrame(Number($("frame").value)));
$("size").addEventListener("input", redraw);
$("alpha").addEventListener("input", recolor);

function complain(text) {
  $("message").textContent = text;
  $("message").hidden = false;
  $("views").hidden = true;
}

try {
  renderer = new Renderer(canvas);
} catch (error) {
  complain(error.message);
}
canvas.addEventListener("webglcontextlost", () => {
  renderer = null;
  complain("The graphics driver let go of the view. Reload the page to see the cloud again.");
});
$("frame").max = sources.length - 1;
$("timeline").hidden = sources.length < 2;
setFrame(0);
new ResizeObserver(redraw).observe(canvas);
document.documentElement.dataset.ready = "true";
