// Paths of a page: the slider of their steps, and what is known of a step.

function pathPanel(page) {
  const { pathBox, landscape: one, state } = page;
  if (page.playing) play(page);
  pathBox.hidden = !one.paths.length;
  pathBox.replaceChildren();
  if (!one.paths.length) return;
  element(pathBox, "h2", {}, "Path");
  const row = element(pathBox, "div", { class: "controls" });
  if (one.paths.length > 1) {
    const select = element(element(row, "label", {}, "Which "), "select", { id: "choose-path" });
    one.paths.forEach((path, k) => element(select, "option", { value: k, selected: k === state.path }, shorten(path.label, 60)));
    select.addEventListener("change", () => page.set({ path: Number(select.value), step: 0 }));
  } else element(row, "bdi", {}, shorten(one.paths[0].label, 80));
  const label = element(row, "label", { class: "slider wide" }, "step ");
  page.stepSlider = element(label, "input", { type: "range", min: 0, max: page.steps(one.paths[state.path]) - 1, id: "slide-step" });
  page.stepSlider.value = state.step;
  page.stepSlider.addEventListener("input", () => toStep(page, Number(page.stepSlider.value)));
  page.playButton = element(row, "button", { type: "button", id: "play" }, "play");
  page.playButton.addEventListener("click", () => play(page));
  page.pathText = element(pathBox, "p", { id: "path-text", role: "status" });
  describeStep(page);
}

function toStep(page, step) {
  page.state.step = step;
  page.stepSlider.value = step;
  page.maps.forEach((map, k) => {
    map.model.paths = page.overlays(page.models[k]);
    map.drawPaths();
  });
  describeStep(page);
  page.read();
}

function play(page) {
  if (page.playing) {
    clearInterval(page.playing);
    page.playing = null;
    page.playButton.textContent = "play";
    return;
  }
  page.playButton.textContent = "pause";
  const last = Number(page.stepSlider.max);
  if (page.state.step >= last) toStep(page, 0);
  page.playing = setInterval(() => {
    if (page.state.step >= last) return play(page);
    return toStep(page, page.state.step + 1);
  }, Math.max(40, Math.min(400, 8000 / (last + 1))));
}

async function describeStep(page) {
  const one = page.landscape, path = one.paths[page.state.path], t = page.state.step;
  if (!path) return;
  const num = one.shape.length, at = Array.from(path.coords.slice(t * num, (t + 1) * num));
  const words = [`Step ${path.step ? exact(path.step[t]) : t} (point ${t + 1} of ${page.steps(path)}) at ${at.map((v) => brief(v, 4)).join(", ")}.`];
  if (path.loss) words.push(`Loss on the path ${brief(path.loss[t], 5)}.`);
  words.push(await onPlane(page, one, at));
  if (path.residual) {
    const far = path.residual[t], whole = path.distance?.[t];
    const share = whole > 0 ? `, ${Math.round((100 * far) / whole)} % of its length` : "";
    words.push(far > 0 ? `Off the plane by ${brief(far, 3)}${share}.` : "It lies in the plane.");
  }
  page.pathText.textContent = words.filter(Boolean).join(" ");
}

// The loss of the map at the cell in which a point of a path lies.
async function onPlane(page, one, at) {
  const name = ["train_loss", "loss"].find((n) => one.outputs[n]) ?? page.state.output;
  const places = at.map((v, k) => placeOn(one.axes[k], v));
  if (!places.every((p) => p >= 0 && p <= 1)) return "It lies outside the picture.";
  const field = await one.field(name), i = one.flat(places.map((p, k) => cellAt(one.axes[k], p)));
  return `${field.output.label} on the plane, in the cell there, ${exact(field.values[i], field.type)} (${STATES[one.state(field, i)]}).`;
}
