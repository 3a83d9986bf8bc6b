// The page: one state, its controls, and everything that follows from it.

const SCALES = { auto: "automatic", linear: "linear", log: "logarithmic", symlog: "logarithmic, both signs" };

class Page {
  constructor(root, data) {
    Object.assign(this, { root, data, palette: data.palette, label: null, pinned: false, playing: null });
    this.landscapes = data.landscapes.map((one) => new Landscape(one));
    this.read = latest(() => this.writeHash(), 300);
  }

  async start() {
    await Promise.all(this.landscapes.map((one) => one.open()));
    this.state = this.initial();
    this.readHash();
    this.build();
    await this.refresh();
    window.addEventListener("hashchange", () => this.hashChanged());
    new ResizeObserver(latest(() => this.resized(), 60)).observe(this.mapsBox);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.refresh());
    this.root.dataset.ready = "true";
    for (const one of this.landscapes) for (const name of Object.keys(one.outputs)) await one.field(name);
    await this.readout();
    this.root.dataset.complete = "true";
  }

  // --------------------------------------------------------------------------------------------------- state

  get landscape() {
    return this.landscapes[this.state.landscape];
  }

  get axes() {
    const { view } = this.state, { axes } = this.landscape;
    return [axes[view[0]], view[1] === undefined ? NO_AXIS : axes[view[1]]];
  }

  get cursor() {
    const { view, index } = this.state;
    return [index[view[0]], view[1] === undefined ? 0 : index[view[1]]];
  }

  initial() {
    const one = this.landscapes[0], output = this.data.output ?? Object.keys(one.outputs)[0];
    const alike = this.landscapes.filter((other) => other.sameGrid(one)).length;
    const state = {
      landscape: 0, output, compare: alike > 1 ? "all" : "none", scale: "auto", robust: false, contours: true, hatch: true,
      equal: false, path: 0, step: 0,
    };
    return { ...state, ...this.placed(one) };
  }

  // What belongs to a grid: which axes are shown, where the cursor and the line are.
  placed(one) {
    const view = one.shape.length > 1 ? [0, 1] : [0];
    const index = one.shape.map((n) => n >> 1);
    const [nx, ny] = [one.shape[view[0]], view[1] === undefined ? 1 : one.shape[view[1]]];
    return { view, index, line: [[0, ny >> 1], [nx - 1, ny >> 1]] };
  }

  // The landscapes that are shown: the chosen one first.
  get shown() {
    const { compare } = this.state, one = this.landscape;
    const alike = this.landscapes.filter((other) => other !== one && other.sameGrid(one) && other.outputs[this.state.output]);
    if (compare === "all") return [one, ...alike];
    const other = this.landscapes[Number(compare)];
    return alike.includes(other) ? [one, other] : [one];
  }

  async set(changes) {
    const before = this.landscape;
    Object.assign(this.state, changes);
    if (this.landscape !== before) {
      if (!this.landscape.sameGrid(before)) Object.assign(this.state, this.placed(this.landscape));
      if (!this.landscape.outputs[this.state.output]) this.state.output = Object.keys(this.landscape.outputs)[0];
      Object.assign(this.state, { path: 0, step: 0 });
    }
    this.label = null;
    this.build();
    await this.refresh();
    this.read();
  }

  // ---------------------------------------------------------------------------------------------------- hash

  writeHash() {
    const { state } = this, flag = (on) => (on ? "1" : "0");
    const entries = {
      l: state.landscape, o: state.output === GAP ? "~gap" : state.output, c: state.compare, s: state.scale,
      r: flag(state.robust), k: flag(state.contours), m: flag(state.hatch), a: flag(state.equal), v: state.view.join(),
      p: state.index.join(), d: state.line.flat().join(), t: `${state.path},${state.step}`,
    };
    const text = Object.entries(entries).map(([key, value]) => `${key}=${encodeURIComponent(value)}`).join("&");
    this.written = `#${text}`;
    try {
      history.replaceState(null, "", this.written);
    } catch {
      // a page in a frame may not write its address
    }
  }

  // Takes from the address what fits these landscapes, and nothing else.
  readHash() {
    const { state } = this, given = new URLSearchParams(location.hash.slice(1));
    const ints = (key) => (given.get(key) ?? "").split(",").map(Number);
    const chosen = Number(given.get("l") ?? 0);
    if (this.landscapes[chosen] && chosen !== state.landscape) {
      Object.assign(state, { landscape: chosen }, this.placed(this.landscapes[chosen]));
      state.output = this.landscapes[chosen].outputs[state.output] ? state.output : Object.keys(this.landscapes[chosen].outputs)[0];
    }
    const one = this.landscape, output = given.get("o") === "~gap" ? GAP : given.get("o");
    if (Object.hasOwn(one.outputs, output ?? "")) state.output = output;
    if (given.has("c")) state.compare = given.get("c");
    if (Object.hasOwn(SCALES, given.get("s") ?? "")) state.scale = given.get("s");
    for (const [key, name] of Object.entries({ r: "robust", k: "contours", m: "hatch", a: "equal" })) {
      if (given.has(key)) state[name] = given.get(key) === "1";
    }
    const within = (i, n) => Number.isInteger(i) && i >= 0 && i < n;
    const view = ints("v");
    if (view.length === state.view.length && new Set(view).size === view.length && view.every((k) => within(k, one.shape.length))) {
      state.view = view;
    }
    const index = ints("p"), line = ints("d"), [nx, ny] = this.axes.map((axis) => axis.values.length);
    if (given.has("p") && index.length === one.shape.length && index.every((i, k) => within(i, one.shape[k]))) state.index = index;
    if (given.has("d") && line.length === 4 && line.every((i, k) => within(i, k % 2 ? ny : nx))) {
      state.line = [line.slice(0, 2), line.slice(2)];
    } else if (given.has("v")) state.line = [[0, ny >> 1], [nx - 1, ny >> 1]];
    const [path, step] = ints("t"), known = one.paths[path];
    if (given.has("t") && known && within(step, this.steps(known))) Object.assign(state, { path, step });
  }

  async hashChanged() {
    if (location.hash === this.written) return;
    this.readHash();
    this.build();
    await this.refresh();
  }

  // ------------------------------------------------------------------------------------------------ controls

  build() {
    if (!this.main) this.frame();
    this.words();
    this.controls();
    pathPanel(this);
    this.aboutPanel();
  }

  frame() {
    this.root.replaceChildren();
    const header = element(this.root, "header");
    this.title = element(header, "h1", { dir: "auto" });
    this.sentence = element(header, "p", { class: "sentence" });
    this.form = element(this.root, "form", { class: "controls", "aria-label": "what is shown" });
    this.form.addEventListener("submit", (event) => event.preventDefault());
    this.main = element(this.root, "main");
    const left = element(this.main, "section", { class: "panel maps-panel", "aria-label": "maps" });
    this.mapsBox = element(left, "div", { class: "maps" });
    this.legend = element(left, "div", { class: "legend", role: "group", "aria-label": "legend" });
    this.keysHelp = element(left, "p", { class: "note", id: "keys" }, KEYS);
    const right = element(this.main, "div", { class: "side" });
    this.readBox = element(right, "section", { class: "panel", "aria-label": "values at the cursor", "aria-live": "polite" });
    const surface = element(right, "section", { class: "panel surface", "aria-label": "surface" });
    this.surface = new SurfaceView(surface, (ix, iy) => this.point(ix, iy, true));
    const below = element(this.main, "section", { class: "panel profile", "aria-label": "profile" });
    element(below, "h2", {}, "Profile along the dashed line");
    this.profile = new ProfileView(below, ([ix, iy]) => this.point(ix, iy));
    this.pathBox = element(this.main, "section", { class: "panel path", "aria-label": "paths" });
    this.aboutBox = element(this.root, "section", { class: "about", "aria-label": "how this was made" });
    this.maps = [];
  }

  words() {
    const { landscape: one, state } = this, output = one.outputs[state.output];
    const title = this.data.title || one.title;
    document.title = shorten(title, 200);
    this.title.textContent = shorten(title, 200);
    if (title.length > 200) this.title.title = title;
    this.sentence.replaceChildren();
    const [x, y] = this.axes, flat = y === NO_AXIS, [nx, ny] = [x.values.length, y.values.length];
    const say = (text) => this.sentence.append(text), name = (text) => element(this.sentence, "bdi", {}, shorten(text, 60));
    say("Colour shows ");
    element(this.sentence, "strong").append(element(null, "bdi", {}, shorten(output.label, 60)));
    say(flat ? ` along ${count(nx)} values of ` : ` at each of ${count(nx)} × ${count(ny)} points: across, `);
    name(x.label);
    if (!flat) say("; up, "), name(y.label);
    say(`. ${WHAT[output.role === "number" ? this.data.kind : output.role] ?? ""}`);
  }

  controls() {
    const { form, state, landscape: one } = this;
    const focused = document.activeElement?.id;
    form.replaceChildren();
    if (this.landscapes.length > 1) {
      this.choice("landscape", "Landscape", this.landscapes.map((other, k) => [k, other.title]), (v) => ({ landscape: Number(v) }));
      const alike = this.landscapes.flatMap((other, k) => (other !== one && other.sameGrid(one) ? [[k, `and difference to ${shorten(other.title, 40)}`]] : []));
      if (alike.length) this.choice("compare", "Compare", [["none", "this one alone"], ["all", "all on this grid"], ...alike], (v) => ({ compare: v }));
    }
    this.choice("output", "Output", Object.entries(one.outputs).map(([k, o]) => [k, o.label]), (v) => ({ output: v }));
    if (one.outputs[state.output].role === "number") {
      this.choice("scale", "Colour scale", Object.entries(SCALES), (v) => ({ scale: v }));
      this.toggle("robust", "robust (2–98 %)");
      if (one.shape.length > 1) this.toggle("contours", "contours");
    }
    if (one.computed) this.toggle("hatch", "hatch what was predicted");
    if (one.shape.length > 1) this.toggle("equal", "equal aspect");
    if (one.shape.length > 2) this.axisControls();
    const buttons = element(form, "span", { class: "buttons" });
    for (const [name, run] of [["PNG", () => savePicture(this, "png")], ["SVG", () => savePicture(this, "svg")], ["CSV of the profile", () => saveProfile(this)]]) {
      element(buttons, "button", { type: "button", id: `save-${name.slice(0, 3).toLowerCase()}` }, name).addEventListener("click", run);
    }
    if (focused) document.getElementById(focused)?.focus();
  }

  choice(id, text, options, change) {
    const label = element(this.form, "label", {}, `${text} `), chosen = String(this.state[id] ?? "");
    const select = element(label, "select", { id: `choose-${id}` });
    for (const [value, name] of options) element(select, "option", { value, selected: String(value) === chosen }, shorten(String(name), 60));
    select.addEventListener("change", () => this.set(change(select.value)));
  }

  toggle(id, text) {
    const label = element(this.form, "label", { class: "toggle" });
    const box = element(label, "input", { type: "checkbox", id: `choose-${id}`, checked: this.state[id] });
    label.append(` ${text}`);
    box.addEventListener("change", () => this.set({ [id]: box.checked }));
  }

  axisControls() {
    const { state, landscape: one } = this;
    const names = one.axes.map((axis, k) => [k, axis.label]);
    for (const [place, text] of [[0, "Across"], [1, "Up"]]) {
      state[`view${place}`] = state.view[place];
      this.choice(`view${place}`, text, names, (v) => this.turned(place, Number(v)));
    }
    one.axes.forEach((axis, k) => {
      if (state.view.includes(k)) return;
      const label = element(this.form, "label", { class: "slider" });
      element(label, "bdi", {}, shorten(axis.label, 30));
      const slider = element(label, "input", { type: "range", min: 0, max: axis.values.length - 1, id: `slide-${k}` });
      slider.value = state.index[k];
      const shown = element(label, "output", {}, exact(axis.values[state.index[k]]));
      slider.addEventListener("input", () => {
        state.index[k] = Number(slider.value);
        shown.textContent = exact(axis.values[state.index[k]]);
        slider.setAttribute("aria-valuetext", shown.textContent);
        this.refresh();
        this.read();
      });
    });
  }

  // Another axis across or up; where the other place has it, they change places.
  turned(place, axis) {
    const view = [...this.state.view];
    if (view[1 - place] === axis) view[1 - place] = view[place];
    view[place] = axis;
    const [nx, ny] = view.map((k) => this.landscape.shape[k]);
    return { view, line: [[0, ny >> 1], [nx - 1, ny >> 1]] };
  }

  // ----------------------------------------------------------------------------------------------- what is drawn

  async refresh() {
    const ticket = (this.ticket = (this.ticket ?? 0) + 1);
    const { state, shown } = this, { output } = state;
    const fields = await Promise.all(shown.map((one) => one.field(output)));
    if (ticket !== this.ticket) return;
    const planes = shown.map((one, k) => one.plane(fields[k], state.view, state.index));
    this.models = planes.map((plane, k) => ({ plane, title: shown[k].title, of: shown[k] }));
    const shade = this.shading(planes);
    this.models.forEach((model) => Object.assign(model, shade, { colours: this.colours(model.plane, shade) }));
    if (state.compare !== "none" && state.compare !== "all" && shown.length === 2) this.models.push(this.differing(...this.models));
    this.drawMaps();
    drawLegend(this);
    await this.readout();
    this.drawProfile();
    setTimeout(() => this.drawSurface(), 0);
    this.root.dataset.drawn = String(ticket);
    requestAnimationFrame(() => performance.mark("landscape drawn")); // for who measures
  }

  // The colours of some planes: `{kinds}` for labels, `{scale, unit, shades}` for numbers.
  shading(planes) {
    const { output } = planes[0].field, { state } = this;
    if (output.role === "labels") {
      const kinds = new Map(planes.flatMap((plane) => plane.field.output.categories).map((c) => [c.value, c]));
      return { kinds: [...kinds.values()].sort((a, b) => a.value - b.value), levels: [] };
    }
    const scale = resolveScale(planes, state.scale, state.robust, output.share);
    if (output.role === "trainability") {
      return { scale: { ...scale, kind: "linear" }, unit: equalised(planes[0]), shades: this.palette.verdicts, levels: [], ranks: true };
    }
    const shades = scale.diverging ? this.palette.diverging : this.palette.sequential;
    return { scale, unit: scale.unit, shades, levels: state.contours && !scale.empty ? contourLevels(scale, 10) : [] };
  }

  colours(plane, { kinds, unit, shades }) {
    return kinds ? paintKinds(plane, kinds, this.label, this.palette) : paint(plane, unit, shades, this.palette);
  }

  differing(a, b) {
    const plane = difference(a.plane, b.plane), shade = this.shading([plane]);
    const title = `difference: ${shorten(a.title, 30)} − ${shorten(b.title, 30)}`;
    return { plane, title, ...shade, colours: this.colours(plane, shade), differs: true };
  }

  drawMaps() {
    const { state, maps } = this;
    while (maps.length > this.models.length) maps.pop().figure.remove();
    while (maps.length < this.models.length) maps.push(new MapView(this.mapsBox, this.actions()));
    this.mapsBox.dataset.num = this.models.length;
    this.models.forEach((model, k) => {
      maps[k].figure.classList.toggle("alone", this.models.length === 1);
      const common = { axes: this.axes, hatch: state.hatch, equal: state.equal, line: state.line, cursor: this.cursor };
      Object.assign(model, common, { paths: this.overlays(model), points: this.marked(model) });
      maps[k].draw(model);
    });
  }

  actions() {
    return {
      hover: (ix, iy) => this.pinned || this.point(ix, iy),
      pick: (ix, iy) => this.pick(ix, iy),
      line: (line) => this.drawLine(line),
      keys: (event) => this.keys(event),
    };
  }

  steps(path) {
    return path.coords.length / this.landscape.shape.length;
  }

  spotsOf(path, one) {
    const num = one.shape.length, { view } = this.state;
    return Array.from({ length: path.coords.length / num }, (_, t) => view.map((k) => path.coords[t * num + k])).map(([x, y = 0]) => [x, y]);
  }

  overlays(model) {
    const one = model.of ?? this.landscape, { path, step } = this.state;
    return one.paths.map((p, k) => {
      const spots = this.spotsOf(p, one);
      return { spots, colour: this.palette.paths[k % this.palette.paths.length], step: k === path ? Math.min(step, spots.length - 1) : spots.length - 1 };
    });
  }

  // Critical points that were given, and the best measured value.
  marked(model) {
    const one = model.of ?? this.landscape, points = [];
    if (one.shape.length === 2) {
      for (const [kind, coords] of Object.entries(one.points)) {
        const word = { minima: "minimum", saddles: "saddle", maxima: "maximum" }[kind];
        for (let n = 0; n < coords.length; n += 2) {
          const spot = this.state.view.map((k) => coords[n + k]);
          points.push({ kind, spot, name: `${word} at ${spot.map((v) => brief(v, 5)).join(", ")}` });
        }
      }
    }
    const best = model.kinds || model.ranks || model.differs ? null : bestCell(model.plane);
    if (best && !points.length) {
      const [ix, iy] = best.at, spot = [this.axes[0].values[ix], this.axes[1].values[iy]];
      points.push({ kind: "best", spot, name: `${best.word} measured value, ${exact(model.plane.values[best.flat], model.plane.field.type)}` });
      model.best = { ...best, value: model.plane.values[best.flat] };
    }
    return points;
  }

  drawSurface() {
    const [model] = this.models, { plane } = model;
    const paths = model.paths.map((path, k) => ({ ...path, heights: this.heights(model, path, k) }));
    this.surface.draw({ ...model, label: plane.field.output.label, equal: this.state.equal, paths });
  }

  // How high a path is drawn: on the plane where that is known, with the loss of its own in the words beside it.
  heights({ plane }, { spots }) {
    const [x, y] = this.axes;
    return spots.map((spot) => {
      const [px, py] = [placeOn(x, spot[0]), placeOn(y, spot[1])];
      if (!(px >= 0 && px <= 1 && py >= 0 && py <= 1)) return null;
      const i = cellAt(x, px) * plane.ny + cellAt(y, py);
      return plane.states[i] <= PREDICTED ? plane.values[i] : null;
    });
  }

  drawProfile() {
    const cells = cellsOn(this.state.line), [x, y] = this.axes, [model] = this.models;
    const spots = cells.map(([ix, iy]) => [x.values[ix], y.values[iy]]);
    const [along, text] = distances(spots, [x, y]);
    this.profile.draw({
      cells, along, along_label: text, along_log: text === x.label ? x.log : text === y.label ? y.log : false, spots,
      curves: this.models.filter((m) => !m.differs).map((m) => ({ name: m.title, plane: m.plane })),
      label: model.plane.field.output.label, log: model.scale?.kind === "log" && !model.ranks, kinds: model.kinds, cursor: this.cursor,
    });
  }

  drawLine(line) {
    this.state.line = line;
    this.maps.forEach((map) => map.show({ line }));
    this.drawProfile();
    this.read();
  }

  // ---------------------------------------------------------------------------------------------------- cursor

  point(ix, iy, pin = this.pinned) {
    const { view, index } = this.state;
    index[view[0]] = ix;
    if (view[1] !== undefined) index[view[1]] = iy;
    this.pinned = pin;
    const { cursor } = this;
    this.maps.forEach((map) => map.show({ cursor }));
    this.readout();
    this.profile.cursor(cursor);
    this.surface.cursor(cursor);
    this.read();
  }

  pick(ix, iy) {
    const same = this.pinned && this.cursor[0] === ix && this.cursor[1] === iy;
    this.point(ix, iy, !same);
  }

  keys(event) {
    const [nx, ny] = this.axes.map((axis) => axis.values.length), [ix, iy] = this.cursor, step = ARROWS[event.key];
    const by = event.shiftKey ? 10 : 1, within = (i, n) => Math.min(n - 1, Math.max(0, i));
    if (step) this.point(within(ix + by * step[0], nx), within(iy + by * step[1], ny), true);
    else if (event.key === "Home") this.point(0, iy, true);
    else if (event.key === "End") this.point(nx - 1, iy, true);
    else if (event.key === "Escape") this.point(ix, iy, false);
    else if (event.key === "h") this.drawLine([[0, iy], [nx - 1, iy]]);
    else if (event.key === "v") this.drawLine([[ix, 0], [ix, ny - 1]]);
    else return;
    event.preventDefault();
  }

  // What the files hold at the cursor.
  async readout() {
    const { models, state } = this, [ix, iy] = this.cursor;
    const rows = this.landscape.axes.map((axis, k) => [axis.label, exact(axis.values[state.index[k]]), `coord-${k}`]);
    for (const [k, { plane, title, of, differs }] of models.entries()) {
      const { field } = plane, i = ix * plane.ny + iy, kind = field.output.categories?.find?.((c) => c.value === plane.values[i]);
      const value = plane.states[i] === MISSING ? "not computed" : exact(plane.values[i], field.type) + (kind && field.output.role === "labels" ? ` (${kind.name})` : "");
      const named = differs ? "difference" : models.length > 1 ? `${field.output.label}, ${title}` : field.output.label;
      rows.push([named, value, `value-${k}`, STATES[plane.states[i]]]);
      if (differs) continue;
      const sem = field.output.sem && (await of.field(field.output.sem));
      if (sem && plane.states[i] < MISSING) rows.push(["± standard error", exact(sem.values[of.flat(state.index)], sem.type), `sem-${k}`]);
      rows.push(["this value was", stateText(plane, i), `state-${k}`]);
    }
    if (this.cursor[0] !== ix || this.cursor[1] !== iy || models !== this.models) return;
    this.table("At the cursor", rows);
    if (this.root.dataset.complete) await this.others();
  }

  table(title, rows) {
    this.readBox.replaceChildren();
    element(this.readBox, "h2", {}, this.pinned ? `${title} (held; Esc or a click lets go)` : title);
    const table = element(this.readBox, "table", { class: "read" });
    for (const [name, value, id] of rows) {
      const row = element(table, "tr");
      element(element(row, "th", { scope: "row" }), "bdi", {}, shorten(name, 60)).title = name;
      element(row, "td", { id }, value);
    }
  }

  // All other outputs at the cursor.
  async others() {
    const { landscape: one, state } = this, at = one.flat(state.index);
    const names = Object.keys(one.outputs).filter((name) => name !== state.output && name !== one.outputs[state.output].sem);
    const fields = await Promise.all(names.slice(0, 30).map((name) => one.field(name)));
    if (at !== one.flat(this.state.index) || !fields.length || this.readBox.querySelector("details")) return;
    const more = element(this.readBox, "details", { open: this.moreOpen });
    more.addEventListener("toggle", () => (this.moreOpen = more.open));
    element(more, "summary", {}, "all other outputs here");
    const table = element(more, "table", { class: "read" });
    for (const field of fields) {
      const row = element(table, "tr"), state = one.state(field, at);
      element(element(row, "th", { scope: "row" }), "bdi", {}, shorten(field.output.label, 60));
      element(row, "td", {}, state === MISSING ? "not computed" : `${exact(field.values[at], field.type)}${state === PREDICTED ? " (predicted)" : ""}`);
    }
  }

  // ---------------------------------------------------------------------------------------------------- about

  aboutPanel() {
    const { aboutBox, landscape: one } = this, { about, trust, record } = one.data;
    aboutBox.replaceChildren();
    const section = (title, lines) => {
      if (!lines.length) return;
      element(aboutBox, "h2", {}, title);
      for (const line of lines) element(aboutBox, "p", { dir: "auto" }, shorten(line, 1000));
    };
    section("How it was measured", about);
    section("What limits the trust in it", trust);
    if (!record.length) return;
    const details = element(aboutBox, "details");
    element(details, "summary", {}, "Everything that was recorded");
    const table = element(details, "table", { class: "record" });
    for (const [key, value] of record) {
      const row = element(table, "tr");
      element(element(row, "th", { scope: "row" }), "bdi", {}, shorten(key, 200));
      element(element(row, "td"), "bdi", {}, value);
    }
  }

  // ---------------------------------------------------------------------------------------------------- files

  resized() {
    this.maps.forEach((map) => map.layout());
  }

}

const KEYS = "Hover or use the arrow keys for values; a click holds the cursor. Drag over the map, or its two handles, for the line of the profile; h and v lay it along the row or column of the cursor.";
const WHAT = {
  surface: "Each point is the same network with its weights moved by so much along two directions.",
  basins: "Each point is a start of training.",
  labels: "Each point is a start of training; its colour says how the training ended.",
  trainability: "Each point is a training run with other settings; its colour says whether it converged, and how fast.",
};

function stateText(plane, i) {
  const state = plane.states[i], { output } = plane.field;
  if (state === PREDICTED) return output.promise;
  if (state === NOT_FINITE) return Number.isNaN(plane.values[i]) ? "measured, and is not a number" : "measured, and is infinite";
  return STATES[state];
}

// The smallest measured value, of an accuracy the largest.
function bestCell(plane) {
  const { values, states, ny } = plane, sign = plane.field.output.share ? -1 : 1;
  let flat = -1;
  for (let i = 0; i < values.length; i++) {
    if (states[i] === MEASURED && (flat < 0 || sign * values[i] < sign * values[flat])) flat = i;
  }
  return flat < 0 ? null : { flat, at: [Math.floor(flat / ny), flat % ny], word: sign > 0 ? "lowest" : "highest" };
}

// Where each point of a line stands on the profile: at its coordinate where one axis alone changes, else by distance.
function distances(spots, [x, y]) {
  const ends = [spots[0], spots[spots.length - 1]];
  if (ends[0][1] === ends[1][1]) return [spots.map((s) => s[0]), x.label];
  if (ends[0][0] === ends[1][0]) return [spots.map((s) => s[1]), y.label];
  return [spots.map((s) => Math.hypot(s[0] - ends[0][0], s[1] - ends[0][1])), "distance along the line, in units of the axes"];
}
