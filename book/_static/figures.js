// A click on a figure opens it over the page, at its own size. Without this script the link does.
document.addEventListener("DOMContentLoaded", () => {
  const dialog = document.createElement("dialog");
  dialog.className = "figure-dialog";
  dialog.setAttribute("aria-label", "Figure, larger. Escape closes it.");
  dialog.innerHTML = '<form method="dialog"><button aria-label="Close">×</button></form><div tabindex="0"></div>';
  document.body.append(dialog);
  const frame = dialog.querySelector("div");
  for (const link of document.querySelectorAll("a.figure-link, a.image-reference")) {
    const img = link.querySelector("img");
    if (!img || !dialog.showModal) continue;
    link.addEventListener("click", (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
      event.preventDefault();
      const large = document.createElement("img");
      large.src = img.currentSrc || img.src;
      large.alt = img.alt;
      frame.replaceChildren(large);
      dialog.showModal();
    });
  }
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
});
