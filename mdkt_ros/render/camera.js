// The eye that turns around a target, and the mouse, fingers and keys that move it. x forward, y left, z up, metres.

const FIELD_OF_VIEW = 50 * Math.PI / 180;
const VIEWS = {
  behind: { azimuth: 205, elevation: 28, distance: 42, target: [6, 0, -1] },
  top: { azimuth: 180, elevation: 89.9, distance: 90, target: [0, 0, -1] },
};

class OrbitCamera {
  constructor(canvas, onChange) {
    this.canvas = canvas;
    this.onChange = onChange;
    this.onPick = () => {};
    this.pointers = new Map();
    this.look("behind");
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    canvas.addEventListener("pointerdown", (event) => this.down(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, (event) => this.up(event));
  }

  look(name) {
    Object.assign(this, structuredClone(VIEWS[name]));
    // A narrow window sees less to the sides: step back so that the street still fits.
    this.distance *= Math.max(1, 1.2 * this.canvas.clientHeight / Math.max(this.canvas.clientWidth, 1));
    this.onChange();
  }

  orbit(azimuth, elevation) {
    this.azimuth += azimuth;
    this.elevation = Math.min(Math.max(this.elevation + elevation, -20), 89.9);
    this.onChange();
  }

  zoom(factor) {
    this.distance = Math.min(Math.max(this.distance * factor, 1.5), 400);
    this.onChange();
  }

  pan(right, up) {
    const { right: r, up: u } = this.frame();
    const metres = 2 * Math.tan(FIELD_OF_VIEW / 2) * this.distance / this.canvas.clientHeight;
    for (let i = 0; i < 3; i++) this.target[i] += (-right * r[i] + up * u[i]) * metres;
    this.onChange();
  }

  // Unit vectors: from the target to the eye, to the right and up in the picture.
  frame() {
    const a = this.azimuth * Math.PI / 180, e = this.elevation * Math.PI / 180;
    const back = [Math.cos(e) * Math.cos(a), Math.cos(e) * Math.sin(a), Math.sin(e)];
    const right = [-Math.sin(a), Math.cos(a), 0];
    const up = [-Math.sin(e) * Math.cos(a), -Math.sin(e) * Math.sin(a), Math.cos(e)];
    return { back, right, up };
  }

  // Column-major view-projection for WebGL, and the near and far planes that it used.
  matrix() {
    const { back, right, up } = this.frame();
    const eye = this.target.map((t, i) => t + this.distance * back[i]);
    const near = Math.max(0.2, this.distance * 0.02), far = this.distance + 500;
    const f = 1 / Math.tan(FIELD_OF_VIEW / 2);
    const aspect = this.canvas.clientWidth / Math.max(this.canvas.clientHeight, 1);
    const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
    const rows = [[...right, -dot(right, eye)], [...up, -dot(up, eye)], [...back, -dot(back, eye)]];
    const p = (far + near) / (near - far), q = 2 * far * near / (near - far);
    const out = new Float32Array(16);
    for (let c = 0; c < 4; c++) {
      out[4 * c] = rows[0][c] * f / aspect;
      out[4 * c + 1] = rows[1][c] * f;
      out[4 * c + 2] = rows[2][c] * p + (c === 3 ? q : 0);
      out[4 * c + 3] = -rows[2][c];
    }
    return { matrix: out, near, far };
  }

  wheel(event) {
    event.preventDefault();
    const pixels = event.deltaMode === 1 ? event.deltaY * 20 : event.deltaY;
    this.zoom(Math.exp(Math.min(Math.max(pixels, -240), 240) * 0.0015));
  }

  down(event) {
    this.canvas.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, { x: event.offsetX, y: event.offsetY });
    this.travelled = this.pointers.size > 1 ? Infinity : 0;
  }

  move(event) {
    const last = this.pointers.get(event.pointerId);
    if (!last) return;
    const dx = event.offsetX - last.x, dy = event.offsetY - last.y;
    this.travelled += Math.abs(dx) + Math.abs(dy);
    if (this.pointers.size === 2) {
      const other = [...this.pointers].find(([id]) => id !== event.pointerId)[1];
      const before = Math.hypot(last.x - other.x, last.y - other.y);
      const now = Math.hypot(event.offsetX - other.x, event.offsetY - other.y);
      if (before > 1 && now > 1) this.zoom(before / now);
      this.pan(dx / 2, dy / 2);
    } else if (event.buttons & 6 || event.shiftKey) {
      this.pan(dx, dy);
    } else if (this.travelled > 3) {
      this.orbit(-dx * 0.3, dy * 0.3);
    }
    last.x = event.offsetX;
    last.y = event.offsetY;
  }

  up(event) {
    if (!this.pointers.delete(event.pointerId)) return;
    if (event.type === "pointerup" && event.button === 0 && this.travelled <= 3) this.onPick(event.offsetX, event.offsetY);
  }

  // True when the key moved the eye.
  key(event) {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (step && event.shiftKey) this.pan(-step[0] * 40, -step[1] * 40);
    else if (step) this.orbit(step[0] * 5, -step[1] * 4);
    else if (event.key === "+" || event.key === "=") this.zoom(0.85);
    else if (event.key === "-" || event.key === "−") this.zoom(1 / 0.85);
    else return false;
    return true;
  }
}
