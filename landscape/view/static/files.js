// Files that a page makes of itself: pictures of its maps, and the profile as a table.

async function picture(page) {
  const svg = element(null, "svg:svg", { xmlns: SVG, "font-family": "system-ui, sans-serif" });
  const style = getComputedStyle(page.root), em = 16;
  svg.style.color = style.color;
  svg.setAttribute("color", style.color);
  const ground = element(svg, "svg:rect", { width: "100%", height: "100%", fill: getComputedStyle(document.body).backgroundColor });
  let x = 0, height = 0;
  for (const map of page.maps) {
    const wide = Number(map.svg.getAttribute("width")), tall = Number(map.svg.getAttribute("height"));
    svg.append(await map.exported(x, 2 * em));
    element(svg, "svg:text", { x: x + map.margin.left, y: 1.3 * em, fill: "currentColor", "font-size": em }, shorten(`${map.model.title}: ${map.model.plane.field.output.label}`, 60));
    x += wide;
    height = Math.max(height, tall + 2 * em);
  }
  const lines = [...page.legend.querySelectorAll("p, li")].map((part) => part.textContent);
  const [model] = page.models;
  if (model.shades && !model.scale.empty && !model.ranks) {
    lines[0] = `${lines[0]}: from ${brief(model.scale.low)} to ${brief(model.scale.high)}`;
    const ends = [model.scale.unit(model.scale.low), model.scale.unit(model.scale.high)];
    for (let k = 0; k < 64; k++) {
      const unit = ends[0] + (k / 63) * (ends[1] - ends[0]);
      element(svg, "svg:rect", { x: em + 4 * k, y: height + 4, width: 4.5, height: 12, fill: model.shades[Math.min(255, Math.floor(unit * 256))] });
    }
    height += 18;
  }
  lines.forEach((line, k) => element(svg, "svg:text", { x: em, y: height + (k + 1) * 1.3 * em, fill: "currentColor", "font-size": 0.85 * em }, shorten(line, 110)));
  const size = { width: Math.ceil(x), height: Math.ceil(height + (lines.length + 1) * 1.3 * em) };
  for (const [key, value] of Object.entries(size)) svg.setAttribute(key, value), ground.setAttribute(key, value);
  return { text: new XMLSerializer().serializeToString(svg), ...size };
}

async function savePicture(page, kind) {
  const { text, width, height } = await picture(page);
  const blob = new Blob([text], { type: "image/svg+xml" });
  if (kind === "svg") return download(blob, "landscape.svg");
  const image = new Image(), url = URL.createObjectURL(blob);
  image.src = url;
  await image.decode();
  const canvas = element(null, "canvas", { width: 2 * width, height: 2 * height });
  canvas.getContext("2d").drawImage(image, 0, 0, 2 * width, 2 * height);
  URL.revokeObjectURL(url);
  return canvas.toBlob((png) => download(png, "landscape.png"));
}

function saveProfile(page) {
  const { cells, spots, curves } = page.profile.model, quote = (text) => `"${text.replaceAll('"', '""')}"`;
  const axes = page.axes.filter((axis) => axis !== NO_AXIS);
  const heads = [...axes.map((a) => a.name), ...curves.flatMap((c) => [`${c.plane.field.name} of ${c.name}`.replace(GAP, "gap"), "state"])];
  const rows = cells.map(([ix, iy], k) => [
    ...axes.map((_, j) => exact(spots[k][j])),
    ...curves.flatMap(({ plane }) => {
      const i = ix * plane.ny + iy, state = plane.states[i];
      return [state === MISSING ? "" : exact(plane.values[i], plane.field.type).toLowerCase(), STATES[state]];
    }),
  ]);
  download(new Blob([[heads.map(quote), ...rows].map((row) => row.join(",")).join("\n"), "\n"], { type: "text/csv" }), "profile.csv");
}

function download(blob, name) {
  const link = element(null, "a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
