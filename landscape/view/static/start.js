// Starts the page from what is written in it, and says so where it cannot.

addEventListener("DOMContentLoaded", async () => {
  const root = document.getElementById("page");
  try {
    const data = JSON.parse(document.getElementById("content").textContent);
    await new Page(root, data).start();
  } catch (error) {
    element(root, "p", { class: "failed", role: "alert" }, `This page could not be drawn: ${error.message}. It needs a browser of 2023 or later.`);
    throw error;
  }
});
