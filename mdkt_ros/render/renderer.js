// WebGL 2: points and guide lines into a colour and a depth texture, then eye-dome lighting, which gives a cloud its shape.

const POINT_VERTEX = `#version 300 es
layout(location = 0) in vec3 position;
layout(location = 1) in vec4 color;
uniform mat4 matrix;
uniform float pixels;
uniform vec2 sizes;
out vec3 shade;
void main() {
  vec4 p = matrix * vec4(position, 1.0);
  gl_Position = color.a < 0.5 ? vec4(2.0, 2.0, 2.0, 1.0) : p;
  gl_PointSize = clamp(pixels / max(p.w, 0.01), sizes.x, sizes.y);
  shade = color.rgb;
}`;
const POINT_FRAGMENT = `#version 300 es
precision mediump float;
in vec3 shade;
out vec4 result;
void main() {
  vec2 off = gl_PointCoord - 0.5;
  if (dot(off, off) > 0.25) discard;
  result = vec4(shade, 1.0);
}`;
const LINE_VERTEX = `#version 300 es
layout(location = 0) in vec3 position;
uniform mat4 matrix;
void main() { gl_Position = matrix * vec4(position, 1.0); }`;
const LINE_FRAGMENT = `#version 300 es
precision mediump float;
uniform vec3 tint;
out vec4 result;
void main() { result = vec4(tint, 1.0); }`;
const SCREEN_VERTEX = `#version 300 es
void main() {
  vec2 corner = vec2(gl_VertexID & 1, gl_VertexID >> 1) * 4.0 - 1.0;
  gl_Position = vec4(corner, 0.0, 1.0);
}`;
const SCREEN_FRAGMENT = `#version 300 es
precision highp float;
uniform sampler2D colors;
uniform highp sampler2D depths;
uniform vec2 planes;
uniform vec3 ground;
uniform int factor;
uniform int reach;
out vec4 result;
float range(ivec2 at) {
  float d = texelFetch(depths, clamp(at, ivec2(0), textureSize(depths, 0) - 1), 0).r;
  return d >= 1.0 ? 1e4 : log2(planes.x * planes.y / (planes.y - d * (planes.y - planes.x)));
}
void main() {
  ivec2 base = ivec2(gl_FragCoord.xy) * factor;
  vec3 sum = vec3(0.0);
  for (int y = 0; y < factor; y++) for (int x = 0; x < factor; x++) {
    ivec2 at = base + ivec2(x, y);
    float here = range(at);
    if (here > 1e3) { sum += ground; continue; }
    float behind = max(0.0, here - range(at + ivec2(reach, 0))) + max(0.0, here - range(at - ivec2(reach, 0)))
      + max(0.0, here - range(at + ivec2(0, reach))) + max(0.0, here - range(at - ivec2(0, reach)));
    sum += texelFetch(colors, at, 0).rgb * max(0.35, exp(-behind * 7.0));
  }
  result = vec4(sum / float(factor * factor), 1.0);
}`;

class Renderer {
  // Throws an Error with a readable message where WebGL 2 is missing.
  constructor(canvas) {
    this.canvas = canvas;
    const gl = this.gl = canvas.getContext("webgl2", { antialias: false, alpha: false, powerPreference: "high-performance" });
    if (!gl) throw new Error("This browser does not offer WebGL 2, so the cloud cannot be drawn in 3D. Images, counts and the table work without it.");
    this.points = this.program(POINT_VERTEX, POINT_FRAGMENT);
    this.lines = this.program(LINE_VERTEX, LINE_FRAGMENT);
    this.screen = this.program(SCREEN_VERTEX, SCREEN_FRAGMENT);
    this.count = 0;
    this.positions = gl.createBuffer();
    this.colors = gl.createBuffer();
    this.cloud = gl.createVertexArray();
    gl.bindVertexArray(this.cloud);
    this.attribute(0, this.positions, 3, gl.FLOAT, false);
    this.attribute(1, this.colors, 4, gl.UNSIGNED_BYTE, true);
    this.rings = this.shape(ringSegments());
    this.vehicle = this.shape(vehicleSegments());
    this.empty = gl.createVertexArray();
    this.framebuffer = gl.createFramebuffer();
    this.maxPoint = gl.getParameter(gl.ALIASED_POINT_SIZE_RANGE)[1];
  }

  program(vertex, fragment) {
    const gl = this.gl, program = gl.createProgram();
    for (const [type, source] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
      const shader = gl.createShader(type);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS) && !gl.isContextLost()) {
      throw new Error(`The graphics driver refused a shader, so the cloud cannot be drawn: ${gl.getProgramInfoLog(program)}`);
    }
    return { program, at: (name) => gl.getUniformLocation(program, name) };
  }

  attribute(location, buffer, size, type, normalized) {
    const gl = this.gl;
    gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
    gl.enableVertexAttribArray(location);
    gl.vertexAttribPointer(location, size, type, normalized, 0, 0);
  }

  shape(vertices) {
    const gl = this.gl, vao = gl.createVertexArray(), buffer = gl.createBuffer();
    gl.bindVertexArray(vao);
    this.attribute(0, buffer, 3, gl.FLOAT, false);
    gl.bufferData(gl.ARRAY_BUFFER, new Float32Array(vertices), gl.STATIC_DRAW);
    return { vao, count: vertices.length / 3 };
  }

  setPoints(xyz) {
    this.count = xyz.length / 3;
    this.fill(this.positions, xyz);
  }

  setColors(rgba) {
    this.fill(this.colors, rgba);
  }

  fill(buffer, data) {
    const gl = this.gl;
    gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
    gl.bufferData(gl.ARRAY_BUFFER, data, gl.DYNAMIC_DRAW);
  }

  resize() {
    const gl = this.gl, ratio = Math.min(window.devicePixelRatio || 1, 2);
    const width = Math.max(1, Math.round(this.canvas.clientWidth * ratio));
    const height = Math.max(1, Math.round(this.canvas.clientHeight * ratio));
    if (this.width === width && this.height === height) return;
    [this.width, this.height, this.canvas.width, this.canvas.height] = [width, height, width, height];
    // Twice the pixels in each direction, averaged, where the screen is coarse.
    this.factor = ratio < 1.5 && width * height < 3e6 ? 2 : 1;
    for (const texture of this.textures || []) gl.deleteTexture(texture);
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.framebuffer);
    this.textures = [[gl.RGBA8, gl.COLOR_ATTACHMENT0], [gl.DEPTH_COMPONENT24, gl.DEPTH_ATTACHMENT]].map(([format, slot]) => {
      const texture = gl.createTexture();
      gl.bindTexture(gl.TEXTURE_2D, texture);
      gl.texStorage2D(gl.TEXTURE_2D, 1, format, width * this.factor, height * this.factor);
      for (const name of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, name, gl.NEAREST);
      gl.framebufferTexture2D(gl.FRAMEBUFFER, slot, gl.TEXTURE_2D, texture, 0);
      return texture;
    });
  }

  draw({ matrix, near, far }, size, ground) {
    const gl = this.gl;
    this.resize();
    const tall = this.height * this.factor, unit = tall / this.canvas.clientHeight;
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.framebuffer);
    gl.viewport(0, 0, this.width * this.factor, tall);
    gl.enable(gl.DEPTH_TEST);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    gl.useProgram(this.points.program);
    gl.uniformMatrix4fv(this.points.at("matrix"), false, matrix);
    gl.uniform1f(this.points.at("pixels"), 0.085 * size * tall / (2 * Math.tan(FIELD_OF_VIEW / 2)));
    gl.uniform2f(this.points.at("sizes"), 1.5 * size * unit, Math.min(9 * size * unit, this.maxPoint));
    gl.bindVertexArray(this.cloud);
    gl.drawArrays(gl.POINTS, 0, this.count);
    gl.useProgram(this.lines.program);
    gl.uniformMatrix4fv(this.lines.at("matrix"), false, matrix);
    for (const [shape, tint] of [[this.rings, [0.17, 0.2, 0.24]], [this.vehicle, [0.9, 0.93, 0.95]]]) {
      gl.uniform3f(this.lines.at("tint"), ...tint);
      gl.bindVertexArray(shape.vao);
      gl.drawArrays(gl.LINES, 0, shape.count);
    }
    gl.bindFramebuffer(gl.FRAMEBUFFER, null);
    gl.viewport(0, 0, this.width, this.height);
    gl.disable(gl.DEPTH_TEST);
    gl.useProgram(this.screen.program);
    gl.activeTexture(gl.TEXTURE0);
    gl.bindTexture(gl.TEXTURE_2D, this.textures[0]);
    gl.activeTexture(gl.TEXTURE1);
    gl.bindTexture(gl.TEXTURE_2D, this.textures[1]);
    gl.activeTexture(gl.TEXTURE0);
    gl.uniform1i(this.screen.at("depths"), 1);
    gl.uniform2f(this.screen.at("planes"), near, far);
    gl.uniform3f(this.screen.at("ground"), ...ground);
    gl.uniform1i(this.screen.at("factor"), this.factor);
    gl.uniform1i(this.screen.at("reach"), Math.max(1, Math.round(unit)));
    gl.bindVertexArray(this.empty);
    gl.drawArrays(gl.TRIANGLES, 0, 3);
  }
}

const GROUND_HEIGHT = -1.8;

function ringSegments() {
  const out = [];
  for (let radius = 10; radius <= 50; radius += 10) {
    for (let i = 0; i < 144; i++) {
      for (const k of [i, i + 1]) {
        const a = k * Math.PI / 72;
        out.push(radius * Math.cos(a), radius * Math.sin(a), GROUND_HEIGHT);
      }
    }
  }
  return out;
}

// A box with an arrow on its roof: where the vehicle is and where it is heading.
function vehicleSegments() {
  const out = [], x = [-2.8, 1.6], y = [-0.9, 0.9], z = [-1.6, -0.3];
  const line = (a, b) => out.push(...a, ...b);
  for (const i of [0, 1]) for (const j of [0, 1]) {
    line([x[0], y[i], z[j]], [x[1], y[i], z[j]]);
    line([x[i], y[0], z[j]], [x[i], y[1], z[j]]);
    line([x[i], y[j], z[0]], [x[i], y[j], z[1]]);
  }
  line([-0.6, 0.5, z[1]], [1.2, 0, z[1]]);
  line([-0.6, -0.5, z[1]], [1.2, 0, z[1]]);
  return out;
}
