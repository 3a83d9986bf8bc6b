// The legend of a page: colours, kinds with their shares, and what has no value or was predicted.

function drawLegend(page) {
  const { legend, models: [model] } = page;
  legend.replaceChildren();
  if (model.kinds) kindsLegend(page, model);
  else scaleLegend(page, model);
  if (model.best) element(legend, "p", {}, `★ ${model.best.word} measured value ${brief(model.best.value, 4)}`);
  const last = page.models[page.models.length - 1];
  if (last.differs && !last.kinds) scaleLegend(page, last);
  if (last.differs && last.kinds) kindsLegend(page, last);
  reservedLegend(page);
}

function scaleLegend(page, { plane, scale, shades, differs, title, ranks }) {
  const name = differs ? shorten(title, 80) : plane.field.output.label;
  const head = element(page.legend, "p", { class: "scale-name" });
  element(head, "bdi", {}, shorten(name, 80));
  if (ranks) head.append(": blue where training converges, red where it diverges; deepest where slowest (ranks, no unit)");
  else if (scale.empty) head.append(": no finite value");
  else head.append(` (${scaleText(scale)}${page.state.robust ? ", colours end at the 2nd and 98th percentile" : ""})`);
  if (scale.empty) return;
  const bar = element(page.legend, "div", { class: "bar" });
  const canvas = element(bar, "canvas", { width: 256, height: 1, "aria-hidden": "true" });
  const ends = ranks ? [0, 1] : [scale.unit(scale.low), scale.unit(scale.high)];
  const context = canvas.getContext("2d");
  for (let k = 0; k < 256; k++) {
    const unit = ends[0] + (k / 255) * (ends[1] - ends[0]);
    context.fillStyle = shades[Math.min(255, Math.max(0, Math.floor(unit * 256)))];
    context.fillRect(k, 0, 1, 1);
  }
  if (ranks) return;
  bar.dataset.low = exact(scale.low);
  bar.dataset.high = exact(scale.high);
  for (const tick of spaced(scaleTicks(scale, 5), (v) => (scale.unit(v) - ends[0]) / (ends[1] - ends[0]))) {
    const left = (100 * (scale.unit(tick) - ends[0])) / (ends[1] - ends[0]);
    const mark = element(bar, "span", { class: "tick" }, brief(tick));
    mark.style.left = `${left}%`;
  }
}

function kindsLegend(page, { plane, kinds, differs }) {
  const tally = new Map(), list = element(page.legend, "ul", { class: "kinds" });
  let num = 0;
  plane.values.forEach((v, i) => plane.states[i] <= PREDICTED && (num++, tally.set(v, (tally.get(v) ?? 0) + 1)));
  const order = kinds.filter((kind) => tally.has(kind.value)).sort((a, b) => tally.get(b.value) - tally.get(a.value));
  order.slice(0, 40).forEach((kind) => {
    const hits = tally.get(kind.value), button = element(element(list, "li"), "button", {
      type: "button", class: "kind", "aria-pressed": String(page.label === kind.value), "data-value": kind.value,
    });
    element(button, "span", { class: "swatch" }).style.background = kind.color;
    button.append(`${kind.name}: ${percent(hits / num)}`);
    if (!differs) button.addEventListener("click", () => chooseKind(page, page.label === kind.value ? null : kind.value));
  });
  if (order.length > 40) element(list, "li", {}, `${order.length - 40} more kinds`);
  const chosen = order.find((kind) => kind.value === page.label);
  if (!chosen || differs) return;
  const hits = tally.get(chosen.value), [low, high] = wilson(hits, num);
  element(page.legend, "p", { class: "share", role: "status" },
    `${chosen.name}: ${count(hits)} of ${count(num)} points, ${(100 * hits / num).toFixed(2)} %; 95 % Wilson interval `
    + `${(100 * low).toFixed(2)} to ${(100 * high).toFixed(2)} %, as if the points were independent draws.`);
}

function chooseKind(page, value) {
  page.label = value;
  for (const model of page.models) if (!model.differs) model.colours = page.colours(model.plane, model);
  page.maps.forEach((map, k) => map.draw(page.models[k]));
  drawLegend(page);
}

function reservedLegend(page) {
  const sums = [0, 0, 0, 0], list = element(page.legend, "ul", { class: "reserved" });
  for (const { plane, differs } of page.models) if (!differs) for (const state of plane.states) sums[state]++;
  const entry = (look, text) => {
    const item = element(list, "li");
    Object.assign(element(item, "span", { class: `swatch ${look.kind ?? ""}` }).style, look.style ?? {});
    item.append(text);
  };
  if (sums[NOT_FINITE]) entry({ style: { background: page.palette.not_finite } }, `not finite: NaN or infinite (${count(sums[NOT_FINITE])})`);
  if (sums[MISSING]) entry({ style: { background: page.palette.not_computed } }, `not computed (${count(sums[MISSING])})`);
  const { promise } = page.models[0].plane.field.output;
  if (sums[PREDICTED]) entry({ kind: "hatched" }, `hatched: ${promise} (${count(sums[PREDICTED])}); the rest was measured`);
  if (!sums[NOT_FINITE] && !sums[MISSING] && !sums[PREDICTED]) element(list, "li", {}, "Every point was measured, and all are finite.");
}

function scaleText(scale) {
  const within = scale.kind === "symlog" ? `, linear within ±${brief(scale.linear, 2)}` : "";
  const centred = scale.diverging ? ", centred on 0" : "";
  return `${scale.kind} scale${within}${centred}${scale.noLog ? "; a log scale needs a positive value" : ""}`;
}

// Ticks that leave room for their texts.
function spaced(ticks, place) {
  const kept = [];
  for (const tick of ticks) if (!kept.length || place(tick) - place(kept[kept.length - 1]) > 0.13) kept.push(tick);
  return kept;
}
