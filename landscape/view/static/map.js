// The map: a picture with a pixel for each cell, and what is drawn over it: contours, hatching, axes, paths, the line
// of the profile and the cursor.

const SVG = "http://www.w3.org/2000/svg";
const GRIP = 7; // radius of the ends of the line, in pixels

function element(parent, tag, attributes = {}, text) {
  const made = tag.startsWith("svg:") ? document.createElementNS(SVG, tag.slice(4)) : document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== false && value !== null && value !== undefined) made.setAttribute(key, value === true ? "" : value);
  }
  if (text !== undefined) made.textContent = text;
  parent?.append(made);
  return made;
}

class MapView {
  // actions: {hover(ix, iy), pick(ix, iy), line([from, to]), keys(event), view?(change)}
  constructor(parent, actions) {
    this.actions = actions;
    this.figure = element(parent, "figure", { class: "map" });
    this.heading = element(this.figure, "figcaption");
    this.plot = element(this.figure, "div", { class: "plot" });
    this.pixels = element(this.plot, "canvas", { "aria-hidden": "true" });
    this.marks = element(this.plot, "canvas", { "aria-hidden": "true" });
    this.svg = element(this.plot, "svg:svg", { tabindex: "0", role: "application", "aria-describedby": "keys" });
    this.axesLayer = element(this.svg, "svg:g");
    this.clip = element(this.svg, "svg:svg", { overflow: "hidden" });
    for (const layer of ["pathsLayer", "pointsLayer", "cursorLayer"]) this[layer] = element(this.clip, "svg:g");
    this.lineLayer = element(this.svg, "svg:g"); // not clipped: its handles may stand on the edge
    this.grips = [0, 1].map((end) => this.grip(end));
    this.listen();
  }

  listen() {
    const { svg } = this;
    svg.addEventListener("pointermove", (event) => this.moved(event));
    svg.addEventListener("pointerdown", (event) => this.pressed(event));
    svg.addEventListener("pointerup", (event) => this.released(event));
    svg.addEventListener("pointercancel", () => (this.drag = null));
    svg.addEventListener("keydown", (event) => this.actions.keys(event));
    if (this.actions.wheel) svg.addEventListener("wheel", (event) => this.wheeled(event), { passive: false });
  }

  wheeled(event) {
    if (!this.model || !event.deltaY) return;
    event.preventDefault();
    const { place, within } = this.cell(event);
    if (within) this.actions.wheel(this, place, event.deltaY > 0);
  }

  grip(end) {
    const grip = element(this.lineLayer, "svg:circle", {
      class: "grip", r: GRIP, tabindex: "0", role: "button", fill: "white", stroke: "black", "stroke-width": 1.5,
      "aria-label": `${end ? "end" : "start"} of the line of the profile; arrow keys move it`,
    });
    grip.addEventListener("keydown", (event) => {
      const step = ARROWS[event.key];
      if (!step) return;
      event.preventDefault();
      event.stopPropagation();
      const by = event.shiftKey ? 10 : 1;
      const line = this.model.line.map((p) => [...p]);
      line[end] = this.inside(line[end][0] + step[0] * by, line[end][1] + step[1] * by);
      this.actions.line(line);
    });
    return grip;
  }

  inside(ix, iy) {
    const { nx, ny } = this.model.plane;
    return [Math.min(nx - 1, Math.max(0, ix)), Math.min(ny - 1, Math.max(0, iy))];
  }

  // ------------------------------------------------------------------------------------------------- pointer

  cell(event) {
    const box = this.pixels.getBoundingClientRect(), [x, y] = this.model.axes;
    const left = box.left, top = box.top;
    const px = (event.clientX - left) / this.width, py = 1 - (event.clientY - top) / this.height;
    const within = px >= 0 && px <= 1 && py >= 0 && py <= 1;
    return { at: [cellAt(x, px), cellAt(y, py)], within, place: [px, py] };
  }

  moved(event) {
    if (!this.model) return;
    const { at, within } = this.cell(event), { drag } = this;
    if (drag?.grip !== undefined) {
      const line = this.model.line.map((p) => [...p]);
      line[drag.grip] = at;
      this.actions.line(line);
    } else if (drag && Math.hypot(event.clientX - drag.x, event.clientY - drag.y) > 5) {
      drag.drawn = true; // more than a click
      if (this.actions.pan) this.actions.pan(this, drag, event);
      else this.actions.line([drag.at, at]);
    } else if (within && !drag) this.actions.hover(...at);
  }

  pressed(event) {
    if (!this.model || event.button) return;
    const { at, within } = this.cell(event), grip = this.grips.indexOf(event.target);
    if (grip >= 0) this.drag = { grip };
    else if (within) this.drag = { at, x: event.clientX, y: event.clientY };
    if (this.drag) this.svg.setPointerCapture(event.pointerId);
  }

  released(event) {
    const { drag } = this;
    this.drag = null;
    if (drag?.drawn && this.actions.panned) this.actions.panned(this, drag, event);
    else if (drag?.at && !drag.drawn) this.actions.pick(...drag.at);
  }

  // ------------------------------------------------------------------------------------------------- drawing

  // model: {title, plane, axes, colours, levels, hatch, equal, paths, points, line, cursor}
  draw(model) {
    this.model = model;
    this.heading.replaceChildren();
    element(this.heading, "bdi", {}, shorten(model.title, 80));
    this.svg.setAttribute("aria-label", `map of ${shorten(model.title, 80)}: arrow keys move the cursor`);
    for (const canvas of [this.pixels, this.marks]) canvas.style.transform = "";
    this.drawPixels();
    this.layout();
  }

  layout() {
    if (!this.model) return;
    const { model } = this, [x, y] = model.axes;
    const em = parseFloat(getComputedStyle(this.figure).fontSize), flat = model.plane.ny === 1 && !y.label;
    this.margin = { left: flat ? 1.5 * em : 4 * em, right: 1.2 * em, top: 0.6 * em, bottom: 3.2 * em };
    const room = Math.max(120, this.figure.clientWidth - this.margin.left - this.margin.right);
    const tallest = Math.max(220, Math.min(0.62 * window.innerHeight, room));
    const ratio = (y.edges[y.edges.length - 1] - y.edges[0]) / (x.edges[x.edges.length - 1] - x.edges[0]);
    [this.width, this.height] = flat ? [room, 3 * em] : [room, tallest];
    if (model.equal && !flat && !x.log && !y.log) {
      this.width = Math.max(60, Math.min(room, tallest / ratio));
      this.height = Math.max(60, this.width * ratio);
      if (this.height > tallest) [this.width, this.height] = [Math.max(30, tallest / ratio), tallest];
    }
    this.place();
    this.drawMarks();
    this.drawAxes(em);
    this.drawPaths();
    this.drawPoints();
    this.drawLine();
    this.drawCursor();
  }

  place() {
    const { left, top, right, bottom } = this.margin, { width, height } = this;
    for (const canvas of [this.pixels, this.marks]) {
      Object.assign(canvas.style, { left: `${left}px`, top: `${top}px`, width: `${width}px`, height: `${height}px` });
    }
    const crisp = width >= this.model.plane.nx && height >= this.model.plane.ny;
    this.pixels.style.imageRendering = crisp ? "pixelated" : "auto";
    const size = { width: width + left + right, height: height + top + bottom };
    for (const [key, value] of Object.entries(size)) this.svg.setAttribute(key, value);
    Object.assign(this.plot.style, { width: `${size.width}px`, height: `${size.height}px` });
    for (const [key, value] of Object.entries({ x: left, y: top, width, height })) this.clip.setAttribute(key, value);
    this.lineLayer.setAttribute("transform", `translate(${left} ${top})`);
  }

  // A pixel for each cell where all are equally large; otherwise as many as show the narrow ones.
  drawPixels() {
    const { plane, axes, colours } = this.model;
    const [columns, rows] = axes.map(pixelCells);
    const image = new ImageData(columns.length, rows.length), out = new Uint32Array(image.data.buffer);
    for (let r = 0, k = 0; r < rows.length; r++) {
      const iy = rows[rows.length - 1 - r];
      for (let c = 0; c < columns.length; c++, k++) out[k] = colours[columns[c] * plane.ny + iy];
    }
    this.pixels.width = columns.length;
    this.pixels.height = rows.length;
    this.pixels.getContext("2d").putImageData(image, 0, 0);
  }

  drawMarks() {
    const { marks, model } = this, dense = Math.min(2, window.devicePixelRatio || 1);
    marks.width = Math.max(1, Math.round(this.width * dense));
    marks.height = Math.max(1, Math.round(this.height * dense));
    const context = marks.getContext("2d");
    if (model.hatch) context.putImageData(hatching(marks.width, marks.height, model, dense), 0, 0);
    if (!model.levels.length || model.plane.nx < 2 || model.plane.ny < 2) return;
    const lines = contourLines(model, marks.width, marks.height);
    for (const [colour, width] of [["rgba(255,255,255,.45)", 2.2], ["rgba(0,0,0,.75)", 0.9]]) {
      context.strokeStyle = colour;
      context.lineWidth = width * dense;
      context.stroke(lines);
    }
  }

  drawAxes(em) {
    const { axesLayer: layer, margin, width, height, model } = this, [x, y] = model.axes;
    layer.replaceChildren();
    const line = { stroke: "currentColor", "stroke-width": 1 }, text = { fill: "currentColor", "font-size": 0.8 * em };
    element(layer, "svg:rect", { x: margin.left, y: margin.top, width, height, fill: "none", ...line });
    for (const tick of axisTicks(x, width / (5 * em))) {
      const at = margin.left + placeOn(x, tick) * width, foot = margin.top + height;
      element(layer, "svg:line", { x1: at, x2: at, y1: foot, y2: foot + 4, ...line });
      element(layer, "svg:text", { x: at, y: foot + 4 + em, "text-anchor": "middle", ...text }, brief(tick, 4));
    }
    element(layer, "svg:text", {
      x: margin.left + width / 2, y: margin.top + height + 2.7 * em, "text-anchor": "middle", ...text, "font-size": 0.9 * em,
    }, isolated(x.label, width / (0.5 * em)));
    if (!y.label && model.plane.ny === 1) return;
    for (const tick of axisTicks(y, height / (3 * em))) {
      const at = margin.top + (1 - placeOn(y, tick)) * height;
      element(layer, "svg:line", { x1: margin.left - 4, x2: margin.left, y1: at, y2: at, ...line });
      element(layer, "svg:text", { x: margin.left - 6, y: at + 0.28 * em, "text-anchor": "end", ...text }, brief(tick, 3));
    }
    element(layer, "svg:text", {
      transform: `translate(${0.95 * em} ${margin.top + height / 2}) rotate(-90)`, "text-anchor": "middle", ...text,
      "font-size": 0.9 * em,
    }, isolated(y.label, height / (0.5 * em)));
  }

  spot([x, y]) {
    return [placeOn(this.model.axes[0], x) * this.width, (1 - placeOn(this.model.axes[1], y)) * this.height];
  }

  centre([ix, iy]) {
    return this.spot([this.model.axes[0].values[ix], this.model.axes[1].values[iy]]);
  }

  drawPaths() {
    this.pathsLayer.replaceChildren();
    for (const { spots, colour, step } of this.model.paths) {
      const drawn = spots.map((s) => this.spot(s)).filter((s) => s.every(Number.isFinite));
      const points = drawn.map((s) => s.map((v) => Math.max(-1e5, Math.min(1e5, v)).toFixed(2)).join(",")).join(" ");
      const look = { points, fill: "none", "stroke-linejoin": "round" };
      element(this.pathsLayer, "svg:polyline", { ...look, stroke: "black", "stroke-width": 3.6 });
      element(this.pathsLayer, "svg:polyline", { ...look, stroke: colour, "stroke-width": 2 });
      const [cx, cy] = this.spot(spots[step]);
      if (!Number.isFinite(cx + cy)) continue;
      element(this.pathsLayer, "svg:circle", { class: "step", cx, cy, r: 5.5, fill: colour, stroke: "black", "stroke-width": 1.5 });
    }
  }

  drawPoints() {
    this.pointsLayer.replaceChildren();
    const shapes = { minima: "★", saddles: "✕", maxima: "▲", best: "★" };
    for (const { kind, spot, name } of this.model.points) {
      const [x, y] = this.spot(spot);
      const mark = element(this.pointsLayer, "svg:text", {
        x, y, "text-anchor": "middle", "dominant-baseline": "central", "font-size": 17, fill: "white", stroke: "black",
        "stroke-width": 2.4, "paint-order": "stroke",
      }, shapes[kind]);
      element(mark, "svg:title", {}, name);
    }
  }

  drawLine() {
    const { lineLayer, model, grips } = this;
    lineLayer.querySelectorAll("line").forEach((old) => old.remove());
    const [[x1, y1], [x2, y2]] = model.line.map((p) => this.centre(p));
    const ends = { x1, y1, x2, y2 };
    const shadow = element(null, "svg:line", { ...ends, stroke: "black", "stroke-width": 3.2 });
    const line = element(null, "svg:line", { ...ends, stroke: "white", "stroke-width": 1.6, "stroke-dasharray": "6 4" });
    lineLayer.prepend(shadow, line);
    grips.forEach((grip, end) => {
      grip.setAttribute("cx", end ? x2 : x1);
      grip.setAttribute("cy", end ? y2 : y1);
    });
  }

  drawCursor() {
    const [x, y] = this.centre(this.model.cursor), { cursorLayer, width, height } = this;
    if (!this.cross) {
      this.cross = ["white", "black"].flatMap((stroke, k) => [
        element(cursorLayer, "svg:line", { stroke, "stroke-width": k ? 1 : 3, opacity: k ? 0.9 : 0.55 }),
        element(cursorLayer, "svg:line", { stroke, "stroke-width": k ? 1 : 3, opacity: k ? 0.9 : 0.55 }),
      ]);
      cursorLayer.setAttribute("class", "cursor");
      cursorLayer.setAttribute("pointer-events", "none");
    }
    this.cross.forEach((line, k) => {
      const ends = k % 2 ? { x1: 0, x2: width, y1: y, y2: y } : { x1: x, x2: x, y1: 0, y2: height };
      for (const [key, value] of Object.entries(ends)) line.setAttribute(key, value);
    });
  }

  show({ cursor, line }) {
    if (!this.model) return;
    if (cursor) Object.assign(this.model, { cursor }), this.drawCursor();
    if (line) Object.assign(this.model, { line }), this.drawLine();
  }

  // This map as a group of an SVG of its own.
  async exported(x, y) {
    const group = element(null, "svg:g", { transform: `translate(${x} ${y})` });
    for (const canvas of [this.pixels, this.marks]) {
      element(group, "svg:image", {
        href: canvas.toDataURL("image/png"), x: this.margin.left, y: this.margin.top, width: this.width, height: this.height,
        preserveAspectRatio: "none", style: `image-rendering: ${canvas.style.imageRendering || "auto"}`,
      });
    }
    const copy = this.svg.cloneNode(true);
    copy.querySelectorAll(".grip, .cursor").forEach((part) => part.remove());
    for (const part of [copy, ...copy.querySelectorAll("*")]) {
      for (const name of ["tabindex", "role", "aria-label", "aria-describedby", "class"]) part.removeAttribute(name);
    }
    group.append(copy);
    return group;
  }
}

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

// A name between isolates, so that it turns no text around it.
function isolated(text, most) {
  return `\u2068${shorten(text, Math.max(8, Math.floor(most)))}\u2069`;
}

// The cell that each pixel along an axis shows.
function pixelCells(axis) {
  const { edges } = axis, num = axis.values.length;
  const places = Array.from(edges, (edge) => placeOn(axis, edge));
  const even = places.every((place, i) => Math.abs(place * num - i) < 1e-3);
  if (even) return Int32Array.from({ length: num }, (_, i) => i);
  const pixels = Math.min(2048, Math.max(1024, 2 * num));
  return Int32Array.from({ length: pixels }, (_, i) => cellAt(axis, (i + 0.5) / pixels));
}

function axisTicks(axis, num) {
  const low = axis.edges[0], high = axis.edges[axis.edges.length - 1];
  if (axis.values.length === 1) return [axis.values[0]];
  return axis.log ? logTicks(low, high, num) : linearTicks(low, high, Math.max(2, num));
}

// Thin diagonal lines over the cells that were predicted.
function hatching(width, height, { plane, axes }, dense) {
  const image = new ImageData(width, height), out = new Uint32Array(image.data.buffer);
  const columns = Int32Array.from({ length: width }, (_, c) => cellAt(axes[0], (c + 0.5) / width));
  const period = Math.round(8 * dense), thick = Math.max(1, Math.round(dense));
  for (let r = 0, k = 0; r < height; r++) {
    const iy = cellAt(axes[1], 1 - (r + 0.5) / height);
    for (let c = 0; c < width; c++, k++) {
      const line = (r + c) % period;
      if (line >= 2 * thick || plane.states[columns[c] * plane.ny + iy] !== PREDICTED) continue;
      out[k] = line < thick ? 0x55ffffff : 0x44000000;
    }
  }
  return image;
}

// Contours by marching squares, straight between the points where a level crosses the sides of a cell.
function contourLines({ plane, axes, levels }, width, height) {
  const { nx, ny, values, states } = plane, lines = new Path2D();
  const px = Float64Array.from(axes[0].values, (v) => placeOn(axes[0], v) * width);
  const py = Float64Array.from(axes[1].values, (v) => (1 - placeOn(axes[1], v)) * height);
  for (let i = 0; i + 1 < nx; i++) {
    for (let j = 0; j + 1 < ny; j++) {
      const k = i * ny + j;
      if (states[k] > 1 || states[k + 1] > 1 || states[k + ny] > 1 || states[k + ny + 1] > 1) continue;
      const a = values[k], b = values[k + ny], c = values[k + ny + 1], d = values[k + 1];
      const low = Math.min(a, b, c, d), high = Math.max(a, b, c, d);
      if (high <= levels[0] || low > levels[levels.length - 1]) continue;
      for (const level of levels) {
        if (level < low) continue;
        if (level >= high) break;
        crossCell(lines, level, [a, b, c, d], px[i], px[i + 1], py[j], py[j + 1]);
      }
    }
  }
  return lines;
}

// One cell, its corners counted around: (x0, y0), (x1, y0), (x1, y1), (x0, y1).
function crossCell(lines, level, [a, b, c, d], x0, x1, y0, y1) {
  const part = (p, q) => (level - p) / (q - p), above = [a > level, b > level, c > level, d > level];
  const hits = [];
  if (above[0] !== above[1]) hits.push([x0 + part(a, b) * (x1 - x0), y0]);
  if (above[1] !== above[2]) hits.push([x1, y0 + part(b, c) * (y1 - y0)]);
  if (above[2] !== above[3]) hits.push([x1 + part(c, d) * (x0 - x1), y1]);
  if (above[3] !== above[0]) hits.push([x0, y1 + part(d, a) * (y0 - y1)]);
  // A saddle crosses all four sides: its middle decides which corners are cut off.
  if (hits.length === 4 && ((a + b + c + d) / 4 > level) !== above[0]) hits.push(hits.shift());
  for (let n = 0; n + 1 < hits.length; n += 2) {
    lines.moveTo(...hits[n]);
    lines.lineTo(...hits[n + 1]);
  }
}
