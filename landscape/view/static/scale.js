// Colour scales: the rules of `landscape.plotting`, and ticks for axes and legends.

const LOG_DECADES = 1.5, SIGN_SHARE = 1e-3, LINEAR_SHARE = 1e-2;

// The value below which a share of the sorted values lies, between neighbours on a line.
function quantile(sorted, share) {
  const at = share * (sorted.length - 1), low = Math.floor(at);
  const high = Math.min(low + 1, sorted.length - 1);
  return sorted[low] + (at - low) * (sorted[high] - sorted[low]);
}

// What a scale must know of the values that are shown, over all planes that share it.
function spread(planes) {
  let low = Infinity, high = -Infinity, positive = Infinity, least = Infinity, most = 0, num = 0;
  for (const { values, states } of planes) {
    for (let i = 0; i < values.length; i++) {
      if (states[i] > PREDICTED) continue;
      const value = values[i], size = Math.abs(value);
      num++;
      if (value < low) low = value;
      if (value > high) high = value;
      if (value > 0 && value < positive) positive = value;
      if (size > 0 && size < least) least = size;
      if (size > most) most = size;
    }
  }
  return { low, high, positive, least, most, num };
}

// The finite values of planes, sorted.
function sortedValues(planes) {
  const all = new Float64Array(planes.reduce((sum, { values }) => sum + values.length, 0));
  let num = 0;
  for (const { values, states } of planes) {
    for (let i = 0; i < values.length; i++) if (states[i] <= PREDICTED) all[num++] = values[i];
  }
  return all.subarray(0, num).sort();
}

function robustBounds(planes) {
  const sorted = sortedValues(planes);
  return [quantile(sorted, 0.02), quantile(sorted, 0.98)];
}

function resolveScale(planes, asked, robust, isShare) {
  const found = spread(planes);
  if (!found.num) return { kind: "linear", low: 0, high: 1, empty: true, diverging: false, unit: () => 0 };
  let [low, high] = robust ? robustBounds(planes) : [found.low, found.high];
  const wide = low > 0 && found.low > 0 && Math.log10(high) - Math.log10(low) > LOG_DECADES;
  let kind = asked === "auto" ? (wide && !isShare ? "log" : "linear") : asked;
  const noLog = kind === "log" && found.positive === Infinity;
  if (noLog) kind = "linear";
  if (kind === "log") [low, high] = [Math.max(low, found.positive), Math.max(high, found.positive)];
  if (!(low < high)) [low, high] = widened(low, kind);
  const signed = kind !== "log" && low < 0 && high > 0 && Math.min(-low, high) > SIGN_SHARE * Math.max(-low, high);
  const scale = { kind, low, high, diverging: signed, empty: false, noLog };
  scale.unit = unitOf(scale, found);
  return scale;
}

function widened(value, kind) {
  if (kind === "log") return [value / 1.1, value * 1.1];
  const margin = 0.1 * Math.abs(value) || 0.1;
  return [value - margin, value + margin];
}

// The map from values to the colours' 0 to 1.
function unitOf(scale, found) {
  const { kind, low, high, diverging } = scale;
  const half = Math.max(-low, high);
  if (kind === "log") {
    const start = Math.log(low), width = Math.log(high) - start;
    return (v) => (v > 0 ? (Math.log(v) - start) / width : 0);
  }
  if (kind === "symlog") {
    const linear = (scale.linear = Math.max(found.least === Infinity ? 1 : found.least, LINEAR_SHARE * found.most));
    const bend = (v) => {
      const size = Math.abs(v);
      return size <= linear ? v / 0.9 : Math.sign(v) * linear * (1 / 0.9 + Math.log10(size / linear));
    };
    const [start, end] = diverging ? [bend(-half), bend(half)] : [bend(low), bend(high)];
    return (v) => (bend(v) - start) / (end - start);
  }
  return diverging ? (v) => (v + half) / (2 * half) : (v) => (v - low) / (high - low);
}

// About `num` round numbers strictly inside a range.
function linearTicks(low, high, num) {
  const rough = (high - low) / Math.max(1, num);
  if (!(rough > 0) || !Number.isFinite(rough)) return [low];
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 2.5, 5, 10].find((s) => s * power >= rough * 0.999) ?? 10);
  const ticks = [];
  for (let k = Math.ceil(low / step - 1e-9); k <= high / step + 1e-9; k++) {
    ticks.push(Number((k * step).toPrecision(12)));
  }
  return ticks;
}

function logTicks(low, high, num) {
  const decades = Math.log10(high / low);
  if (decades < 0.5) return linearTicks(low, high, num);
  const every = Math.max(1, Math.ceil(decades / num));
  const steps = decades * 3 <= num + 1 ? [1, 2, 5] : decades * 2 <= num + 1 ? [1, 3] : [1];
  const ticks = [];
  for (let k = Math.floor(Math.log10(low)); k <= Math.ceil(Math.log10(high)); k++) {
    if (((k % every) + every) % every === 0) ticks.push(...steps.map((s) => Number(`${s}e${k}`)));
  }
  return ticks.filter((tick) => tick >= low * 0.9999 && tick <= high * 1.0001);
}

function scaleTicks(scale, num) {
  if (scale.kind === "log") return logTicks(scale.low, scale.high, num);
  if (scale.kind === "symlog") {
    const top = Math.max(Math.abs(scale.low), Math.abs(scale.high));
    const half = scale.linear < top ? logTicks(scale.linear, top, num / 2) : [];
    return [...half.map((v) => -v).reverse(), 0, ...half].filter((v) => v >= scale.low && v <= scale.high);
  }
  return linearTicks(scale.low, scale.high, num);
}

// Levels of contours: equal steps on the scale, inside it.
function contourLevels(scale, num) {
  let levels = scaleTicks(scale, num);
  if (scale.kind === "log" && levels.length < num / 2) {
    const ratio = scale.high / scale.low;
    levels = Array.from({ length: num }, (_, k) => scale.low * ratio ** ((k + 1) / (num + 1)));
  }
  return levels.filter((level) => level > scale.low && level < scale.high);
}

// Values ranked within their sign, to [-1, -1/4] and [1/4, 1]: Sohl-Dickstein (2024), as in `plotting.trainability`.
function equalised(plane) {
  const shown = sortedValues([plane]);
  const below = lowerBound(shown, 0), above = shown.length - below;
  const place = (k) =>
    k < below ? (below > 1 ? -1 + (0.75 * k) / (below - 1) : -1)
      : above > 1 ? 0.25 + (0.75 * (k - below)) / (above - 1) : 0.25;
  return (v) => (place(Math.min(lowerBound(shown, v), shown.length - 1)) + 1) / 2;
}

// How many of the sorted numbers are below a value.
function lowerBound(sorted, value) {
  let low = 0, high = sorted.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (sorted[middle] < value) low = middle + 1;
    else high = middle;
  }
  return low;
}

// Colours as the 32-bit numbers of an image (little-endian RGBA).
function rgba(hex) {
  const n = parseInt(hex.slice(1, 7), 16);
  return ((255 << 24) | ((n & 255) << 16) | (n & 0xff00) | (n >> 16)) >>> 0;
}

// One colour for each point of a plane.
function paint(plane, unit, shades, palette) {
  const table = Uint32Array.from(shades, rgba);
  const notFinite = rgba(palette.not_finite), missing = rgba(palette.not_computed);
  const { values, states } = plane, colours = new Uint32Array(values.length);
  for (let i = 0; i < values.length; i++) {
    const state = states[i];
    if (state > PREDICTED) colours[i] = state === MISSING ? missing : notFinite;
    else colours[i] = table[Math.min(255, Math.max(0, Math.floor(unit(values[i]) * 256)))];
  }
  return colours;
}

// The same for kinds; all but the chosen one are pale.
function paintKinds(plane, categories, chosen, palette) {
  const notFinite = rgba(palette.not_finite), missing = rgba(palette.not_computed);
  const table = new Map(categories.map((c) => [c.value, rgba(chosen === null || chosen === c.value ? c.color : pale(c.color))]));
  return Uint32Array.from(plane.values, (v, i) =>
    plane.states[i] > PREDICTED ? (plane.states[i] === MISSING ? missing : notFinite) : table.get(v) ?? missing);
}

function pale(hex) {
  const n = parseInt(hex.slice(1), 16);
  const mixed = [n >> 16, (n >> 8) & 255, n & 255].map((c) => Math.round(c + 0.8 * (255 - c)));
  return `#${mixed.map((c) => c.toString(16).padStart(2, "0")).join("")}`;
}
