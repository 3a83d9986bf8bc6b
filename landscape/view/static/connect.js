// A live page of a server: asks the server that it came from, by a socket of its own.

addEventListener("DOMContentLoaded", () => {
  const root = document.getElementById("page");
  const data = JSON.parse(document.getElementById("content").textContent);
  const socket = new WebSocket(`ws://${location.host}${location.pathname}live`);
  const page = new LivePage(root, data, (request) => socket.readyState === 1 && socket.send(JSON.stringify(request)));
  socket.addEventListener("open", () => page.begin());
  socket.addEventListener("message", (event) => page.receive(JSON.parse(event.data)));
  socket.addEventListener("close", () => {
    if (!page.main) page.frame();
    page.say("The server has ended; what is shown stays.");
  });
});
