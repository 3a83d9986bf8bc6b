// What is known of each landscape of a page: outputs unpacked when they are wanted, planes cut out of them.

const MEASURED = 0, PREDICTED = 1, NOT_FINITE = 2, MISSING = 3;
const STATES = ["measured", "predicted", "not finite", "not computed"];
const GAP = "\u0000gap"; // test minus train, which the page takes itself

class Landscape {
  constructor(data) {
    Object.assign(this, { data, title: data.title, outputs: { ...data.outputs }, fields: new Map() });
    const { outputs } = this;
    if (outputs.train_loss && outputs.test_loss && !outputs.gap && !outputs.generalization_gap) {
      outputs[GAP] = {
        ...outputs.test_loss, label: "gap: test loss − train loss", stored: "float64", derived: ["test_loss", "train_loss"],
        sem: null, role: "number", promise: `both losses are ${outputs.test_loss.promise}`,
      };
    }
  }

  async open() {
    const arrays = (packed) => Promise.all(Object.entries(packed).map(async ([k, v]) => [k, await unpack(v)]));
    this.axes = await Promise.all(this.data.axes.map(async (axis) => ({
      ...axis, values: await unpack(axis.values), edges: await unpack(axis.edges),
    })));
    this.shape = this.axes.map((axis) => axis.values.length);
    this.strides = this.shape.map((_, i) => this.shape.slice(i + 1).reduce((a, b) => a * b, 1));
    this.size = this.shape.reduce((a, b) => a * b, 1);
    this.computed = this.data.computed ? await unpack(this.data.computed) : null;
    this.paths = await Promise.all(Object.entries(this.data.paths).map(async ([label, path]) => ({
      label, ...Object.fromEntries(await arrays(path)),
    })));
    this.points = Object.fromEntries(await arrays(this.data.points));
    return this;
  }

  sameGrid(other) {
    return this.shape.join() === other.shape.join() && this.axes.every((axis, k) =>
      axis.name === other.axes[k].name && axis.values.every((v, i) => v === other.axes[k].values[i]));
  }

  // All values of an output, in the order of the store.
  field(name) {
    if (!this.fields.has(name)) this.fields.set(name, this.unpacked(name));
    return this.fields.get(name);
  }

  async unpacked(name) {
    const output = this.outputs[name];
    if (!output.derived) return { name, output, type: output.values.type, values: await unpack(output.values) };
    const [a, b] = await Promise.all(output.derived.map((part) => this.field(part)));
    return { name, output, type: "float64", values: Float64Array.from(a.values, (v, i) => v - b.values[i]) };
  }

  state(field, at) {
    const measured = !this.computed || this.computed[at] === 1;
    if (Number.isFinite(field.values[at])) return measured ? MEASURED : field.output.predicts ? PREDICTED : MISSING;
    return measured ? NOT_FINITE : MISSING;
  }

  flat(index) {
    return index.reduce((sum, i, k) => sum + i * this.strides[k], 0);
  }

  // The plane of two axes through a point: `values[ix * ny + iy]`. One axis makes a plane of one row.
  plane(field, [kx, ky], index) {
    const nx = this.shape[kx], ny = ky === undefined ? 1 : this.shape[ky];
    const values = new field.values.constructor(nx * ny), states = new Uint8Array(nx * ny);
    const dx = this.strides[kx], dy = ky === undefined ? 0 : this.strides[ky];
    const start = this.flat(index) - index[kx] * dx - (ky === undefined ? 0 : index[ky] * dy);
    for (let ix = 0, k = 0; ix < nx; ix++) {
      for (let iy = 0, at = start + ix * dx; iy < ny; iy++, k++, at += dy) {
        values[k] = field.values[at];
        states[k] = this.state(field, at);
      }
    }
    return { nx, ny, values, states, field };
  }
}

// The difference of two planes of one output; of labels, where they differ.
function difference(a, b) {
  const output = a.field.output, kinds = output.role === "labels";
  const states = a.states.map((state, i) => Math.max(state, b.states[i]));
  const values = Float64Array.from(a.values, (v, i) => (kinds ? Number(v !== b.values[i]) : v - b.values[i]));
  for (let i = 0; i < values.length; i++) if (!Number.isFinite(values[i]) && states[i] <= PREDICTED) states[i] = NOT_FINITE;
  const categories = [{ value: 0, name: "the same", color: "#e8e8e8" }, { value: 1, name: "different", color: "#d55e00" }];
  const made = { ...output, role: kinds ? "labels" : "number", categories, sem: null };
  return { ...a, values, states, field: { ...a.field, type: "float64", output: made } };
}

// A coordinate's place along an axis, 0 to 1 from edge to edge.
function placeOn(axis, value) {
  const { edges, log } = axis, turn = log ? Math.log : (v) => v;
  const low = turn(edges[0]), high = turn(edges[edges.length - 1]);
  return (turn(value) - low) / (high - low);
}

// Index of the cell at a place along an axis.
function cellAt(axis, place) {
  axis.places ??= Float64Array.from(axis.edges, (edge) => placeOn(axis, edge));
  return Math.min(axis.values.length - 1, Math.max(0, lowerBound(axis.places, place) - 1));
}

const NO_AXIS = { name: "", label: "", values: Float64Array.of(0), edges: Float64Array.of(-0.5, 0.5), log: false };
