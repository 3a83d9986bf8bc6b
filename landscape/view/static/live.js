// A plane that moves: the page asks for another view, and shows what comes back, coarse first.

class LivePage extends Page {
  // send(request) hands a view to Python; answers come to `receive`.
  constructor(root, data, send) {
    super(root, data);
    Object.assign(this, { send, number: 0, seen: data.view, turners: [] });
  }

  begin() {
    this.frame();
    this.title.textContent = shorten(this.data.title, 200);
    window.addEventListener("resize", latest(() => this.resized(), 100));
    this.ask(this.data.view);
  }

  ask(view) {
    this.seen = view;
    this.number += 1;
    this.root.dataset.asked = String(this.number);
    this.say("computing …");
    this.turners.forEach((show, number) => show(view.turn[number]));
    if (this.drawn) this.drawn.textContent = view.draw ? `direction ${this.data.directions}: random, number ${view.draw}` : "";
    this.send({ id: this.number, ...view });
  }

  say(text) {
    this.status.textContent = text;
  }

  async receive(message) {
    if (message.id !== this.number) return;
    if (message.stage === "error") {
      this.say(`${message.text} The picture is the last one that could be computed.`);
      this.root.dataset.answered = `${message.id} error`;
      return;
    }
    const one = await new Landscape(message.content).open();
    if (message.id !== this.number) return;
    this.coarse = message.stage === "coarse";
    this.replace(one);
    this.say(message.stage === "final" ? "" : "coarse; computing more …");
    await this.refresh();
    this.root.dataset.answered = `${message.id} ${message.stage}`;
  }

  // Takes another landscape in place of the last; the cursor and the line stay where they were on the screen.
  replace(one) {
    const before = this.landscapes[0], names = Object.keys(one.outputs);
    this.landscapes = [one];
    if (!before) {
      const first = ["label", "value", "train_loss", "loss"].find((name) => one.outputs[name]);
      this.data.output = first ?? names[0];
      this.state = this.initial();
    } else {
      const part = one.shape.map((n, k) => (n - 1) / Math.max(1, before.shape[k] - 1));
      const moved = (at) => at.map((i, k) => Math.round(i * part[k]));
      this.state.index = moved(this.state.index);
      this.state.line = this.state.line.map(moved);
      if (!one.outputs[this.state.output]) [this.state.output] = names;
    }
    this.build();
  }

  // The surface of what is only known roughly is not worth the time that it takes from the sweep.
  drawSurface() {
    if (!this.coarse || !this.surface.model) super.drawSurface();
  }

  writeHash() {
    // the view is Python's
  }

  frame() {
    super.frame();
    const bar = element(null, "div", { class: "controls", role: "group", "aria-label": "the plane" });
    this.form.after(bar);
    const button = (id, text, run) => element(bar, "button", { type: "button", id }, text).addEventListener("click", run);
    button("zoom-in", "closer ×2", () => this.zoom(0.5));
    button("zoom-out", "farther ×2", () => this.zoom(2));
    button("reset", "first view", () => this.ask(this.data.view));
    this.data.view.turn.forEach((_, number) => this.turner(bar, number));
    if (this.data.draws) {
      button("draw", "new random direction", () => this.ask({ ...this.seen, draw: this.seen.draw + 1 }));
      this.drawn = element(bar, "output", { id: "drawn" });
    }
    this.status = element(bar, "output", { id: "status", role: "status" });
    this.keysHelp.textContent = `${KEYS} Drag pans; the wheel, + and − zoom about the pointer or the cursor.`
      .replace("Drag over the map, or its two handles,", "Drag the two handles");
  }

  turner(bar, number) {
    const label = element(bar, "label", { class: "slider" }, `turn ${number % 2 ? "up" : "across"} to direction ${3 + (number >> 1)} `);
    const slider = element(label, "input", { type: "range", min: -180, max: 180, value: 0, id: `turn-${number}` });
    const shown = element(label, "output", {}, "0°");
    slider.addEventListener("input", () => {
      const turn = [...this.seen.turn];
      turn[number] = (Number(slider.value) * Math.PI) / 180;
      this.ask({ ...this.seen, turn });
    });
    this.turners.push((angle) => {
      slider.value = Math.round((angle * 180) / Math.PI);
      shown.textContent = `${slider.value}°`;
    });
  }

  // Where the cursor is, in coordinates.
  get here() {
    return this.axes.map((axis, k) => axis.values[this.cursor[k]]);
  }

  zoom(factor, [x, y] = this.here) {
    const { low, high } = this.seen, about = [x, y], kept = (v, k) => about[k] + (v - about[k]) * factor;
    this.ask({ ...this.seen, low: low.map(kept), high: high.map(kept) });
  }

  pan(dx, dy) {
    const { low, high } = this.seen, by = [dx, dy], moved = (v, k) => v + by[k] * (high[k] - low[k]);
    this.ask({ ...this.seen, low: low.map(moved), high: high.map(moved) });
  }

  actions() {
    const shift = (map, drag, event) => [event.clientX - drag.x, event.clientY - drag.y];
    return {
      ...super.actions(),
      pan: (map, drag, event) => {
        const [x, y] = shift(map, drag, event);
        for (const canvas of [map.pixels, map.marks]) canvas.style.transform = `translate(${x}px, ${y}px)`;
        map.plot.style.overflow = "hidden";
      },
      panned: (map, drag, event) => {
        const [x, y] = shift(map, drag, event);
        this.pan(-x / map.width, y / map.height);
      },
      wheel: (map, place, down) => {
        const { low, high } = this.seen;
        this.zoom(down ? 1.25 : 0.8, place.map((p, k) => low[k] + p * (high[k] - low[k])));
      },
    };
  }

  keys(event) {
    if (event.key === "+" || event.key === "=") this.zoom(0.5);
    else if (event.key === "-") this.zoom(2);
    else if (event.altKey && ARROWS[event.key]) this.pan(...ARROWS[event.key].map((step) => step / 4));
    else return super.keys(event);
    return event.preventDefault();
  }
}
