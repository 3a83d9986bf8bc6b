// Numbers as text, and arrays as they travel: exact in both.

// The shortest text that reads back as the same number of the type in which it was stored.
function exact(value, type) {
  if (Number.isNaN(value)) return "NaN";
  if (!Number.isFinite(value)) return value > 0 ? "inf" : "-inf";
  if (Object.is(value, -0)) return "-0";
  if (type === "float32") {
    for (let digits = 1; digits < 10; digits++) {
      const short = Number(value.toPrecision(digits));
      if (Math.fround(short) === value) return String(short);
    }
  }
  return String(value);
}

// A number for a tick or a sentence, in so many significant digits, with a true minus sign.
function brief(value, digits = 3) {
  if (!Number.isFinite(value)) return exact(value).replace("-", "−");
  const size = Math.abs(value);
  const text = size !== 0 && (size < 1e-4 || size >= 1e6)
    ? value.toExponential(digits - 1).replace(/\.?0+e/, "e").replace("e+", "e")
    : String(Number(value.toPrecision(digits)));
  return text.replaceAll("-", "−");
}

function percent(share) {
  if (share > 0 && share < 0.001) return "< 0.1 %";
  return share === 1 ? "100 %" : `${Math.min(100 * share, 99.9).toFixed(1)} %`;
}

const count = (n) => n.toLocaleString("en-US");

// Wilson's score interval (1927) of a share, 95 %.
function wilson(hits, num) {
  const z = 1.959963984540054, share = hits / num, z2 = (z * z) / num;
  const centre = (share + z2 / 2) / (1 + z2);
  const half = Math.sqrt(z2 * (share * (1 - share) + z2 / 4)) / (1 + z2);
  return [hits === 0 ? 0 : centre - half, hits === num ? 1 : centre + half];
}

// Names come from files of others: only ever as text, no longer than is readable, and with marks that would turn the
// text around, or that are no text at all, spelt out.
function shorten(text, most = 60) {
  const letters = Array.from(text.replace(/[\u0000-\u001f\u007f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, spelt));
  return letters.length <= most ? letters.join("") : `${letters.slice(0, most - 1).join("")}…`;
}

function spelt(mark) {
  return "\t\n\r".includes(mark) ? " " : `[U+${mark.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}]`;
}

// plotly.js reads some HTML and formulas in its texts; in these it finds none.
function plain(text, most = 40) {
  const alike = { "&": "＆", "<": "‹", ">": "›", $: "＄" };
  return shorten(text, most).replace(/[&<>$]/g, (sign) => alike[sign]);
}

const TYPES = { float32: Float32Array, float64: Float64Array, int32: Int32Array, uint8: Uint8Array };

function bytesOf(base64) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(base64);
  const text = atob(base64), bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

// An array that `_packing.pack` packed; a large one waits in a block of the page.
async function unpack(packed) {
  const data = packed.data ?? document.getElementById(`block-${packed.block}`).textContent;
  const stream = new Blob([bytesOf(data)]).stream().pipeThrough(new DecompressionStream("gzip"));
  const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
  const Type = TYPES[packed.type], num = bytes.length / Type.BYTES_PER_ELEMENT;
  return new Type(summed(bytes, num, Type.BYTES_PER_ELEMENT).buffer);
}

// Undoes the shuffling of bytes and the differences between neighbours, modulo the size of a number.
function summed(bytes, num, size) {
  if (size === 1) {
    for (let i = 1; i < num; i++) bytes[i] += bytes[i - 1];
    return bytes;
  }
  const words = size / 4, out = new Uint32Array(words * num);
  let low = 0, high = 0;
  const word = (i, at) =>
    (bytes[i + at * num] | (bytes[i + (at + 1) * num] << 8) | (bytes[i + (at + 2) * num] << 16)
      | (bytes[i + (at + 3) * num] << 24)) >>> 0;
  for (let i = 0; i < num; i++) {
    const step = word(i, 0), sum = low + step;
    low = sum >>> 0;
    out[words * i] = low;
    if (words === 2) {
      high = (high + word(i, 4) + (sum > 0xffffffff ? 1 : 0)) >>> 0;
      out[2 * i + 1] = high;
    }
  }
  return out;
}
