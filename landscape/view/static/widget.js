// A live page in a notebook: asks the kernel by the messages of its widget.

// plotly.js is a script, not a module: it runs once in the page, and leaves `Plotly` there.
async function loadPlotly(source) {
  if (globalThis.Plotly) return;
  const script = document.createElement("script"), url = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
  await new Promise((resolve, reject) => {
    Object.assign(script, { src: url, onload: resolve, onerror: () => reject(new Error("plotly.js did not load")) });
    document.head.append(script);
  });
  URL.revokeObjectURL(url);
}

async function render({ model, el }) {
  await loadPlotly(model.get("plotly"));
  const root = element(el, "div", { class: "landscape-page" });
  const page = new LivePage(root, model.get("content"), (request) => model.send(request));
  model.on("msg:custom", (message) => page.receive(message));
  page.begin();
}

export default { render };
