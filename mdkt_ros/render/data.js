// Frames as the page holds them: JSON with base64 arrays, decoded when first shown; and the colour of every point.

const IGNORE = 255;
const WRONG = [255, 72, 66], RIGHT = [72, 84, 99], UNSCORED = [46, 53, 63];
const RAMP = [[70, 92, 214], [62, 172, 222], [88, 202, 110], [250, 208, 70], [242, 90, 62]];

const MODES = [
  { id: "prediction", name: "Prediction", needs: ["prediction"] },
  { id: "truth", name: "Truth", needs: ["truth"] },
  { id: "error", name: "Error", needs: ["prediction", "truth"] },
  { id: "probability", name: "Probability", needs: ["probability"] },
  { id: "intensity", name: "Intensity", needs: ["intensity"] },
  { id: "height", name: "Height", needs: [] },
];

function bytes(text) {
  const raw = atob(text);
  const array = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) array[i] = raw.charCodeAt(i);
  return array;
}

// Little-endian, which every browser's machine is.
const array = (text, Type) => new Type(bytes(text).buffer);

function decodeColumns(holder) {
  for (const column of ["prediction", "truth", "probability", "intensity", "height"]) {
    if (holder[column]) holder[column] = bytes(holder[column]);
  }
}

function decodeFrame(element) {
  const frame = JSON.parse(element.textContent);
  const steps = array(frame.xyz, Int16Array);
  frame.xyz = new Float32Array(steps.length);
  for (let i = 0; i < steps.length; i++) frame.xyz[i] = steps[i] * frame.scale;
  decodeColumns(frame);
  for (const image of frame.images) {
    image.uv = array(image.uv, Uint16Array);
    image.radius = bytes(image.radius);
    decodeColumns(image);
    image.n = image.radius.length;
  }
  return frame;
}

function ramp(t) {
  const at = Math.min(Math.max(t, 0), 1) * (RAMP.length - 1);
  const i = Math.min(Math.floor(at), RAMP.length - 2);
  return RAMP[i].map((low, c) => low + (RAMP[i + 1][c] - low) * (at - i));
}

const rampTable = Array.from({ length: 256 }, (_, i) => ramp(i / 255));

// The labels that the legend counts and hides by: the truth where it is shown or the only ones there are.
function activeLabels(frame, mode) {
  return mode === "truth" || !frame.prediction ? frame.truth : frame.prediction;
}

function activeCounts(frame, mode) {
  return (mode === "truth" || !frame.prediction ? frame.truthCounts : frame.predictionCounts) || {};
}

// RGBA of every point of a frame, or of those that one of its images shows; alpha 0 hides a point.
function pointColors(frame, mode, visible, palette) {
  const colors = new Uint8Array(frame.n * 4);
  const labels = activeLabels(frame, mode);
  for (let i = 0; i < frame.n; i++) {
    let color;
    if (mode === "error") {
      color = frame.truth[i] === IGNORE ? UNSCORED : frame.truth[i] === frame.prediction[i] ? RIGHT : WRONG;
    } else if (mode === "probability") {
      color = rampTable[255 - frame.probability[i]];
    } else if (mode === "intensity") {
      color = rampTable[frame.intensity[i]];
    } else if (mode === "height") {
      color = rampTable[frame.height[i]];
    } else {
      color = palette[labels[i]];
    }
    colors[4 * i] = color[0];
    colors[4 * i + 1] = color[1];
    colors[4 * i + 2] = color[2];
    colors[4 * i + 3] = !labels || visible[labels[i]] ? 255 : 0;
  }
  return colors;
}
